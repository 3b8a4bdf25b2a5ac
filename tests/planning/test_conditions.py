"""Planners of conditioned models: goals that steer, conditions of every plan, refusals."""

import time
import warnings
from typing import Any

import numpy as np
import pytest
import torch
from toys import fit, flat_model, flat_planner, record, tiny_model, walk

from pgdiff import Planner, TrajectoryDiffusion
from pgdiff.core.validation import PgdiffError
from pgdiff.data import GoalCondition, ReturnCondition
from pgdiff.denoisers import TransformerConfig
from pgdiff.diffusion import SamplerStep
from pgdiff.diffusion.guidance.classifier_free import ClassifierFree
from pgdiff.diffusion.level_distributions import SequenceLevels
from pgdiff.diffusion.level_schedules import Pyramid
from pgdiff.diffusion.spacing import KarrasSpacing
from pgdiff.guides import Goal
from pgdiff.planning import PlannerState

EPISODES = walk()
PLAIN = tiny_model(EPISODES)
GOALS = tiny_model(EPISODES, conditions=[GoalCondition()])
HELD = tiny_model(EPISODES, conditions=[GoalCondition()], known=("start", "start_goal"))
RETURNS = tiny_model(EPISODES, conditions=[ReturnCondition()])
BOTH = tiny_model(EPISODES, conditions=[ReturnCondition(), GoalCondition()])
OBSERVATIONS = np.random.default_rng(0).uniform(-1, 1, (8, 4)).astype(np.float32)


def make(**options: Any) -> Planner:
    return flat_planner(**({"candidates": 4, "steps": 5, "device": "cpu"} | options))


def candidates(planner: Planner, **options: Any) -> np.ndarray:
    return planner.plan(OBSERVATIONS[0], **options).candidates


@pytest.fixture(scope="module")
def straight() -> TrajectoryDiffusion:
    """Return a trained model of straight paths in a square, which is conditioned on their ends."""
    rng = np.random.default_rng(0)
    first, last = rng.uniform(-1, 1, (2, 300, 1, 2))
    ways = first + np.linspace(0, 1, 6)[:, None] * (last - first)
    episodes = record(ways.reshape(-1, 2), np.zeros((1800, 1)), np.zeros(1800), lengths=[6] * 300)
    model = flat_model(
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


@pytest.mark.slow
def test_plans_end_at_the_goal_that_they_are_given(straight: TrajectoryDiffusion) -> None:
    planner = make(model=straight, candidates=64)
    start = np.array([-0.5, 0.5], np.float32)
    free = planner.plan(start)
    spread = free.candidates[:, -1].std(axis=0).min()
    assert free.goal is None
    for goal in ((0.8, 0.6), (0.3, -0.7), (-0.9, -0.2)):
        plan = planner.plan(start, condition={"goal": goal})
        away = float(np.linalg.norm(plan.candidates[:, -1] - goal, axis=-1).mean())
        middle = (start + np.array(goal)) / 2
        bent = float(np.abs(plan.candidates[:, 2:4].mean(axis=1) - middle).mean())
        print(f"\ngoal {goal}: plans end {away:.3f} away, their middle is {bent:.3f} off the line")
        assert away < 0.1 and bent < 0.1, "the square's side is 2"
        with_goal = plan.candidates[:, -1].std(axis=0).max()
        print(f"spread of the ends {with_goal:.3f}, without a goal {spread:.3f}")
        assert with_goal < spread / 3
        assert plan.goal is not None and np.allclose(plan.goal, goal)

    conditioned = make(model=straight, condition={"goal": (0.3, -0.7)})
    other = conditioned.plan(start, condition={"goal": (0.8, 0.6)})
    assert np.linalg.norm(other.observations[-1] - (0.8, 0.6)) < 0.15


def test_the_planners_goal_is_that_of_plans_without_one() -> None:
    conditioned, plain = make(model=GOALS, condition={"goal": (0.3, -0.7)}), make(model=GOALS)
    start = OBSERVATIONS[0]
    for given, goal in ((None, (0.3, -0.7)), ((0.8, 0.6), (0.8, 0.6))):
        plan, expected = (
            conditioned.plan(start, condition={"goal": given}),
            plain.plan(start, condition={"goal": goal}),
        )
        assert np.array_equal(plan.candidates, expected.candidates)
        assert plan.goal is not None and np.array_equal(plan.goal, expected.goal)


# -------------------------------------------------------------------------------- passing goals


def test_a_goal_is_held_where_the_model_was_trained_to() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        held = candidates(make(model=HELD), condition={"goal": (0.5, -0.25)})
        steered = candidates(make(model=GOALS), condition={"goal": (0.5, -0.25)})
    np.testing.assert_allclose(held[:, -1, :2], [[0.5, -0.25]] * 4, atol=1e-5)
    assert np.abs(steered[:, -1, :2] - (0.5, -0.25)).min() > 1e-3
    assert not np.array_equal(
        steered, candidates(make(model=GOALS), condition={"goal": (0.5, 0.25)})
    )
    with pytest.warns(UserWarning, match="not with 'start_goal'"):
        candidates(make(model=RETURNS), condition={"goal": (0.5, -0.25)})


def test_a_condition_is_for_every_plan() -> None:
    planner = make(model=RETURNS, condition={"return": 2.0})
    expected = candidates(planner)
    for value in (2, [2.0], (2.0,), np.array(2.0), np.array([2.0])):
        other: Any = {"return": value}
        assert np.array_equal(candidates(make(model=RETURNS, condition=other)), expected)
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
    plans = planner.plan_batch(OBSERVATIONS, seeds=range(8), condition={"goal": goals})
    for i, plan in enumerate(plans):
        alone = planner.plan(OBSERVATIONS[i], seed=i, condition={"goal": goals[i].tolist()})
        np.testing.assert_allclose(plan.candidates, alone.candidates, atol=1e-4)


def test_classifier_free_waits_for_a_goal() -> None:
    strong = make(model=GOALS, classifier_free=ClassifierFree(weight=3.0))
    with pytest.raises(PgdiffError, match="`condition` must be given to a planner with"):
        candidates(strong)
    goal = (0.5, -0.25)
    assert not np.array_equal(
        candidates(strong, condition={"goal": goal}),
        candidates(make(model=GOALS), condition={"goal": goal}),
    )


def test_spacing_and_levels_reach_the_sampling() -> None:
    seen: list[SamplerStep] = []
    planner = make(model=PLAIN, spacing=KarrasSpacing(), level_schedule=Pyramid(slope=1.0))
    assert PLAIN.process.level_distribution == SequenceLevels()
    with pytest.warns(UserWarning, match="one level for the whole sequence"):
        candidates(planner, callback=seen.append)
    column = KarrasSpacing().levels(5, noise_schedule=PLAIN.process.noise_schedule).float()
    assert torch.equal(torch.stack([step.level_to[0, -1] for step in seen[-5:]]), column[1:])
    assert len(seen) == 10


# ------------------------------------------------------------------------------- values of episodes


class Walls:
    """A guide that reads a map and a number of the condition, and records its input."""

    name, gradient_at, scale, condition_keys = "walls", "x0", 0.1, ("walls", "mass")

    def __init__(self) -> None:
        self.given: list[Any] = []

    def objective(self, segment: Any, level: torch.Tensor) -> torch.Tensor:
        self.given.append(segment.condition)
        walls = segment.condition["walls"].flatten(1).sum(1)
        mass = segment.condition["mass"][:, 0]
        return -(walls * mass) * segment.observations.square().sum((1, 2))


MAPS = np.random.default_rng(2).uniform(0, 1, (3, 2, 5)).astype(np.float32)


def test_a_guide_gets_maps_and_numbers_of_each_environment() -> None:
    guide = Walls()
    planner = make(model=PLAIN, guides=[guide], candidates=2, condition={"mass": 2.0})
    assert planner.condition_keys == ("walls",)
    plans = planner.plan_batch(OBSERVATIONS[:3], seeds=range(3), condition={"walls": MAPS})
    np.testing.assert_array_equal(guide.given[-1]["walls"], MAPS.repeat(2, axis=0))
    assert guide.given[-1]["mass"].tolist() == [[2.0]]
    for i, plan in enumerate(plans):
        alone = planner.plan(OBSERVATIONS[i], seed=i, condition={"walls": MAPS[i], "mass": 2})
        np.testing.assert_allclose(plan.candidates, alone.candidates, atol=1e-5)
    assert not np.allclose(
        plans[0].candidates,
        planner.plan(OBSERVATIONS[0], seed=0, condition={"walls": MAPS[0], "mass": 9.0}).candidates,
    )
    with pytest.raises(PgdiffError, match="`walls` must be given to the guide walls"):
        planner.plan(OBSERVATIONS[0])
    assert planner.replace(condition={"walls": None}).condition_keys == ("mass",)


def test_the_state_holds_the_values_of_each_episode() -> None:
    guide = Walls()
    controller = type("Hold", (), {"act": lambda self, observation, state: observation[:, :2]})()
    planner = make(model=PLAIN, guides=[guide], candidates=2, controller=controller)
    state = planner.initial_state(range(3), {"walls": MAPS, "mass": [1.0, 2.0, 3.0]})
    _, state = planner.predict(OBSERVATIONS[:3], state)
    new = state.with_condition({"mass": [9.0, 9.0, 9.0]}, where=[False, True, False])
    assert state.condition["mass"][:, 0].tolist() == [1.0, 2.0, 3.0]
    assert new.condition["mass"][:, 0].tolist() == [1.0, 9.0, 3.0]
    assert planner.keep_rows(new, [2, 1]).condition["mass"][:, 0].tolist() == [3.0, 9.0]
    _, after = planner.predict(OBSERVATIONS[:3], new, [False, True, False])
    np.testing.assert_array_equal(guide.given[-1]["walls"], MAPS[[1]].repeat(2, axis=0))
    assert guide.given[-1]["mass"].tolist() == [[9.0], [9.0]]
    np.testing.assert_array_equal(after.condition["walls"], MAPS)
    _, other = planner.predict(OBSERVATIONS[:3], state, [False, True, False])
    for i, same in enumerate((True, False, True)):
        assert np.array_equal(after.waypoints[i], other.waypoints[i]) == same
    for values, where, message in (
        ({"mass": [1.0]}, None, r"`mass` must be of shape \[3, 1\]. Got \[1\]"),
        ({"walls": MAPS[..., :4]}, None, r"`walls` must be of shape \[3, 2, 5\]"),
        ({"mass": [1.0, 2.0, 3.0]}, [True], "`where` must hold 3 flags"),
    ):
        with pytest.raises(PgdiffError, match=message):
            state.with_condition(values, where)
    begun = PlannerState.empty(range(3), tokens=6, observation=4)
    begun = begun.with_condition({"goal": np.ones((3, 2))}, where=[True, False, True])
    with pytest.raises(PgdiffError, match="`goal` must be finite"):
        planner.plan_batch(OBSERVATIONS[:3], seeds=range(3), condition=begun.condition)


def test_values_that_an_episode_must_give() -> None:
    strong = ClassifierFree(weight=2.0)
    for options, keys in (
        ({"model": PLAIN}, ()),
        ({"model": RETURNS}, ()),
        ({"model": RETURNS, "classifier_free": strong}, ("return",)),
        ({"model": GOALS}, ("goal",)),
        ({"model": GOALS, "condition": {"goal": (0.0, 1.0)}}, ()),
        ({"model": GOALS, "condition": {"goal": None}}, ()),
        ({"model": BOTH}, ("return", "goal")),
        ({"model": BOTH, "condition": {"goal": (0.0, 1.0)}}, ("return",)),
        ({"model": PLAIN, "guides": [Goal()]}, ("goal",)),
        ({"model": PLAIN, "guides": [Goal() + Goal((0.0, 1.0))]}, ("goal",)),
    ):
        assert make(**options).condition_keys == keys, options
    per_episode = make(model=RETURNS, classifier_free=strong)
    fixed = make(model=RETURNS, classifier_free=strong, condition={"return": 2.0})
    found = candidates(per_episode, condition={"return": 2.0})
    np.testing.assert_allclose(found, candidates(fixed), atol=1e-5)


# ----------------------------------------------------------------------------------------- refusals


@pytest.mark.usefixtures("unchecked")
def test_bad_settings_are_named() -> None:
    cases: list[tuple[dict[str, Any], str]] = [
        ({"model": PLAIN, "condition": {"return": 1.0}}, "for a model without .*'return'"),
        ({"model": RETURNS, "condition": {"returns": 1.0}}, "Did you mean 'return'"),
        ({"model": RETURNS, "condition": 1.0}, "`condition` must be a mapping"),
        ({"model": RETURNS, "condition": {"return": float("nan")}}, "`return` must be finite"),
        ({"model": RETURNS, "condition": {"return": "high"}}, "`return` must be numbers"),
        (
            {"model": RETURNS, "condition": {"return": (1.0, 2.0)}},
            r"`return` must have shape \[1, 1",
        ),
        ({"model": RETURNS, "condition": {"return": [[1.0]]}}, "`return` must have shape"),
        ({"model": GOALS, "condition": {"goal": 1.0}}, r"`goal` must have shape \[1, 2\]"),
        ({"model": PLAIN, "classifier_free": ClassifierFree()}, "`condition` must be given with"),
    ]
    for options, message in cases:
        with pytest.raises(PgdiffError, match=message):
            make(**options)


@pytest.mark.usefixtures("unchecked")
def test_bad_goals_are_named() -> None:
    with pytest.raises(PgdiffError, match="`condition` must be given to a planner with"):
        candidates(make(model=RETURNS, classifier_free=ClassifierFree()))
    with pytest.raises(PgdiffError, match="Got no 'return'"):
        candidates(make(model=BOTH, condition={"goal": (0.0, 1.0)}))
    with pytest.raises(PgdiffError, match="Got no 'goal'"):
        make(model=BOTH, condition={"return": 1.0}).plan(OBSERVATIONS[0])
    with pytest.raises(PgdiffError, match="Got no 'return'"):
        make(model=BOTH).plan(OBSERVATIONS[0], condition={"goal": (0.0, 1.0)})
    with pytest.raises(PgdiffError, match="Did you mean 'goal'"):
        make(model=GOALS).initial_state([0], {"goals": [[0.0, 1.0]]})
    with pytest.raises(PgdiffError, match=r"`goal` must be finite and of shape \[2, goal\]"):
        make(model=GOALS).initial_state([0, 1], {"goal": [[0.0, 1.0]]})
    for goal in ((1.0,), (1.0, 2.0, 3.0)):
        with pytest.raises(PgdiffError, match="`goal` must have shape"):
            make(model=GOALS).plan(OBSERVATIONS[0], condition={"goal": goal})
    with pytest.raises(PgdiffError, match="`goal` must be finite"):
        make(model=GOALS).plan(OBSERVATIONS[0], condition={"goal": (1.0, float("nan"))})
