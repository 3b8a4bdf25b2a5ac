"""Planning with a noise level for each token."""

from typing import Any

import numpy as np
import pytest
import torch
from toys import flat_planner, stir, tiny_model, walk

import pgdiff
from pgdiff import Planner, TransitionValue
from pgdiff.core.validation import PgdiffError
from pgdiff.denoisers import TransformerConfig
from pgdiff.diffusion import (
    DDIM,
    DDPM,
    CosineSchedule,
    IndependentLevels,
    MonteCarlo,
    Resample,
    SamplerStep,
    level_of_noise,
)
from pgdiff.diffusion.level_schedules import Autoregressive, FullSequence, Pyramid, Trapezoid
from pgdiff.guides import Value
from pgdiff.planning import Plausibility
from pgdiff.planning.replanning import shift_plans

EPISODES = walk()
CAUSAL = TransformerConfig(width=16, depth=1, heads=2, attention="causal")
SETTINGS: dict[str, Any] = {"denoiser": CAUSAL, "level_distribution": IndependentLevels()}
MODEL = tiny_model(EPISODES, **SETTINGS)
CHUNKS = tiny_model(EPISODES, fields=("observations", "action_chunks"), **SETTINGS)
PREVIOUS = tiny_model(EPISODES, fields=("observations", "previous_actions"), **SETTINGS)
VALUE = stir(TransitionValue.from_episodes(EPISODES, stride=3, width=16, depth=1))
OBSERVATION = np.array([0.2, -0.4, 0.1, 0.3], np.float32)


def make(**options: Any) -> Planner:
    settings: dict[str, Any] = {
        "model": MODEL,
        "candidates": 4,
        "steps": 5,
        "level_schedule": Pyramid(),
        "solver": DDIM(),
        "guides": [Value(VALUE, scale=0.02)],
    }
    return flat_planner(**(settings | options))


def test_every_schedule_plans_and_acts() -> None:
    for level_schedule in (FullSequence(), Pyramid(), Autoregressive(), Trapezoid()):
        for model in (MODEL, CHUNKS):
            planner = make(model=model, level_schedule=level_schedule, steps=2)
            plan = planner.plan(OBSERVATION, seed=1)
            np.testing.assert_allclose(plan.observations[0], OBSERVATION, atol=1e-5)
            again = planner.plan(OBSERVATION, seed=1)
            assert np.array_equal(plan.candidates, again.candidates)
        options = {"level_schedule": level_schedule, "steps": 2}
        acting = make(model=CHUNKS, controller="actions", **options)
        action, _ = acting.predict(OBSERVATION)
        assert action.shape == (2,) and np.isfinite(action).all()


def test_a_causal_model_plans_fewer_tokens() -> None:
    planner = make(horizon=3, controller="actions", model=PREVIOUS)
    plan = planner.plan(OBSERVATION, seed=1)
    assert plan.observations.shape == (3, 4) and plan.actions is not None
    assert plan.actions.shape == (6, 2)
    state = None
    for _ in range(8):  # past the end of a plan
        action, state = planner.predict(BOTH, state)
    assert action.shape == (2, 2) and PREVIOUS.codec.layout.horizon == 6
    for horizon, message in (
        (1, "must plan at least 2"),
        (7, "`horizon` must be at most"),
    ):
        with pytest.raises(PgdiffError, match=message):
            make(horizon=horizon)


def test_settings_change_plans() -> None:
    through = Value(VALUE, scale=0.02, gradient_at="denoiser")
    plain = make(guides=[through]).plan(OBSERVATION, seed=1).candidates
    for options in (
        {"monte_carlo": MonteCarlo(futures=3)},
        {"stabilization": 0.2},
        {"observation_level": 0.2},
    ):
        moved = make(guides=[through], **options).plan(OBSERVATION, seed=1).candidates
        assert np.abs(moved - plain).max() > 1e-5, options


def test_a_noisy_observation_is_labelled_and_denoised() -> None:
    """The first token waits at its level, in part or as a whole, and ends clean."""
    for model in (MODEL, CHUNKS):
        check_noisy_observation(model)


def check_noisy_observation(model: Any) -> None:
    level = level_of_noise(model.process.noise_schedule, 0.2)
    assert 0.05 < level < 0.3
    seen: list[SamplerStep] = []
    planner = make(model=model, observation_level=level)
    plan = planner.plan(OBSERVATION, seed=1, callback=seen.append)
    first = np.array([float(step.level[0, 0]) for step in seen])
    if model is MODEL:
        assert first[0] == pytest.approx(level) and (first <= level + 1e-6).all()
    assert float(seen[-1].level_to[0, 0]) == 0.0
    off = np.abs(plan.observations[0] - OBSERVATION).max()
    assert off > 1e-4
    exact = make(model=model).plan(OBSERVATION, seed=1)
    np.testing.assert_allclose(exact.observations[0], OBSERVATION, atol=1e-5)


def test_level_of_noise_is_its_inverse() -> None:
    schedule = CosineSchedule()
    for deviation in (0.01, 0.1, 1.0, 5.0):
        level = torch.tensor(level_of_noise(schedule, deviation), dtype=torch.float64)
        found = float(schedule.sigma(level) / schedule.alpha(level))
        assert found == pytest.approx(deviation, rel=1e-6)
    with pytest.raises(PgdiffError, match="`deviation` must be"):
        level_of_noise(schedule, 0.0)


def test_what_a_plan_does_not_have_yet_starts_from_noise() -> None:
    """Warm starts use one level matrix: kept tokens start low, those behind the plan's end at 1."""
    seen: list[SamplerStep] = []
    planner = make(warm_start=0.3)
    plan = planner.plan(OBSERVATION, seed=1)
    previous = shift_plans(plan.observations[None], None, np.array([7]), plan.stride)
    assert previous.valid.tolist() == [[True, True, True, False, False, False]]
    planner.plan_batch(OBSERVATION[None], seeds=[2], previous=previous, callback=seen.append)
    assert seen[0].level[0].tolist() == pytest.approx([0.0, 0.3, 0.3, 1.0, 1.0, 1.0])
    levels = torch.stack([step.level for step in seen] + [seen[-1].level_to])
    assert (levels.diff(dim=0) <= 0).all() and (levels[-1] == 0).all()
    kept = make(warm_start=0.3, keep_plan=True)
    seen.clear()
    kept.plan_batch(OBSERVATION[None], seeds=[2], previous=previous, callback=seen.append)
    assert not seen[0].level[0].any(), "the plan itself stays whole"


def test_warm_starts_look_at_the_noisy_observation() -> None:
    """The measured token comes from its measurement; a kept plan begins at the observation."""
    for model in (MODEL, CHUNKS, PREVIOUS):
        for level_schedule in (FullSequence(), Pyramid()):
            check_warm_start(model, level_schedule)


def check_warm_start(model: Any, level_schedule: Any) -> None:
    planner = make(
        model=model,
        level_schedule=level_schedule,
        warm_start=0.1,
        observation_level=0.3,
        keep_plan=True,
        guides=[Value(VALUE, scale=0.0)],
    )
    plan = planner.plan(OBSERVATION, seed=1)
    actions = None if plan.actions is None else plan.actions[None]
    previous = shift_plans(plan.observations[None], actions, np.array([2]), plan.stride)
    found = []
    for seen in (OBSERVATION, -OBSERVATION):
        (again,) = planner.plan_batch(seen[None], seeds=[2], previous=previous)
        np.testing.assert_allclose(again.candidates[0, 0], seen, atol=1e-5)
        found.append(again.candidates[1:])
    assert np.abs(found[0] - found[1]).max() > 1e-3


def test_measured_tokens_are_plausible_as_denoised() -> None:
    """Plausibility is computed with the finished plans' denoised first tokens held."""
    seen = []

    class Noting(Plausibility):
        def moves(self, model: Any, x: Any, known: Any, condition: Any = None) -> Any:
            seen.append((x, known))
            return super().moves(model, x, known, condition)

    for level in (0.0, 0.3):
        make(observation_level=level, plausibility=Noting()).plan(OBSERVATION, seed=1)
    (_, exact), (x, denoised) = seen
    assert torch.equal(exact.mask.expand(4, -1, -1), denoised.mask.expand(4, -1, -1))
    assert torch.equal(denoised.values[:, 0], x[:, 0])


@pytest.mark.usefixtures("unchecked")
def test_bad_input_is_named() -> None:
    cases: list[tuple[dict[str, Any], str]] = [
        ({"level_schedule": "pyramid"}, "`level_schedule` must be a LevelSchedule"),
        ({"monte_carlo": 4}, "`monte_carlo` must be a MonteCarlo"),
        ({"stabilization": 1.0}, "`stabilization` must be a number in"),
        ({"observation_level": 1.0}, "`noise_level` must be a number in"),
        ({"missing_level": 1.0}, "`missing_level` must be a number in"),
        ({"missing_level": -0.1}, "`missing_level` must be a number in"),
        (
            {"monte_carlo": MonteCarlo(), "resample": Resample(), "solver": DDPM()},
            "`monte_carlo` must be None with `particles`",
        ),
        (
            {"observation_level": 0.1, "resample": Resample(), "solver": DDPM()},
            "`filter` must not have `noise_level` .*with `particles`",
        ),
    ]
    for options, message in cases:
        with pytest.raises(PgdiffError, match=message):
            make(**options)
    with pytest.raises(PgdiffError, match="`noise_level` must be 0 to explain a plan"):
        pgdiff.explain(make(observation_level=0.1), OBSERVATION)


class Still:
    """A controller that returns its observation and its way-point."""

    def act(self, observation: Any, waypoint: Any, steps_left: Any) -> Any:
        return np.concatenate([observation, waypoint], axis=1)


def acting(**options: Any) -> Planner:
    return make(replan_every=2, controller=Still(), **options)


NOTHING = np.full((2, 4), np.nan, np.float32)
BOTH = np.stack([OBSERVATION, -OBSERVATION])


def test_at_a_new_plan_the_controller_gets_the_denoised_observation() -> None:
    planner = acting(observation_level=0.2)
    action, state = planner.predict(BOTH)
    np.testing.assert_array_equal(action[:, :4], state.waypoints[:, 0])
    assert np.abs(action[:, :4] - BOTH).max() > 1e-4
    action, _ = planner.predict(BOTH, state)  # no plan is made in this step
    np.testing.assert_array_equal(action[:, :4], BOTH)


def test_the_plan_stands_in_for_what_is_missing() -> None:
    planner = acting(missing_level=0.1)
    action, state = planner.predict(BOTH)
    half = np.stack([OBSERVATION, NOTHING[0]])
    # A step later: a third of the way to the next token, three steps on.
    action, after = planner.predict(half, state)
    way = state.waypoints[1]
    np.testing.assert_allclose(action[1, :4], way[0] + (way[1] - way[0]) / 3, atol=1e-6)
    np.testing.assert_allclose(action[0, :4], OBSERVATION)
    # Where a new plan is made, the environment that has its observation is planned for as usual.
    _, planned = planner.predict(half, after)
    _, plain = acting().predict(BOTH, after)
    np.testing.assert_allclose(planned.waypoints[0], plain.waypoints[0], atol=1e-5)
    expected = way[0] + 2 * (way[1] - way[0]) / 3
    first = planned.waypoints[1, 0]
    assert np.abs(first - expected).max() > 1e-5, "treated as noisy, and denoised"
    exact = acting(missing_level=0.0)
    _, taken = exact.predict(half, after)
    np.testing.assert_allclose(taken.waypoints[1, 0], expected, atol=1e-5)


def test_a_plan_does_not_depend_on_missing_observations_of_others() -> None:
    """This holds with a solver that draws noise, and with futures."""
    through = Value(VALUE, scale=0.02, gradient_at="denoiser")
    planner = acting(
        missing_level=0.1, solver=DDPM(), monte_carlo=MonteCarlo(futures=2), guides=[through]
    )
    seeds = [3, 4]
    state = planner.initial_state(seeds)
    _, state = planner.predict(BOTH, state)
    _, state = planner.predict(BOTH, state)
    half = np.stack([OBSERVATION, NOTHING[0]])
    plans = [planner.predict(seen, state)[1].waypoints for seen in (BOTH, half)]
    np.testing.assert_allclose(plans[0][0], plans[1][0], atol=1e-5)
    assert np.abs(plans[0][1] - plans[1][1]).max() > 1e-4


def test_what_is_missing_is_refused_where_nothing_stands_in_for_it() -> None:
    with pytest.raises(PgdiffError, match=r"must be finite numbers .* for environment 0"):
        acting().predict(NOTHING)
    with pytest.raises(PgdiffError, match=r"at the beginning of an episode.* environment 0"):
        acting(missing_level=0.1).predict(NOTHING)
    _, state = acting(missing_level=0.1).predict(BOTH)
    broken = BOTH.copy()
    broken[1, 2] = np.nan  # in part: invalid rather than missing
    with pytest.raises(PgdiffError, match=r"must be finite numbers .* for environment 1"):
        acting(missing_level=0.1).predict(broken, state)
