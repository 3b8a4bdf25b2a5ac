"""Objectives of tokens, objectives without a gradient, and trajectories that they forbid."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from toys import flat_planner, tiny_model, walk

from pgdiff import Sampling
from pgdiff.core.validation import PgdiffError
from pgdiff.diffusion import DDPM, Resample
from pgdiff.guides import Goal, GradientGuide, Sum
from pgdiff.trajectory import Segment

MODEL = tiny_model(walk())
PLAIN = Sampling(steps=2)
PARTICLES = Sampling(steps=6, solver=DDPM(), particles=Resample())


class Near:
    """Plans stay near the origin, by their segments."""

    name, scale = "near", 0.05

    def __init__(self, gradient_at: str) -> None:
        self.gradient_at = gradient_at

    def objective(self, segment: Segment, level: Tensor) -> Tensor:
        return -segment.observations[..., :2].square().sum((1, 2))


class NearByTokens:
    """The same function, by the tokens."""

    name, scale = "near", 0.05

    def __init__(self, gradient_at: str) -> None:
        self.gradient_at = gradient_at

    def objective_of_tokens(self, x: Tensor, level: Tensor, context: Any) -> Tensor:
        assert context is None
        return Near.objective(self, MODEL.codec.decode(x), level)  # type: ignore[arg-type]


class BlackBox:
    """Ranks plans by NumPy; forbids those whose last position lies left of `limit`."""

    name, gradient_at, differentiable = "black box", "x0", False

    def __init__(self, limit: float = -np.inf, scale: float = 0.0) -> None:
        self.limit, self.scale = limit, scale

    def objective(self, segment: Segment, level: Tensor) -> np.ndarray:
        last = segment.observations[:, -1, 0].numpy()
        return np.where(last < self.limit, -np.inf, np.round(last, 1))


def test_an_objective_of_tokens_is_that_of_their_segments() -> None:
    for place in ("x0", "x", "denoiser"):
        for sampling in (Sampling(steps=4), PARTICLES):
            by_segments, by_tokens = (
                MODEL.sample(8, sampling, guides=[kind(place)], seed=1)
                for kind in (Near, NearByTokens)
            )
            assert torch.equal(by_segments.x, by_tokens.x)
            assert torch.equal(by_segments.objective, by_tokens.objective)
    assert not torch.equal(by_tokens.x, MODEL.sample(8, PARTICLES, seed=1).x)


def test_a_subclass_may_have_an_objective_of_tokens() -> None:
    class Small(GradientGuide):
        def objective_of_tokens(self, x: Tensor, level: Tensor, context: Any) -> Tensor:
            return -x.square().sum((1, 2))

    samples = MODEL.sample(2, guides=[Small(name="small", scale=0.01)], seed=1)
    assert torch.equal(samples.objective, -samples.x.square().sum((1, 2)))


def test_a_black_box_ranks_candidates() -> None:
    free = flat_planner(MODEL, candidates=16, steps=4).plan(np.zeros(4), seed=2)
    ends = free.candidates[:, -1, 0]
    limit = float(np.sort(ends)[8])
    plan = flat_planner(MODEL, guides=[BlackBox(limit)], candidates=16, steps=4).plan(
        np.zeros(4), seed=2
    )
    np.testing.assert_array_equal(plan.candidates, free.candidates)
    np.testing.assert_array_equal(np.isneginf(plan.scores), ends < limit)
    assert plan.best == np.where(ends < limit, -np.inf, np.round(ends, 1)).argmax()


def test_a_black_box_weighs_particles() -> None:
    free = MODEL.sample(512, PARTICLES, seed=3)
    limit = float(free.x[:, -1, 0].median())
    place = float(MODEL.codec.decode(free.x).observations[:, -1, 0].median())
    for scale in (1.0, 20.0):
        samples = MODEL.sample(512, PARTICLES, guides=[BlackBox(place, scale=scale)], seed=3)
        assert torch.isfinite(samples.objective).all()
        assert (samples.x[:, -1, 0] >= limit - 1e-5).all()


@pytest.mark.usefixtures("unchecked")
def test_what_a_black_box_must_not_do_is_named() -> None:
    def sample(guide: Any, sampling: Sampling = PLAIN) -> Tensor:
        return MODEL.sample(4, sampling, guides=[guide], seed=1).objective

    class Broken(BlackBox):
        def __init__(self, value: float, **options: Any) -> None:
            super().__init__(**options)
            self.value = value

        def objective(self, segment: Segment, level: Tensor) -> np.ndarray:
            return np.full(len(segment.observations), self.value)

    everything = BlackBox(limit=np.inf)
    message = "`scale` of 'black box' must be 0, .* Got 2. .*particles"
    with pytest.raises(PgdiffError, match=message):
        sample(BlackBox(scale=2.0))
    with pytest.raises(PgdiffError, match=message):
        flat_planner(MODEL, guides=[BlackBox(scale=2.0)])
    for value in (np.nan, np.inf):
        for sampling, scale in ((PLAIN, 0.0), (PARTICLES, 1.0)):
            with pytest.raises(PgdiffError, match=r"must be finite, or -inf .* Got (nan|inf)"):
                sample(Broken(value, scale=scale), sampling)
    message = "'black box' must be finite for at least one of the 4 .* group 0"
    with pytest.raises(PgdiffError, match=message):
        sample(everything)
    with pytest.raises(PgdiffError, match=message):
        sample(BlackBox(limit=np.inf, scale=1.0), PARTICLES)
    planner = flat_planner(MODEL, guides=[everything], candidates=4, steps=2)
    with pytest.raises(PgdiffError, match=message):
        planner.plan_batch(np.zeros((2, 4)), seeds=[1, 2])
    for member in (BlackBox(scale=1.0), NearByTokens("x0")):
        with pytest.raises(PgdiffError, match=r"of a Sum must have|must have the attrib"):
            Sum([Goal((0.0, 0.0)), member])  # type: ignore[list-item]
