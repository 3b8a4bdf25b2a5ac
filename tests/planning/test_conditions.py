"""Planners of conditioned models: goals that steer, conditions of every plan, refusals."""

import time
import warnings
from typing import Any

import numpy as np
import pytest
import torch
from toys import fit, record, tiny_model, walk

from pgdiff import Planner, TrajectoryDiffusion
from pgdiff.data import GoalCondition, ReturnCondition
from pgdiff.denoisers import TransformerConfig
from pgdiff.diffusion import SamplerStep
from pgdiff.diffusion.classifier_free import ClassifierFree
from pgdiff.diffusion.level_schedules import Pyramid
from pgdiff.diffusion.spacing import KarrasSpacing
from pgdiff.diffusion.training_levels import SequenceLevels
from pgdiff.validation import PgdiffError

EPISODES = walk()
PLAIN = tiny_model(EPISODES)
GOALS = tiny_model(EPISODES, conditions=[GoalCondition()])
HELD = tiny_model(EPISODES, conditions=[GoalCondition()], known=("start", "start_goal"))
RETURNS = tiny_model(EPISODES, conditions=[ReturnCondition()])
BOTH = tiny_model(EPISODES, conditions=[ReturnCondition(), GoalCondition()])
OBSERVATIONS = np.random.default_rng(0).uniform(-1, 1, (8, 4)).astype(np.float32)


def make(**options: Any) -> Planner:
    return Planner(**({"candidates": 4, "steps": 5, "device": "cpu"} | options))


def candidates(planner: Planner, **options: Any) -> np.ndarray:
    return planner.plan(OBSERVATIONS[0], **options).candidates


@pytest.fixture(scope="module")
def straight() -> TrajectoryDiffusion:
    """A trained model of straight ways between places of a square, which is told where they end."""
    rng = np.random.default_rng(0)
    first, last = rng.uniform(-1, 1, (2, 300, 1, 2))
    ways = first + np.linspace(0, 1, 6)[:, None] * (last - first)
    episodes = record(ways.reshape(-1, 2), np.zeros((1800, 1)), np.zeros(1800), lengths=[6] * 300)
    model = TrajectoryDiffusion.from_episodes(
        episodes,
        horizon=6,
        denoiser=TransformerConfig(width=32, depth=2),
        conditions=[GoalCondition()],
        condition_dropout=0.2,
    )
    began = time.perf_counter()
    fit(model, episodes, steps=600)
    print(f"\ntrained in {time.perf_counter() - began:.1f} s")
    return model


def test_plans_end_at_the_goal_that_they_are_told(straight: TrajectoryDiffusion) -> None:
    planner = make(model=straight, candidates=64)
    start = np.array([-0.5, 0.5], np.float32)
    free = planner.plan(start)
    spread = free.candidates[:, -1].std(axis=0).min()
    assert free.goal is None
    for goal in ((0.8, 0.6), (0.3, -0.7), (-0.9, -0.2)):
        plan = planner.plan(start, goal=goal)
        away = float(np.linalg.norm(plan.candidates[:, -1] - goal, axis=-1).mean())
        middle = (start + np.array(goal)) / 2
        bent = float(np.abs(plan.candidates[:, 2:4].mean(axis=1) - middle).mean())
        print(f"\ngoal {goal}: plans end {away:.3f} away, their middle is {bent:.3f} off the line")
        assert away < 0.1 and bent < 0.1, "the square's side is 2"
        told = plan.candidates[:, -1].std(axis=0).max()
        print(f"spread of the ends {told:.3f}, without a goal {spread:.3f}")
        assert told < spread / 3
        assert plan.goal is not None and np.allclose(plan.goal, goal)


def test_the_planners_goal_is_that_of_plans_without_one(straight: TrajectoryDiffusion) -> None:
    told = make(model=straight, condition={"goal": (0.3, -0.7)})
    start = np.array([-0.5, 0.5], np.float32)
    plan, expected = told.plan(start), make(model=straight).plan(start, goal=(0.3, -0.7))
    assert np.array_equal(plan.candidates, expected.candidates)
    assert plan.goal is not None and np.array_equal(plan.goal, expected.goal)
    other = told.plan(start, goal=(0.8, 0.6))
    assert np.linalg.norm(other.observations[-1] - (0.8, 0.6)) < 0.15


# ------------------------------------------------------------------------------- how it is told


def test_a_goal_is_held_where_the_model_was_trained_to() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        held = candidates(make(model=HELD), goal=(0.5, -0.25))
        steered = candidates(make(model=GOALS), goal=(0.5, -0.25))
    np.testing.assert_allclose(held[:, -1, :2], [[0.5, -0.25]] * 4, atol=1e-5)
    assert np.abs(steered[:, -1, :2] - (0.5, -0.25)).min() > 1e-3
    assert not np.array_equal(steered, candidates(make(model=GOALS), goal=(0.5, 0.25)))
    with pytest.warns(UserWarning, match="not with 'start_goal'"):
        candidates(make(model=RETURNS), goal=(0.5, -0.25))


@pytest.mark.parametrize("value", [2.0, 2, [2.0], (2.0,), np.array(2.0), np.array([2.0])])
def test_a_condition_is_for_every_plan(value: Any) -> None:
    planner = make(model=RETURNS, condition={"return": value})
    expected = candidates(make(model=RETURNS, condition={"return": 2.0}))
    assert np.array_equal(candidates(planner), expected)
    assert not np.array_equal(candidates(make(model=RETURNS)), expected)
    seeds = range(8)
    together = planner.plan_batch(OBSERVATIONS, seeds=seeds)
    for plan, observation, seed in zip(together, OBSERVATIONS, seeds, strict=True):
        alone = planner.plan(observation, seed=seed).candidates
        np.testing.assert_allclose(plan.candidates, alone, atol=1e-4)


def test_each_environment_has_its_own_goal() -> None:
    planner = make(
        model=BOTH, condition={"return": 1.0}, classifier_free=ClassifierFree(weight=2.0)
    )
    goals = np.random.default_rng(1).uniform(-1, 1, (8, 2)).astype(np.float32)
    plans = planner.plan_batch(OBSERVATIONS, seeds=range(8), goals=goals)
    for i, plan in enumerate(plans):
        alone = planner.plan(OBSERVATIONS[i], seed=i, goal=goals[i].tolist())
        np.testing.assert_allclose(plan.candidates, alone.candidates, atol=1e-4)


def test_classifier_free_waits_for_a_goal() -> None:
    strong = make(model=GOALS, classifier_free=ClassifierFree(weight=3.0))
    with pytest.raises(PgdiffError, match="`goal` must be given"):
        candidates(strong)
    goal = (0.5, -0.25)
    assert not np.array_equal(
        candidates(strong, goal=goal), candidates(make(model=GOALS), goal=goal)
    )


def test_spacing_and_levels_reach_the_sampling() -> None:
    seen: list[SamplerStep] = []
    planner = make(model=PLAIN, spacing=KarrasSpacing(), schedule=Pyramid(slope=1.0))
    assert PLAIN.levels == SequenceLevels()
    with pytest.warns(UserWarning, match="one level for the whole sequence"):
        candidates(planner, callback=seen.append)
    column = KarrasSpacing().levels(5, schedule=PLAIN.schedule).float()
    assert torch.equal(torch.stack([step.level_to[0, -1] for step in seen[-5:]]), column[1:])
    assert len(seen) == 10


# ----------------------------------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"model": PLAIN, "condition": {"return": 1.0}}, "None for a model without .*'return'"),
        ({"model": RETURNS, "condition": {"returns": 1.0}}, "Did you mean 'return'"),
        ({"model": BOTH, "condition": {"goal": (0.0, 1.0)}}, "Got no 'return'"),
        ({"model": RETURNS, "condition": {"return": float("nan")}}, "`return` must be finite"),
        ({"model": RETURNS, "condition": {"return": "high"}}, "`return` must be numbers"),
        (
            {"model": RETURNS, "condition": {"return": (1.0, 2.0)}},
            r"`return` must have shape \[1, 1",
        ),
        ({"model": RETURNS, "condition": {"return": [[1.0]]}}, "`return` must have shape"),
        ({"model": GOALS, "condition": {"goal": 1.0}}, r"`goal` must have shape \[1, 2\]"),
        ({"model": PLAIN, "classifier_free": ClassifierFree()}, "`condition` must be given with"),
        ({"model": RETURNS, "classifier_free": ClassifierFree()}, "`condition` must be given with"),
    ],
)
@pytest.mark.usefixtures("unchecked")
def test_bad_settings_are_named(options: dict[str, Any], message: str) -> None:
    with pytest.raises(PgdiffError, match=message):
        make(**options)


@pytest.mark.usefixtures("unchecked")
def test_bad_goals_are_named() -> None:
    with pytest.raises(PgdiffError, match="Got no 'goal'"):
        make(model=BOTH, condition={"return": 1.0}).plan(OBSERVATIONS[0])
    with pytest.raises(PgdiffError, match="Got no 'return'"):
        make(model=BOTH).plan(OBSERVATIONS[0], goal=(0.0, 1.0))
    for goal in ((1.0,), (1.0, 2.0, 3.0)):
        with pytest.raises(PgdiffError, match="`goal` must have shape"):
            make(model=GOALS).plan(OBSERVATIONS[0], goal=goal)
    with pytest.raises(PgdiffError, match="`goal` must be finite"):
        make(model=GOALS).plan(OBSERVATIONS[0], goal=(1.0, float("nan")))
