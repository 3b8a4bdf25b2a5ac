"""Likelihood of segments under a model: a closed form, and noisy segments."""

from typing import Any

import numpy as np
import pytest
from toys import flat_model

from pgdiff import Episodes, PgdiffError, TrajectoryDiffusion
from pgdiff.denoisers import TemporalUnetConfig, TransformerConfig
from pgdiff.evaluation.fidelity.likelihoods import model_likelihood


def noise(*, scale: float = 1.0, length: int = 8, episodes: int = 200, seed: int = 0) -> Episodes:
    """Return independent normal rows."""
    source = np.random.default_rng(seed)
    rows = episodes * length
    return Episodes.from_arrays(
        observations=scale * source.normal(size=(rows, 2)),
        actions=scale * source.normal(size=(rows, 1)),
        rewards=np.zeros(rows),
        terminals=np.zeros(rows, bool),
        timeouts=np.arange(rows) % length == length - 1,
    )


@pytest.fixture(scope="module")
def model() -> TrajectoryDiffusion:
    return flat_model(
        noise(),
        horizon=4,
        fields=("observations", "actions"),
        known=("none",),
        normalizer="standard",
        denoiser=TransformerConfig(width=16, depth=1, heads=2),
    )


def exact(self: TrajectoryDiffusion, x: Any, level: Any, context: Any) -> Any:
    """Return the clean estimate for independent standard normal features, in closed form."""
    alpha, sigma = (
        f(level) for f in (self.process.noise_schedule.alpha, self.process.noise_schedule.sigma)
    )
    return (alpha / (alpha.square() + sigma.square()))[..., None] * x


def test_standard_normal_rows_have_the_closed_form(
    model: TrajectoryDiffusion, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(TrajectoryDiffusion, "_estimate", exact)
    for scale in (1.0, 2.0):
        found = model_likelihood(model, noise(scale=scale, seed=1), segments=200, steps=50)
        # For a feature of deviation s under the standard normal law.
        wanted = -0.5 * np.log(2 * np.pi) - 0.5 * scale**2
        print(f"\ndeviation {scale}: {found.mean:.3f} +- {found.standard_error:.3f}, {wanted:.3f}")
        assert (found.segments, found.tokens) == (200, 3)
        assert abs(found.mean - wanted) < 4 * found.standard_error + 0.01


def test_a_unet_is_called_with_a_number_of_tokens_that_it_takes() -> None:
    model = flat_model(
        noise(),
        horizon=8,
        fields=("observations", "actions"),
        known=("none",),
        normalizer="standard",
        denoiser=TemporalUnetConfig(width=8, mults=(1, 2), groups=4),
    )
    found = model_likelihood(model, noise(length=7), segments=3, steps=4)
    assert (found.segments, found.tokens) == (3, 6)
    assert np.isfinite(found.mean)


def test_the_same_seed_twice(model: TrajectoryDiffusion) -> None:
    one, again = (model_likelihood(model, noise(), segments=4, steps=4) for _ in range(2))
    assert one == again


def test_what_holds_no_segment_is_named(model: TrajectoryDiffusion) -> None:
    nothing = model_likelihood(model, noise(length=2), segments=4)
    assert np.isnan(nothing.mean)
    assert (nothing.segments, nothing.tokens) == (0, 3)
    with pytest.raises(PgdiffError, match="`segments` must be"):
        model_likelihood(model, noise(), segments=0)
