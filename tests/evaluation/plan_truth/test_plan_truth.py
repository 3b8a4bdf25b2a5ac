"""Plan truth: recorded plans are true, and each fault is counted at its place."""

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from toys import flat_planner, record, tiny_model, walk

from pgdiff import Episodes
from pgdiff.core.validation import PgdiffError
from pgdiff.evaluation.plan_truth.likelihood import NOISE_MIN
from pgdiff.evaluation.plan_truth.measure import plan_truth, without_guides
from pgdiff.evaluation.plan_truth.report import Limits, PlanTruth, TruthRow
from pgdiff.evaluation.plan_truth.starts import draw_starts
from pgdiff.evaluation.plan_truth.value import value_truth
from pgdiff.guides import Return
from pgdiff.planning import Planner
from pgdiff.trajectory import Plan

TOKENS, STRIDE = 6, 10
UMAZE = "pgdiff_envs:maze2d-umaze-v1"


class Scripted(Planner):
    """A planner whose way-points and actions are a function of the observations."""

    script: Callable[[np.ndarray], tuple[np.ndarray, np.ndarray | None]]

    def plan_batch(self, observations: np.ndarray, **options: Any) -> list[Plan]:
        waypoints, actions = self.script(np.asarray(observations))
        return [
            Plan(
                observations=way,
                actions=None if actions is None else actions[number],
                candidates=way[None],
                scores=np.full(1, np.nan),
                best=0,
                stride=self.model.codec.spec.stride,
            )
            for number, way in enumerate(waypoints)
        ]


@pytest.fixture(scope="module")
def recording() -> Episodes:
    """Return the recording of the expert in the U-maze, with the environment's rewards."""
    return played(gym.make(UMAZE), steps=1500)


def played(env: gym.Env[Any, Any], *, steps: int) -> Episodes:
    """Return rows of the environment's expert, or of random actions if it has none."""
    task: Any = env.unwrapped
    expert = task.expert(seed=0) if hasattr(task, "expert") else None
    env.action_space.seed(0)
    observation, _ = env.reset(seed=0)
    rows: list[tuple[Any, Any, float]] = []
    for _ in range(steps):
        action = env.action_space.sample() if expert is None else expert.predict(observation)[0]
        after, reward, *_ = env.step(action)
        rows.append((observation, action, float(reward)))
        observation = after
    return record(*zip(*rows, strict=True), lengths=[steps])


def planner_of(
    recording: Episodes, script: Any = None, *, controller: Any = None, **options: Any
) -> Scripted:
    """Return a scripted planner; by default its plans are the recorded segments themselves."""
    options = {"horizon": TOKENS, "stride": STRIDE} | options
    guides = options.pop("guides", ())
    model = tiny_model(recording, **options)
    if controller is None:
        task: Any = gym.make(UMAZE).unwrapped
        controller = task.tracker()
    planner = Scripted(model, controller=controller, guides=guides, candidates=1, device="cpu")
    planner.script = script or partial(recorded, recording, model.codec.layout)
    return planner


def recorded(
    recording: Episodes, layout: Any, observations: np.ndarray
) -> tuple[np.ndarray, np.ndarray | None]:
    """Return the segments of the recording that begin with these observations, with actions."""
    same = (recording.observations[:, None] == observations).all(axis=-1)
    first = same.argmax(axis=0)[:, None]
    actions = None
    if layout.action_size is not None:
        actions = recording.actions[first + np.arange(layout.horizon * layout.stride)]
    return recording.observations[first + layout.stride * np.arange(layout.horizon)], actions


def measured(planner: Planner, recording: Episodes, env: str = UMAZE, **options: Any) -> PlanTruth:
    options = {"starts": 12, "likelihood": 0, "parallel": 5} | options
    return plan_truth(planner, lambda: gym.make(env), recording, **options)


def places(*xy: tuple[float, float]) -> Callable[[np.ndarray], tuple[np.ndarray, None]]:
    """Return plans through these places, at rest in each, for any observation."""
    way = np.array([[x, y, 0.0, 0.0] for x, y in xy])
    return lambda observations: (np.repeat(way[None], len(observations), axis=0), None)


def test_recorded_segments_are_true_plans(recording: Episodes) -> None:
    found = measured(planner_of(recording), recording)
    exact, plans = found.rows["recorded"], found.rows["unguided"]
    np.testing.assert_array_equal(plans.waypoints, exact.waypoints)
    for name in ("cuts", "through", "in_wall", "leg_misses", "misses", "promised", "achieved"):
        np.testing.assert_array_equal(getattr(plans, name), getattr(exact, name), err_msg=name)
    assert plans.cuts is not None and not plans.cuts.any()
    assert plans.misses is not None and np.median(plans.misses) < 0.05
    figures = found.figures("recorded")
    infeasible = figures["infeasible"]
    assert infeasible is not None and 0 < infeasible.value <= 0.02  # 1 % by its definition
    assert "guided" not in found.rows  # the planner has no guide


def test_a_recording_s_own_actions_lead_along_it(recording: Episodes) -> None:
    """Each leg and the whole way are reproduced exactly, and so are the recorded rewards."""
    fields = ("observations", "action_chunks")
    planner = planner_of(recording, controller="actions", fields=fields)
    row = measured(planner, recording).rows["recorded"]
    assert row.misses is not None and row.leg_misses is not None and row.achieved is not None
    assert row.misses.max() < 1e-4 and row.leg_misses.max() < 1e-4
    same = (recording.observations[:, None] == row.waypoints[:, 0]).all(axis=-1)
    rows = same.argmax(axis=0)[:, None] + np.arange((TOKENS - 1) * STRIDE)
    np.testing.assert_array_equal(row.achieved, recording.rewards[rows].sum(axis=1))


def test_a_leg_through_a_wall_is_counted_where_it_is(recording: Episodes) -> None:
    """The plan: rest, a jump of two metres across a wall in leg 3, and rest within a wall."""
    here, there, wall = (0.8, 0.8), (2.8, 0.8), (1.8, 0.8)
    script = places(here, here, here, there, there, wall)
    found = measured(planner_of(recording, script), recording)
    row = found.rows["unguided"]
    assert row.cuts is not None and row.in_wall is not None and row.leg_misses is not None
    np.testing.assert_array_equal(row.cuts[0], [False, False, True, False, True])
    np.testing.assert_array_equal(row.in_wall[0], [False, False, False, False, True])
    assert row.through is not None and np.array_equal(row.through, row.cuts)
    legs = found.to_dict()["rows"]["unguided"]["by_leg"]
    assert legs["cut_up_to"] == [0, 0, 1, 1, 1] and legs["infeasible"] == [0, 0, 1, 0, 1]
    figures = {name: figure and figure.value for name, figure in found.figures("unguided").items()}
    assert (figures["cut_first"], figures["cut_three"], figures["cut_all"]) == (0, 1, 1)
    assert figures["in_wall"] == pytest.approx(0.2)
    assert figures["infeasible"] == pytest.approx(0.4)


def test_the_promise_of_a_known_path(recording: Episodes) -> None:
    """Two metres in 50 steps towards the goal: within 0.5 of it from step 38 on, 13 times."""
    script = places(*((1.0, 3.0 - 0.4 * token) for token in range(TOKENS)))
    found = measured(planner_of(recording, script), recording)
    row = found.rows["unguided"]
    assert row.promised is not None and row.achieved is not None
    np.testing.assert_array_equal(row.promised, 13.0)
    gap, error = (found.figures("unguided")[name] for name in ("gap", "error"))
    assert gap is not None and error is not None
    assert gap.value == pytest.approx(13.0 - row.achieved.mean())
    assert error.value == pytest.approx(np.abs(13.0 - row.achieved).mean())


def test_starts_lie_outside_their_goals_and_repeat(recording: Episodes) -> None:
    planner, env = planner_of(recording), gym.make(UMAZE)
    found, again = (draw_starts(planner, env, recording, starts=60, seed=7) for _ in range(2))
    starts = found.observations[:, 0]
    assert (np.linalg.norm(starts[:, :2] - [1.0, 1.0], axis=1) > 0.45).all()
    assert len(found) == 60 and found.at_goal > 0
    np.testing.assert_array_equal(starts, again.observations[:, 0])


class Distance:
    """A guide that is exact: the value of a state is its nearness to the goal."""

    name, gradient_at, scale, needs_goal = "near", "x0", 0.0, True

    def __init__(self, sign: float = -1.0) -> None:
        self.task: Any = gym.make("pgdiff_envs:multi2d-umaze-v1").unwrapped
        self.value = SimpleNamespace(value=self.of, device="cpu")
        self.sign = sign

    def objective(self, segment: Any, level: Any) -> torch.Tensor:
        return torch.zeros(len(segment.observations))

    def of(self, observations: torch.Tensor, goals: torch.Tensor) -> torch.Tensor:
        found = []
        for place, goal in zip(observations.double(), goals.double(), strict=True):
            self.task.reset(options={"goal": goal.numpy()})
            found.append(self.sign * self.task.distance_to_goal(place[:2].numpy()))
        return torch.tensor(found)


def test_the_true_way_orders_states_by_itself(recording: Episodes) -> None:
    """Goals are those that the environment draws for each start."""
    for sign in (-1.0, 1.0):
        planner = planner_of(recording, guides=(Distance(sign),))
        found = measured(planner, recording, "pgdiff_envs:multi2d-umaze-v1").value
        assert found is not None
        assert found.recorded.value == found.at_rest.value == pytest.approx(-sign)


def test_ranks_of_equal_values_are_shared() -> None:
    values = np.array([1.0, 1.0, 2.0])
    found = value_truth(lambda states, goals: values, np.zeros((3, 2)), -np.arange(3.0))
    assert found.recorded.value == pytest.approx(np.sqrt(0.75))
    with pytest.raises(PgdiffError, match="Got inf in row 1"):
        value_truth(lambda states, goals: values, np.zeros((3, 2)), np.array([1.0, np.inf, 2.0]))


def test_likelihood_is_the_model_s_own(recording: Episodes) -> None:
    planner = planner_of(recording)
    steps = 2  # of an integral that is equal on both sides
    found = measured(planner, recording, starts=2, likelihood=1, likelihood_steps=steps)
    row = found.rows["recorded"]
    batch = SimpleNamespace(
        observations=torch.as_tensor(row.waypoints[:1]), mask=torch.ones(1, TOKENS, dtype=bool)
    )
    value = (
        planner.model.log_likelihood(batch, steps=steps, noise_min=NOISE_MIN).value.double().numpy()
    )
    assert row.nats is not None
    np.testing.assert_allclose(row.nats, value / (4 * (TOKENS - 1)), rtol=1e-6)


def test_likelihood_is_less_the_unguided_median() -> None:
    unguided, guided = (
        TruthRow(waypoints=np.zeros((3, 2, 4)), nats=np.array(nats))
        for nats in ([1.0, 2.0, 4.0], [0.0, 1.5, 5.0])
    )
    found = PlanTruth(
        rows={"unguided": unguided, "guided": guided},
        limits=Limits(clearance=None, miss=None, near=0.5, unit="metres", nats=(2.0, 1.2)),
        **{"value": None, "empty": {}, "goals": None, "seconds": 0.0},
        **{"settings": {}, "machine": {}},
    )
    figures = [found.figures(row) for row in found.rows]
    assert [of["nats"] and of["nats"].value for of in figures] == [0.0, -0.5]
    assert [of["unlikely"] and of["unlikely"].value for of in figures] == [1 / 3, 1 / 3]


def test_locomotion_is_measured_by_its_simulator() -> None:
    recording = played(gym.make("pgdiff_envs:halfcheetah-v5"), steps=120)
    planner = planner_of(
        recording, controller="actions", fields=("observations", "actions"), stride=1
    )
    found = measured(planner, recording, "pgdiff_envs:halfcheetah-v5", starts=4)
    row = found.rows["recorded"]
    assert row.misses is not None and row.misses.max() < 1e-3
    assert row.cuts is None and row.promised is None and row.achieved is not None
    assert found.limits.unit == "standard deviations of the recording"


class Bare(gym.Env[np.ndarray, np.ndarray]):
    """An environment that offers only Gymnasium's methods."""

    observation_space = gym.spaces.Box(-10.0, 10.0, (4,), np.float64)
    action_space = gym.spaces.Box(-1.0, 1.0, (2,), np.float32)

    def reset(self, *, seed: Any = None, options: Any = None) -> tuple[np.ndarray, dict[str, Any]]:
        super().reset(seed=seed)
        return np.zeros(4), {}


def test_what_cannot_be_measured_is_empty_and_says_so(tmp_path: Path) -> None:
    recording = walk()
    planner = flat_planner(tiny_model(recording), candidates=1, steps=2, device="cpu")
    found = plan_truth(planner, Bare, recording, starts=3, likelihood=0)
    content = json.loads(found.to_json(tmp_path / "truth.json").read_text())
    for row in content["rows"].values():
        figures = {key: value for key, value in row.items() if isinstance(value, dict | None)}
        assert all(figures[name] is None for name in figures if not name.startswith(("by", "per")))
    for method in ("clearance", "set_observation", "rewards_at"):
        assert any(f"'Bare' has no method {method}" in why for why in found.empty.values())
        assert f"has no method {method}" in found.table()
    assert found.value is None and content["value"] is None


def test_arguments_out_of_range_are_refused(recording: Episodes) -> None:
    planner = planner_of(recording)
    for wrong in ({"starts": 0}, {"seed": -1}, {"likelihood": -1}, {"near": -0.1}):
        (name,) = wrong
        with pytest.raises(PgdiffError, match=f"`{name}"):
            measured(planner, recording, **wrong)
    still = record(np.tile([1.0, 1.0, 0, 0], (90, 1)), np.zeros((90, 2)), np.ones(90), lengths=[90])
    with pytest.raises(PgdiffError, match="starts outside the goal"):
        measured(planner, still)


def test_without_guides_is_the_model_alone() -> None:
    recording = walk()
    fields = ("observations", "rewards")
    model = tiny_model(recording, fields=fields)
    guided = flat_planner(
        model, guides=[Return(scale=3.0)], candidates=4, scale_factors=[0.5, 1.0], device="cpu"
    )
    plain = flat_planner(model, candidates=1, device="cpu")
    start, seeds = recording.observations[:2], [3, 4]
    free = without_guides(guided).plan_batch(start, seeds=seeds)
    for plan, other in zip(free, plain.plan_batch(start, seeds=seeds), strict=True):
        np.testing.assert_array_equal(plan.candidates, other.candidates)
    assert guided.candidates == 4 and guided.guides


def test_without_guides_a_goal_for_guides_alone_is_not_held(recording: Episodes) -> None:
    goals = np.array([[1.0, 3.0], [3.0, 3.0]], np.float32)
    model = tiny_model(recording, horizon=TOKENS, stride=STRIDE)
    guided, plain = (
        flat_planner(model, guides=guides, candidates=1, device="cpu")
        for guides in ((Distance(),), ())
    )
    start, seeds = recording.observations[:2], [3, 4]
    assert not guided.holds_goal and without_guides(plain).holds_goal
    free = without_guides(guided).plan_batch(start, seeds=seeds, condition={"goal": goals})
    for plan, other in zip(free, plain.plan_batch(start, seeds=seeds), strict=True):
        np.testing.assert_array_equal(plan.candidates, other.candidates)
