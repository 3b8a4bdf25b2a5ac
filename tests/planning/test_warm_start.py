"""Plans that are kept, and plans from which new ones start."""

import itertools
import math
from typing import Any

import numpy as np
import pytest
import torch
from toys import flat_model, flat_planner, generator, stir, tiny_model, walk

from pgdiff import (
    Planner,
    Replanning,
    Selection,
    TrajectoryDiffusion,
    TransitionValue,
    WarmStart,
)
from pgdiff.core.validation import PgdiffError
from pgdiff.denoisers import TransformerConfig
from pgdiff.diffusion import (
    DDIM,
    DDPM,
    CosineSchedule,
    EpsilonPrediction,
    LinearSchedule,
    SamplerStep,
    UniformSpacing,
)
from pgdiff.guides import Value
from pgdiff.planning import PLANNING
from pgdiff.planning.replanning import PreviousPlan, candidate_levels, shift_plans, start_noise
from pgdiff.trajectory import Segment

EPISODES = walk()
MODEL = tiny_model(EPISODES)
VALUE = stir(TransitionValue.from_episodes(EPISODES, stride=3, width=16, depth=1))
RNG = np.random.default_rng(0)
OBSERVATIONS = RNG.uniform(-1, 1, (4, 4)).astype(np.float32)
PLANS = RNG.uniform(-0.8, 0.8, (4, 6, 4)).astype(np.float32)


def make(**options: Any) -> Planner:
    settings: dict[str, Any] = {
        "model": MODEL,
        "guides": [Value(VALUE, scale=0.02)],
        "candidates": 5,
        "steps": 4,
        "device": "cpu",
    }
    return flat_planner(**(settings | options))


def followed(age: int, *, missing: tuple[int, ...] = ()) -> PreviousPlan:
    """Return the rest of `PLANS` after `age` steps, except for environments that have none."""
    ages = np.array([-1 if i in missing else age for i in range(4)])
    return shift_plans(PLANS, None, ages, 3)


# ------------------------------------------------------------------------------------- the parts


def test_levels_of_candidates() -> None:
    exists = np.array([True, False, True])
    for keep, warm, share in itertools.product((False, True), (None, 0.3), (0.0, 0.25, 0.5, 1.0)):
        warm_start = None if warm is None else WarmStart(level=warm, share=share)
        levels = candidate_levels(exists, candidates=6, keep=keep, warm_start=warm_start)
        expected = []
        for has in exists:
            others = [1.0] * (5 if keep else 6)
            if warm is not None:
                count = math.ceil(share * len(others))
                others[:count] = [warm] * count
            expected += (([0.0] if keep else []) + others) if has else [1.0] * 6
        np.testing.assert_allclose(levels.numpy(), expected)


def test_noise_is_that_of_the_schedule_and_level_1_knows_nothing() -> None:
    for schedule in (CosineSchedule(), LinearSchedule()):
        check_start_noise(schedule)


def check_start_noise(schedule: Any) -> None:
    x0, noise = torch.randn(2, 3, 4, 2, generator=generator(0), dtype=torch.float64)
    level = torch.rand(3, 4, generator=generator(1), dtype=torch.float64)
    level[0], level[1] = 0.0, 1.0
    x = start_noise(schedule, x0, noise, level)
    assert torch.equal(x[0], x0[0])
    other = start_noise(schedule, -x0, noise, level)
    torch.testing.assert_close(x[1], schedule.sigma(level[1])[:, None] * noise[1])
    assert torch.equal(x[1], other[1])
    alpha, sigma = schedule.alpha(level[2])[:, None], schedule.sigma(level[2])[:, None]
    torch.testing.assert_close(x[2], alpha * x0[2] + sigma * noise[2])


# ---------------------------------------------------------------------------------- plans kept


def test_the_kept_candidate_is_the_old_plan_cut_off() -> None:
    for age, solver in ((0, None), (3, DDPM()), (4, None), (40, DDPM())):
        check_kept(age, solver)


def check_kept(age: int, solver: Any) -> None:
    previous = followed(age, missing=(2,))
    planner = make(keep_plan=True, solver=solver)
    plans = planner.plan_batch(OBSERVATIONS, seeds=range(4), previous=previous)
    for i, plan in enumerate(plans):
        kept = np.concatenate([OBSERVATIONS[i, None], previous.observations[i, 1:]])
        same = np.abs(plan.candidates[0] - kept).max() < 1e-5
        assert same == (i != 2), "an environment without a plan has nothing to keep"
        assert np.abs(plan.candidates[1:] - kept).max(axis=(1, 2)).min() > 1e-2
        # The guide's score of the result is never below that of the old plan.
        objective = planner.guides[0].objective(
            Segment(observations=torch.tensor(kept)[None], stride=3), torch.zeros(1, 6)
        )
        assert plan.scores.max() == plan.scores[plan.best]
        if i != 2:
            np.testing.assert_allclose(plan.scores[0], objective.item(), rtol=1e-4, atol=1e-5)


def test_others_are_drawn_as_without_a_plan_that_is_kept() -> None:
    kept, plain = (
        make(keep_plan=keep).plan_batch(OBSERVATIONS, seeds=range(4), previous=followed(3))
        for keep in (True, False)
    )
    for one, other in zip(kept, plain, strict=True):
        np.testing.assert_allclose(one.candidates[1:], other.candidates[1:], atol=1e-4)


@pytest.mark.parametrize("options", [{"guides": ()}, {"candidates": 1}])
def test_nothing_is_kept_where_nothing_is_chosen(options: dict[str, Any]) -> None:
    """Otherwise the kept plan, the first or only candidate, would be followed for ever."""
    kept, plain = (
        make(keep_plan=keep, **options).plan_batch(
            OBSERVATIONS, seeds=range(4), previous=followed(3)
        )
        for keep in (True, False)
    )
    for one, other in zip(kept, plain, strict=True):
        assert np.array_equal(one.candidates, other.candidates)


@pytest.mark.parametrize("known", ["start_goal", "start_arrival"])
def test_a_goal_is_not_put_into_a_kept_plan(known: str) -> None:
    planner = make(
        model=tiny_model(EPISODES, known=(known,)),
        keep_plan=True,
        arrivals=[2] if known == "start_arrival" else None,
    )
    goals = np.full((4, 2), 0.9, np.float32)
    previous = followed(3)
    plans = planner.plan_batch(
        OBSERVATIONS, seeds=range(4), condition={"goal": goals}, previous=previous
    )
    token = 2 if known == "start_arrival" else 5
    for i, plan in enumerate(plans):
        np.testing.assert_allclose(plan.candidates[0, 1:], previous.observations[i, 1:], atol=1e-5)
        np.testing.assert_allclose(plan.candidates[1:, token, :2], 0.9, atol=1e-5)


def test_acting_keeps_what_is_left_of_the_plan_that_is_followed() -> None:
    class Still:
        def act(self, observation: Any, waypoint: Any, steps_left: Any) -> np.ndarray:
            return np.zeros((len(observation), 2), np.float32)

    class Watching(Planner):
        def plan_batch(self, *args: Any, **options: Any) -> Any:
            self.seen.append(super().plan_batch(*args, **options))
            return self.seen[-1]

        seen: list[Any]

    planner = Watching(
        MODEL,
        controller=Still(),
        guides=[Value(VALUE, scale=0.02)],
        candidates=3,
        sampling=PLANNING.replace(steps=3),
        replanning=Replanning(every=4),
        selection=Selection(keep_previous=True),
        device="cpu",
    )
    planner.seen = []
    state: Any = None
    before: list[Any] = []
    for t in range(20):
        _, state = planner.predict(OBSERVATIONS, state, np.arange(4) == (1 if t == 8 else 9))
        before.append(state)
    assert len(planner.seen) == 5
    for number, plans in enumerate(planner.seen[1:], start=1):
        left = shift_plans(before[4 * number - 1].waypoints, None, np.full(4, 4), 3).observations
        for i, plan in enumerate(plans):
            gap = np.abs(plan.candidates[0, 1:] - left[i, 1:]).max()
            # At step 8 a new episode began in one environment: nothing of the old one is kept.
            assert (gap < 1e-5) == ((number, i) != (2, 1))


# -------------------------------------------------------------------------------- plans warmed up


def still() -> TrajectoryDiffusion:
    """Return a model whose network returns 0 for epsilon: x0_hat is x / alpha at any level."""
    return flat_model(
        EPISODES,
        horizon=6,
        stride=3,
        denoiser=TransformerConfig(width=16, depth=1),
        prediction=EpsilonPrediction(),
        noise_schedule=LinearSchedule(),
    ).eval()


def test_little_noise_gives_the_old_plan_back() -> None:
    """The distance is the added noise, sigma / alpha, which goes to 0 with the level."""
    model = still()
    for level in (1e-5, 1e-3, 0.1):
        check_noise_of_warm_plans(model, level)


def check_noise_of_warm_plans(model: TrajectoryDiffusion, level: float) -> None:
    planner = make(
        model=model,
        guides=(),
        candidates=200,
        warm_start=level,
        clip=None,
        solver=DDIM(),
        spacing=UniformSpacing(),
    )
    previous = followed(4)
    plans = planner.plan_batch(OBSERVATIONS, seeds=range(4), previous=previous)
    exact = torch.tensor(level, dtype=torch.float64)
    ratio = float(
        model.process.noise_schedule.sigma(exact) / model.process.noise_schedule.alpha(exact)
    )
    gaps = np.stack([p.candidates for p in plans]) - previous.observations[:, None]
    noise = gaps[:, :, 1:] / model.codec.normalizer.scale.numpy() / ratio
    count = noise.size
    print(f"\nlevel {level}: in units of {ratio:.1e}, {noise.mean():.4f} +- {noise.std():.4f}")
    # Standard normal: four standard errors of the mean and of the deviation.
    rounding = 1e-6 / ratio
    assert abs(noise.mean()) < 4 / math.sqrt(count) + rounding
    assert abs(noise.std() - 1) < 4 / math.sqrt(2 * count) + rounding


def test_the_sampling_starts_at_the_levels_of_the_candidates() -> None:
    for share, keep in ((0.0, True), (0.4, False), (0.4, True), (1.0, False)):
        check_levels_of_sampling(share, keep)


def check_levels_of_sampling(share: float, keep: bool) -> None:
    planner = make(warm_start=0.3, warm_share=share, keep_plan=keep)
    seen: list[SamplerStep] = []
    previous = followed(3, missing=(0,))
    planner.plan_batch(OBSERVATIONS, seeds=range(4), previous=previous, callback=seen.append)
    levels = torch.stack([step.level for step in seen] + [seen[-1].level_to])
    assert (levels.diff(dim=0) <= 0).all() and (levels[-1] == 0).all()
    assert (levels[:, :, 0] == 0).all(), "the present observation is given"
    exists = previous.exists
    warm_start = WarmStart(level=0.3, share=share)
    caps = candidate_levels(exists, candidates=5, keep=keep, warm_start=warm_start)
    torch.testing.assert_close(levels[0, :, 1:], caps[:, None].expand(-1, 5))
    cold = make().model.level_matrix(planner.sampling)[:, 1:].float()
    for row, cap in zip(levels[:, :, 1:].unbind(1), caps, strict=True):
        torch.testing.assert_close(row, cold.clamp(max=float(cap)))


@pytest.mark.parametrize("options", [{"warm_start": 0.4}, {"warm_start": 0.4, "keep_plan": True}])
def test_same_seed_same_plan_whatever_is_planned_beside_it(options: dict[str, Any]) -> None:
    planner = make(**options, solver=DDPM())
    previous = followed(4, missing=(1,))
    together, again, other = (
        planner.plan_batch(OBSERVATIONS, seeds=seeds, previous=previous)
        for seeds in (range(4), range(4), range(4, 8))
    )
    largest = 0.0
    for i in range(4):
        assert np.array_equal(together[i].candidates, again[i].candidates)
        assert not np.array_equal(together[i].candidates, other[i].candidates)
        single = PreviousPlan(*(None if a is None else a[i : i + 1] for a in previous))
        (alone,) = planner.plan_batch(OBSERVATIONS[i : i + 1], seeds=[i], previous=single)
        largest = max(largest, float(np.abs(alone.candidates - together[i].candidates).max()))
    # An environment without a plan is planned for as if nothing were kept or warmed up.
    (cold,) = make(solver=DDPM()).plan_batch(OBSERVATIONS[1:2], seeds=[1])
    largest = max(largest, float(np.abs(cold.candidates - together[1].candidates).max()))
    print(f"\nalone against together: largest difference {largest:.1e}")
    assert largest < 1e-4


def test_without_a_plan_nothing_changes() -> None:
    plain = make().plan(OBSERVATIONS[0], seed=3)
    for options in ({"warm_start": 0.4}, {"keep_plan": True}):
        assert np.array_equal(
            make(**options).plan(OBSERVATIONS[0], seed=3).candidates, plain.candidates
        )


def test_bad_settings_are_named() -> None:
    for name, value in (("level", 0.0), ("level", 1.0), ("share", 1.5), ("share", -0.1)):
        with pytest.raises(PgdiffError, match=f"`{name}` must be a number in"):
            WarmStart(**{name: value})
