"""Density of recorded segments under a model, in raw units."""

from typing import Any

import numpy as np
import pytest
import torch
from toys import DOUBLE, fit, flat_model, record, tiny_model

from pgdiff import Episodes, TrajectoryDiffusion
from pgdiff.core.validation import PgdiffError
from pgdiff.denoisers import TransformerConfig
from pgdiff.training.learner import to_tensors


def line(rows: int = 4000) -> Episodes:
    """Return episodes of independent random numbers."""
    places = np.random.default_rng(0).uniform(-1, 3, (rows, 1))
    return record(places, np.zeros((rows, 1)), np.zeros(rows), lengths=[rows // 4] * 4)


def segments(model: TrajectoryDiffusion, places: torch.Tensor, start: float) -> Any:
    """Return segments of two tokens from `start` to each of `places`."""
    raw = model.dataset(line()).batch(np.zeros(len(places), int))
    observations = torch.stack([torch.full_like(places, start), places], dim=1)[..., None]
    return to_tensors(raw, torch.device("cpu"))._replace(observations=observations)


def test_the_density_in_raw_units_integrates_to_one() -> None:
    """Independent and uniform on [-1, 3]: about 1/4 there, and 1 in total for any training."""
    episodes = line()
    model = flat_model(
        episodes,
        horizon=2,
        position=(0,),
        denoiser=TransformerConfig(width=32, depth=1, heads=2),
    )
    model = fit(model, episodes, steps=200, batch_size=128).double()
    places = torch.linspace(-3.0, 5.0, 801, dtype=DOUBLE)
    result = model.log_likelihood(segments(model, places, 0.3), steps=30)
    density = result.value.exp()
    total = float(torch.trapezoid(density, places))
    middle = float(density[(places > -0.5) & (places < 2.5)].mean())
    print(f"\nintegral {total:.4f}; mean density in the middle {middle:.3f}, true 0.25")
    assert total == pytest.approx(1.0, abs=0.01)
    assert (result.standard_error == 0).all()


def test_hutchinson_is_reproducible_and_other_patterns_are_refused() -> None:
    model = tiny_model(line(), horizon=2, stride=1, position=(0,))
    batch = segments(model, torch.tensor([0.0, 1.0]), 0.3)
    first, again, other = (
        model.log_likelihood(batch, method="hutchinson", probes=4, steps=5, seed=seed).value
        for seed in (1, 1, 2)
    )
    assert torch.equal(first, again)
    assert first.shape == other.shape == (2,)
    with pytest.raises(PgdiffError, match="`pattern` must be"):
        model.log_likelihood(batch, pattern="begin")
