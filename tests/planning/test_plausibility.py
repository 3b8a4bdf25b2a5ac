"""Plausibility: the score of a Gaussian in closed form, and what is chosen by it."""

import numpy as np
import pytest
import torch
from toys import tiny_model, walk

from pgdiff import Planner
from pgdiff.diffusion import Known
from pgdiff.diffusion.schedules import factors
from pgdiff.planning import Plausibility
from pgdiff.validation import PgdiffError

EPISODES = walk()
MODEL = tiny_model(EPISODES)
HERE = EPISODES.observations[7]


class Push:
    """A guide that pushes the second way-point away; a little suffices."""

    name, at, scale = "push", "x0", 40.0

    def energy(self, segment, level):  # type: ignore[no-untyped-def]
        return 3 * segment.observations[:, 1:, 0].sum(dim=1)


def test_moves_are_the_length_of_a_gaussians_score(monkeypatch: pytest.MonkeyPatch) -> None:
    """For independent features of mean 0 and variance v, `sigma |grad log p| = sigma |z| / var`."""
    variance = 0.3

    def denoise(x, level, condition=None):  # type: ignore[no-untyped-def]
        alpha, sigma = factors(MODEL.schedule, level)
        return alpha * variance / (alpha**2 * variance + sigma**2) * x

    monkeypatch.setattr(MODEL, "denoise", denoise)
    generator = torch.Generator().manual_seed(3)
    x = torch.randn((5, MODEL.layout.horizon, MODEL.layout.features), generator=generator)
    known = Known(MODEL.pattern("start")[None], torch.zeros_like(x[:1]).expand_as(x))
    judge = Plausibility(log_snr=1.5, tokens=None)
    alpha, sigma = (
        float(f)
        for f in factors(
            MODEL.schedule, MODEL.schedule.level_at(torch.tensor([[1.5]], dtype=torch.float64))
        )
    )
    # The pair's noise cancels: what is left is E[x0 | alpha x] - x, times 1 / sigma.
    shrunk = alpha**2 * variance / (alpha**2 * variance + sigma**2)
    expected = ((1 - shrunk) / sigma) * x[:, 1:].norm(dim=-1).amax(dim=1)
    found = judge.moves(MODEL, x, known)
    error = float((found / expected - 1).abs().max())
    print(f"\nlargest relative error {error:.1e}")
    assert error < 1e-4


def test_only_the_first_tokens_and_the_named_features_count() -> None:
    x = torch.zeros(1, MODEL.layout.horizon, MODEL.layout.features)
    known = Known(MODEL.pattern("start")[None], x)
    all_of_it = Plausibility(tokens=None).moves(MODEL, x, known)
    first = Plausibility(tokens=1).moves(MODEL, x, known)
    some = Plausibility(tokens=1, features=(0,)).moves(MODEL, x, known)
    assert all_of_it >= first >= some


def test_the_best_of_the_plausible_is_chosen() -> None:
    judge = Plausibility(limit=1.0)
    scores = np.array([[1.0, 3.0, 2.0], [1.0, 3.0, 2.0], [np.nan] * 3])
    moves = np.array([[0.5, 1.5, 0.9], [4.0, 2.0, 3.0], [2.0, 0.4, 0.3]])
    assert judge.best(scores, moves).tolist() == [2, 1, 1]


def test_factors_are_shared_out_among_the_candidates() -> None:
    """A candidate of factor f is that of a guide f times as strong, with the same noise."""
    options = {"model": MODEL, "candidates": 3, "steps": 4, "clip": None}
    shared = Planner(guides=[Push()], scale_factors=[1.0, 0.0, 0.5], **options).plan(HERE)  # type: ignore[arg-type]
    whole = Planner(guides=[Push()], **options).plan(HERE)  # type: ignore[arg-type]
    unguided = Planner(**options).plan(HERE)  # type: ignore[arg-type]
    half = Push()
    half.scale = 20.0
    weak = Planner(guides=[half], **options).plan(HERE)  # type: ignore[arg-type]
    for number, same in enumerate((whole, unguided, weak)):
        np.testing.assert_allclose(
            shared.candidates[number], same.candidates[number], rtol=1e-5, atol=1e-5
        )
    assert np.abs(whole.candidates[0] - unguided.candidates[0]).max() > 0.1


def test_a_planner_refuses_what_was_pushed_off_the_data() -> None:
    options = {"model": MODEL, "candidates": 4, "steps": 5, "clip": None}
    guided = {"guides": [Push()], "scale_factors": [1.0, 0.0], **options}
    rash = Planner(**guided).plan(HERE)  # type: ignore[arg-type]
    measured = Planner(plausibility=Plausibility(limit=1e9), **guided).plan(HERE)  # type: ignore[arg-type]
    assert measured.moves is not None and measured.best == rash.best and rash.moves is None
    limit = float(np.sort(measured.moves)[1:3].mean())
    careful = Planner(plausibility=Plausibility(limit=limit), **guided).plan(HERE)  # type: ignore[arg-type]
    assert careful.moves is not None and careful.moves[careful.best] <= limit
    assert rash.best in (0, 2) and careful.best in (1, 3)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"limit": 0.0}, "`limit` must be"),
        ({"limit": float("nan")}, "`limit` must be"),
        ({"pairs": 0}, "`pairs` must be"),
        ({"tokens": 0}, "`tokens` must be"),
        ({"features": (-1,)}, "`features` must be"),
        ({"features": "xy"}, "`features` must be"),
    ],
)
def test_bad_settings_are_named(settings: dict[str, object], message: str) -> None:
    with pytest.raises(PgdiffError, match=message):
        Plausibility(**settings)  # type: ignore[arg-type]


@pytest.mark.parametrize("factors", [[], [-0.5], [float("nan")], "half", 0.5])
def test_bad_factors_are_named(factors: object) -> None:
    with pytest.raises(PgdiffError, match="`scale_factors` must be"):
        Planner(MODEL, scale_factors=factors)  # type: ignore[arg-type]
    with pytest.raises(PgdiffError, match="`plausibility` must be a Plausibility"):
        Planner(MODEL, plausibility=factors or 1.0)  # type: ignore[arg-type]


def test_features_that_the_model_has_not_are_named() -> None:
    with pytest.raises(PgdiffError, match=r"the 4 of an observation\. Got \[0, 4\]"):
        Planner(MODEL, plausibility=Plausibility(features=(0, 4)))
