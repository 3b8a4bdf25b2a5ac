"""Plausibility: the score of a Gaussian in closed form, and the choice by it."""

from typing import Any

import numpy as np
import pytest
import torch
from toys import flat_planner, tiny_model, walk

from pgdiff.core.validation import PgdiffError
from pgdiff.diffusion import Inpainting
from pgdiff.diffusion.schedules import factors
from pgdiff.planning import Plausibility, Selection

EPISODES = walk()
MODEL = tiny_model(EPISODES)
HERE = EPISODES.observations[7]


class GuideStep:
    """A guide that pushes the second way-point away; a little suffices."""

    name, gradient_at, scale = "push", "x0", 40.0

    def objective(self, segment, level):  # type: ignore[no-untyped-def]
        return 3 * segment.observations[:, 1:, 0].sum(dim=1)


def test_moves_are_the_length_of_a_gaussians_score(monkeypatch: pytest.MonkeyPatch) -> None:
    """For independent features of mean 0 and variance v, `sigma |grad log p| = sigma |z| / var`."""
    variance = 0.3

    def denoise(x, level, condition=None):  # type: ignore[no-untyped-def]
        alpha, sigma = factors(MODEL.process.noise_schedule, level)
        return alpha * variance / (alpha**2 * variance + sigma**2) * x

    monkeypatch.setattr(MODEL, "denoise", denoise)
    generator = torch.Generator().manual_seed(3)
    x = torch.randn(
        (5, MODEL.codec.layout.horizon, MODEL.codec.layout.features), generator=generator
    )
    known = Inpainting(MODEL.codec.pattern("start")[None], torch.zeros_like(x[:1]).expand_as(x))
    judge = Plausibility(log_snr=1.5, tokens=None)
    alpha, sigma = (
        float(f)
        for f in factors(
            MODEL.process.noise_schedule,
            MODEL.process.noise_schedule.level_at(torch.tensor([[1.5]], dtype=torch.float64)),
        )
    )
    # The pair's noise cancels, which leaves E[x0 | alpha x] - x, times 1 / sigma.
    shrunk = alpha**2 * variance / (alpha**2 * variance + sigma**2)
    expected = ((1 - shrunk) / sigma) * x[:, 1:].norm(dim=-1).amax(dim=1)
    found = judge.moves(MODEL, x, known)
    error = float((found / expected - 1).abs().max())
    print(f"\nlargest relative error {error:.1e}")
    assert error < 1e-4


def test_only_the_first_tokens_and_the_named_features_count() -> None:
    x = torch.zeros(1, MODEL.codec.layout.horizon, MODEL.codec.layout.features)
    known = Inpainting(MODEL.codec.pattern("start")[None], x)
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
    """A candidate of factor f equals that of a guide f times as strong, with equal noise."""
    options = {"model": MODEL, "candidates": 3, "steps": 4, "clip": None}
    shared = flat_planner(guides=[GuideStep()], scale_factors=[1.0, 0.0, 0.5], **options).plan(HERE)  # type: ignore[arg-type]
    whole = flat_planner(guides=[GuideStep()], **options).plan(HERE)  # type: ignore[arg-type]
    unguided = flat_planner(**options).plan(HERE)  # type: ignore[arg-type]
    half = GuideStep()
    half.scale = 20.0
    weak = flat_planner(guides=[half], **options).plan(HERE)  # type: ignore[arg-type]
    for number, same in enumerate((whole, unguided, weak)):
        np.testing.assert_allclose(
            shared.candidates[number], same.candidates[number], rtol=1e-5, atol=1e-5
        )
    assert np.abs(whole.candidates[0] - unguided.candidates[0]).max() > 0.1


def test_a_planner_refuses_what_was_pushed_off_the_data() -> None:
    options = {"model": MODEL, "candidates": 4, "steps": 5, "clip": None}
    guided = {"guides": [GuideStep()], "scale_factors": [1.0, 0.0], **options}
    rash = flat_planner(**guided).plan(HERE)  # type: ignore[arg-type]
    measured = flat_planner(plausibility=Plausibility(limit=1e9), **guided).plan(HERE)  # type: ignore[arg-type]
    assert measured.moves is not None and measured.best == rash.best and rash.moves is None
    limit = float(np.sort(measured.moves)[1:3].mean())
    careful = flat_planner(plausibility=Plausibility(limit=limit), **guided).plan(HERE)  # type: ignore[arg-type]
    assert careful.moves is not None and careful.moves[careful.best] <= limit
    assert rash.best in (0, 2) and careful.best in (1, 3)


def test_bad_settings_are_named() -> None:
    cases: list[tuple[str, Any]] = [
        ("limit", 0.0),
        ("limit", float("nan")),
        ("pairs", 0),
        ("tokens", 0),
        ("features", (-1,)),
        ("features", "xy"),
    ]
    for name, value in cases:
        with pytest.raises(PgdiffError, match=f"`{name}` must be"):
            Plausibility(**{name: value})
    ladders: list[Any] = [[], [-0.5], [float("nan")], "half", 0.5]
    for ladder in ladders:
        with pytest.raises(PgdiffError, match="`scale_ladder` must be"):
            Selection(scale_ladder=ladder)
        with pytest.raises(PgdiffError, match="`plausibility` must be a Plausibility"):
            Selection(plausibility=ladder)


def test_features_that_the_model_has_not_are_named() -> None:
    with pytest.raises(PgdiffError, match=r"must be below 4, .* of an observation\. Got \[0, 4\]"):
        flat_planner(MODEL, plausibility=Plausibility(features=(0, 4)))
