"""Measurement of plans against the environment: walls, rewards and missed way-points."""

import copy
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import gymnasium as gym
import numpy as np
from jaxtyping import Float
from tqdm import tqdm

from pgdiff.core.validation import check_positive_int, check_range, check_seed
from pgdiff.data import Episodes
from pgdiff.data.transitions import rows_of
from pgdiff.evaluation import checks
from pgdiff.evaluation.plan_truth.likelihood import STEPS, likelihood_refusal, plan_nats
from pgdiff.evaluation.plan_truth.report import Limits, PlanTruth, TruthRow
from pgdiff.evaluation.plan_truth.rollouts import Simulators, interpolate_legs
from pgdiff.evaluation.plan_truth.starts import Starts, draw_starts
from pgdiff.evaluation.plan_truth.value import ValueTruth, guide_value, value_truth
from pgdiff.evaluation.plan_truth.wall_cuts import leg_clearances, recorded_clearance
from pgdiff.evaluation.results import machine
from pgdiff.evaluation.rollouts import MakeEnv
from pgdiff.planning import Goals, Planner, Selection
from pgdiff.planning.conditions import known_keys
from pgdiff.planning.goals import GOAL
from pgdiff.planning.inputs import plan_seeds

FEASIBLE, UNLIKELY = 0.99, 0.01
"""Quantiles of the recorded legs' misses and of the unguided plans' log-likelihood."""
NEAR = 0.5
_PLANNED = 32
"""Number of starts in one batch of plans."""

Waypoints = Float[np.ndarray, "plans tokens obs"]
Actions = Float[np.ndarray, "plans steps act"]
Plans = tuple[Waypoints, Actions | None]


def plan_truth(
    planner: Planner,
    make_env: MakeEnv,
    episodes: Episodes,
    *,
    starts: int = 1000,
    seed: int = 7,
    likelihood: int = 64,
    likelihood_steps: int = STEPS,
    near: float = NEAR,
    parallel: int = 100,
    progress: bool = False,
) -> PlanTruth:
    """Measure recorded segments, unguided plans and guided plans from the same starts.

    The starts are rows of the recording outside the goal. From each start the planner makes one
    plan with all its settings (guides, candidates, plausibility) and one plan without guides (see
    `without_guides`). The plans are compared with the environment. It may have these methods on
    `env.unwrapped`:

    - `clearance(positions)`: distance of positions `[..., 2]` to the nearest wall.
    - `set_observation(observation)`: sets the simulator and returns the observation.
    - `rewards_at(observations)`: reward of a step that ends at each observation.
    - `distance_to_goal(positions)`: length of the shortest path from each position to the goal.

    The last two refer to the goal of the last reset. Figures that need a missing method are left
    empty, and `PlanTruth.empty` gives the reason. The map of walls is used only to score plans.

    Args:
        planner: the planner, with the controller that follows its plans.
        make_env: makes one environment of the task; called at most `parallel` times.
        episodes: the recording that starts and limits are taken from.
        starts: number of starts; fewer if the recording does not have enough outside the goal.
        seed: seed of the starts, of the goals and of the plans' noise.
        likelihood: number of starts whose log-likelihood is computed, which is slow; 0 for none.
        likelihood_steps: Runge-Kutta steps of the log-likelihood.
        near: greatest miss of the last way-point at which a plan counts as arrived.
        parallel: maximum number of environments that are stepped together.
        progress: True to show a progress bar.

    Raises:
        PgdiffError: if no episode is as long as a plan, every start is at the goal, or an argument
            is out of range.

    Example:
        >>> planner = load_planner("runs/maze2d-umaze-v1/strided/0")  # doctest: +SKIP
        >>> episodes = load_episodes("data/maze2d-umaze-v1.hdf5")  # doctest: +SKIP
        >>> make_env = lambda: gym.make("maze2d-umaze-v1")
        >>> print(plan_truth(planner, make_env, episodes).table())  # doctest: +SKIP
    """
    check_positive_int("starts", starts)
    check_seed("seed", seed)
    check_seed("seed + starts", seed + starts)
    check_positive_int("likelihood", likelihood, minimum=0)
    check_positive_int("likelihood_steps", likelihood_steps)
    check_positive_int("parallel", parallel)
    check_range("near", near, low=0.0)
    begin = time.perf_counter()
    envs: list[gym.Env[Any, Any]] = []
    try:
        for _ in range(min(parallel, starts)):
            envs.append(make_env())
            checks.check_env(envs[-1])
            checks.check_spaces(planner, envs[-1])
        drawn = draw_starts(planner, envs[0], episodes, starts=starts, seed=seed)
        scene = _Scene(planner, envs, episodes, drawn, likelihood=(likelihood, likelihood_steps))
        plans = _make_plans(planner, drawn, scene.condition, seed=seed, progress=progress)
        rows = {name: scene.row(name, of, progress=progress) for name, of in plans.items()}
        return PlanTruth(
            rows=rows,
            limits=scene.limits(rows, near=near),
            value=scene.value(),
            empty=scene.empty,
            goals=drawn.places,
            seconds=time.perf_counter() - begin,
            settings={
                "env": checks.env_name(envs[0]),
                "wrappers": checks.wrapper_settings(envs[0]),
                "starts": len(drawn),
                "starts_at_goal": drawn.at_goal,
                "seed": seed,
                "likelihood": min(likelihood, len(drawn)),
                "position": list(scene.position),
            },
            machine=machine(),
        )
    finally:
        for env in envs:
            env.close()


def without_guides(planner: Planner) -> Planner:
    """Return a copy of a planner whose plans are single, unguided samples.

    Condition and classifier-free weight are kept. A goal that the planner inpaints is inpainted at
    the last token.
    """
    free = copy.copy(planner)
    free.goals = Goals(hold=planner.holds_goal)  # as with guides
    free.guides = ()
    free.candidates = 1
    free.selection = Selection()
    free.sampling = planner.sampling.replace(trust_region=None, particles=None, monte_carlo=None)
    free.replanning = replace(planner.replanning, warm_start=None)
    return free


def _make_plans(
    planner: Planner,
    starts: Starts,
    condition: Mapping[str, np.ndarray],
    *,
    seed: int,
    progress: bool,
) -> dict[str, Plans]:
    """Make the plans of every row from the same starts and with the same noise."""
    planners = {"unguided": without_guides(planner)}
    if planner.guides:
        planners["guided"] = planner
    rows: dict[str, Plans] = {"recorded": (starts.observations, starts.actions)}
    noise = plan_seeds(np.full(len(starts), seed), np.arange(len(starts)))
    first_observations = starts.observations[:, 0]
    for name, one in planners.items():
        plans = []
        known = known_keys(one.model, one.guides)
        for first in tqdm(
            range(0, len(starts), _PLANNED), desc=f"plan {name}", disable=not progress
        ):
            part = slice(first, first + _PLANNED)
            values = {key: value[part] for key, value in condition.items() if key in known}
            plans += one.plan_batch(first_observations[part], seeds=noise[part], condition=values)
        actions = [plan.actions for plan in plans if plan.actions is not None]
        waypoints = np.stack([plan.observations for plan in plans])
        rows[name] = (waypoints, np.stack(actions) if actions else None)
    return rows


class _Scene:
    """The environments, their optional methods, and the starts of all rows.

    Attributes:
        empty: reasons for missing figures, by name of the figure.
        condition: values of the starts that are passed to the planner, by name.
        goals: goals of the starts; None if the planner takes none.
        position: features of an observation that are a position.
    """

    def __init__(
        self,
        planner: Planner,
        envs: Sequence[gym.Env[Any, Any]],
        episodes: Episodes,
        starts: Starts,
        *,
        likelihood: tuple[int, int],
    ) -> None:
        self.planner, self.envs, self.starts = planner, envs, starts
        self.task: Any = envs[0].unwrapped
        self.empty: dict[str, str] = {}
        self.position = tuple(planner.model.codec.goal_features)
        self.condition = dict(starts.condition)
        if GOAL not in self.condition and GOAL in planner.condition:
            goal = planner.condition[GOAL].cpu().numpy()
            self.condition[GOAL] = np.repeat(goal, len(starts), axis=0)
        self.goals = self.condition.get(GOAL)
        self._walls = self._has_method("clearance", "wall cuts and way-points in walls")
        self._drives = self._has_method("set_observation", "driven legs and paths")
        if self._drives and planner.controller is None:
            self._drives = False
            self.empty["driven legs and paths"] = "the planner has no controller"
        self._rewards = self._has_method("rewards_at", "promised rewards")
        self._value = guide_value(planner)
        if self._value is None:
            self.empty["values"] = "no guide has a value of single observations"
        self._distances = self._has_method("distance_to_goal", "rank correlation of the value")
        self._likelihood, self._likelihood_steps = likelihood
        refusal = likelihood_refusal(planner) if self._likelihood else "it was left out"
        if refusal is not None:
            self.empty["likelihood"] = refusal
            self._likelihood = 0
        self._clearance = self._limit_of(episodes) if self._walls else None
        self._unit = np.ones(len(self.position)) if self._walls else _deviations(episodes)

    def row(self, name: str, plans: Plans, *, progress: bool) -> TruthRow:
        """Measure the plans of one row."""
        waypoints, actions = plans
        parts = [
            self._drive(waypoints[part], None if actions is None else actions[part], part)
            for part in tqdm(self._batches(), desc=f"drive {name}", disable=not progress)
        ]
        figures: dict[str, Any] = {
            key: np.concatenate([part[key] for part in parts]) for key in parts[0]
        }
        ends = figures.pop("leg_ends", None)
        if ends is not None:
            figures["leg_misses"] = self._misses(ends, waypoints[:, 1:])
            figures["misses"] = self._misses(figures["driven"][:, 1:], waypoints[:, 1:])
        if self._clearance is not None:
            places = np.asarray(waypoints[..., list(self.position)], np.float64)
            least = leg_clearances(places, self.task.clearance)
            figures["cuts"], figures["through"] = least <= self._clearance, least <= 0
            figures["in_wall"] = self.task.clearance(places[:, 1:]) <= 0
        if self._value is not None and ends is not None:
            value = self._value[1]
            planned, reached = (
                value(way[:, -1], self.goals) for way in (waypoints, figures["driven"])
            )
            figures["value_gaps"] = planned - reached
        if self._likelihood:
            some = slice(self._likelihood)
            figures["nats"] = plan_nats(
                self.planner,
                waypoints[some],
                None if actions is None else actions[some],
                {name: value[some] for name, value in self.condition.items()},
                steps=self._likelihood_steps,
            )
        return TruthRow(waypoints=waypoints, **figures)

    def limits(self, rows: Mapping[str, TruthRow], *, near: float) -> Limits:
        """Return the thresholds of shares, from the recorded and the unguided row."""
        recorded, nats = rows["recorded"].leg_misses, rows["unguided"].nats
        return Limits(
            clearance=self._clearance,
            miss=None if recorded is None else float(np.quantile(recorded, FEASIBLE)),
            near=near,
            unit="metres" if self._walls else "standard deviations of the recording",
            nats=None
            if nats is None
            else (float(np.median(nats)), float(np.quantile(nats, UNLIKELY))),
        )

    def value(self) -> ValueTruth | None:
        """Return the rank correlation of the guide's value; None if it cannot be measured."""
        if self._value is None or not self._distances:
            return None
        observations = self.starts.observations[:, 0]
        distances = np.empty(len(observations))
        for part in self._batches():
            envs = self._begin(part).envs
            for number, env in zip(range(part.start, part.stop), envs, strict=False):
                task: Any = env.unwrapped
                place = observations[number, list(self.position)]
                distances[number] = task.distance_to_goal(place)
        # No path leads to the goal from a position inside a wall, which a recording never holds.
        reachable = np.isfinite(distances)
        if reachable.sum() < 2:
            self.empty["rank correlation of the value"] = "no path leads to the goal"
            return None
        name, value = self._value
        return value_truth(
            value,
            observations[reachable],
            distances[reachable],
            position=self.position,
            goals=None if self.goals is None else self.goals[reachable],
            name=name,
        )

    def _limit_of(self, episodes: Episodes) -> float:
        """Return the clearance at or below which a point counts as inside a wall."""
        return recorded_clearance(episodes, self.task.clearance, position=self.position)

    def _has_method(self, method: str, figure: str) -> bool:
        """Return True if the environment has a method; else note the figure as missing."""
        if hasattr(self.task, method):
            return True
        self.empty[figure] = f"'{checks.env_name(self.envs[0])}' has no method {method}"
        return False

    def _batches(self) -> list[slice]:
        size, count = len(self.envs), len(self.starts)
        return [slice(first, min(first + size, count)) for first in range(0, count, size)]

    def _begin(self, part: slice) -> Simulators:
        """Reset an environment for each start of a part, with the start's goal."""
        simulators = Simulators(self.envs[: part.stop - part.start], self.planner)
        simulators.begin(self.starts.seeds[part].tolist())
        return simulators

    def _drive(
        self, waypoints: Waypoints, actions: Actions | None, part: slice
    ) -> dict[str, np.ndarray]:
        """Compute rewards along the straight legs, and follow the plans in the simulator."""
        figures: dict[str, np.ndarray] = {}
        simulators = self._begin(part)
        if self._rewards:
            lines = interpolate_legs(waypoints, self.planner.model.codec.spec.stride)
            tasks: list[Any] = [env.unwrapped for env in simulators.envs]
            figures["promised"] = np.array(
                [task.rewards_at(line).sum() for task, line in zip(tasks, lines, strict=True)]
            )
        if self._drives:
            starts = self.starts.observations[part, 0]
            figures["driven"], rewards = simulators.open_loop(starts, waypoints, actions)
            figures["achieved"] = rewards.sum(axis=1)
            figures["leg_ends"] = simulators.legs(waypoints, actions)
        return figures

    def _misses(self, ends: np.ndarray, targets: np.ndarray) -> np.ndarray:
        """Return distances of positions; without walls, root mean squares over all features."""
        gaps = ends.astype(np.float64) - targets
        if self._walls:
            return np.asarray(np.linalg.norm(gaps[..., list(self.position)], axis=-1))
        return np.asarray(np.sqrt(((gaps / self._unit) ** 2).mean(axis=-1)))


def _deviations(episodes: Episodes) -> Float[np.ndarray, " obs"]:
    """Return the standard deviation of every feature of a recording; 1 for a constant feature."""
    deviation = np.asarray(episodes.observations[rows_of(episodes)], np.float64).std(axis=0)
    return np.where(deviation > 0, deviation, 1.0)
