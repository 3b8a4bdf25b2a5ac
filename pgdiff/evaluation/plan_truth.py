"""Whether plans can be followed: what they cut through, promise, and miss."""

import copy
import time
from collections.abc import Mapping, Sequence
from typing import Any

import gymnasium as gym
import numpy as np
from jaxtyping import Float
from tqdm import tqdm

from pgdiff.data import Episodes
from pgdiff.data.transitions import rows_of
from pgdiff.evaluation import checks
from pgdiff.evaluation.machine import machine
from pgdiff.evaluation.rollouts import MakeEnv
from pgdiff.evaluation.truth_likelihood import STEPS, likelihood_refusal, plan_nats
from pgdiff.evaluation.truth_report import Limits, PlanTruth, TruthRow
from pgdiff.evaluation.truth_rollouts import Simulators, straight
from pgdiff.evaluation.truth_starts import Starts, draw_starts
from pgdiff.evaluation.value_truth import ValueTruth, guide_value, value_truth
from pgdiff.evaluation.wall_cuts import leg_clearances, recorded_clearance
from pgdiff.planning import Planner
from pgdiff.planning.goals import GOAL
from pgdiff.planning.inputs import plan_seeds
from pgdiff.validation import check_positive_int, check_range, check_seed

FEASIBLE, UNLIKELY = 0.99, 0.01
"""Quantiles of the recorded legs' misses, and of the unguided plans' likelihood."""
NEAR = 0.5
_PLANNED = 32
"""Starts that are planned for in one batch."""

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
    """Measure recorded segments, unguided plans and a planner's own plans from the same starts.

    The starts are rows of the recording outside the goal. From each, the planner plans once with
    its whole set-up (guides, candidates, plausibility), and once as `without_guides` has it. Then
    the plans are compared with the environment, which may offer, on `env.unwrapped`:

    - `clearance(positions)`, the distance of positions `[..., 2]` to the nearest wall;
    - `set_observation(observation)`, which sets the simulator and returns the observation;
    - `rewards_at(observations)`, the reward of a step that ends at each observation;
    - `distance_to_goal(positions)`, the length of the true way from each position.

    The last two are for the goal of the last reset. Figures for which a method is missing stay
    empty, and `PlanTruth.empty` says why. A map of walls scores plans here and never makes them.

    Args:
        planner: whose plans are measured, and whose controller drives.
        make_env: makes one environment of the task; called at most `parallel` times.
        episodes: the recording that the starts and the limits are taken from.
        starts: how many starts; fewer where the recording has no more outside the goal.
        seed: of the starts, of the goals, and of the plans' noise.
        likelihood: of how many starts the log-likelihood is taken, which takes long; 0 for none.
        likelihood_steps: Runge-Kutta steps of the log-likelihood.
        near: miss of the last way-point up to which a plan counts as arrived.
        parallel: how many environments at most are stepped side by side.
        progress: whether to show a progress bar.

    Raises:
        PgdiffError: if no episode is as long as a plan, every start is at the goal, or an argument
            is out of range.

    Example:
        planner = Planner.from_run("runs/maze2d-umaze-v1/strided/0")
        episodes = load_episodes("data/maze2d-umaze-v1.hdf5")
        found = plan_truth(planner, lambda: gym.make("maze2d-umaze-v1"), episodes)
        print(found.table())
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
            checks.check_fit(planner, envs[-1])
        drawn = draw_starts(planner, envs[0], episodes, starts=starts, seed=seed)
        scene = _Scene(planner, envs, episodes, drawn, likelihood=(likelihood, likelihood_steps))
        plans = _plans_of(planner, drawn, scene.goals, seed=seed, progress=progress)
        rows = {name: scene.row(name, of, progress=progress) for name, of in plans.items()}
        return PlanTruth(
            rows=rows,
            limits=scene.limits(rows, near=near),
            value=scene.value(),
            empty=scene.empty,
            goals=drawn.places,
            seconds=time.perf_counter() - begin,
            settings={
                "env": checks.name_of(envs[0]),
                "wrappers": checks.wrappers_of(envs[0]),
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
    """Return a planner of the same model and sampling whose plans are single, unguided samples.

    Condition and classifier-free weight stay; a goal that the planner holds is held at the last
    token.
    """
    free = copy.copy(planner)
    free.hold_goal = planner.holds_goal  # as with the guides
    free.guides = ()
    free.candidates = 1
    free.keep_plan = False
    free.arrivals = free.scale_factors = free.plausibility = None
    free.trust_region = free.resample = free.monte_carlo = free.warm_start = None
    return free


def _plans_of(
    planner: Planner,
    starts: Starts,
    goals: Float[np.ndarray, "plans goal"] | None,
    *,
    seed: int,
    progress: bool,
) -> dict[str, Plans]:
    """Return the plans of every row, from the same starts and with the same noise."""
    planners = {"unguided": without_guides(planner)}
    if planner.guides:
        planners["guided"] = planner
    found: dict[str, Plans] = {"recorded": (starts.observations, starts.actions)}
    noise = plan_seeds(np.full(len(starts), seed), np.arange(len(starts)))
    given = starts.observations[:, 0]
    for name, one in planners.items():
        plans = []
        for first in tqdm(
            range(0, len(starts), _PLANNED), desc=f"plan {name}", disable=not progress
        ):
            part = slice(first, first + _PLANNED)
            told = None if goals is None else goals[part]
            plans += one.plan_batch(given[part], seeds=noise[part], goals=told)
        own = [plan.actions for plan in plans if plan.actions is not None]
        waypoints = np.stack([plan.observations for plan in plans])
        found[name] = (waypoints, np.stack(own) if own else None)
    return found


class _Scene:
    """The environments, what they offer, and the starts of all rows.

    Attributes:
        empty: why a figure is not measured, by what it is.
        goals: of the starts, as the planner is given them; None where it is given none.
        position: features of an observation that are a place.
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
        self.position = tuple(planner.model.position)
        self.goals = starts.goals
        if self.goals is None and GOAL in planner.condition:
            goal = planner.condition[GOAL].cpu().numpy()
            self.goals = np.repeat(goal, len(starts), axis=0)
        self._walls = self._offers("clearance", "wall cuts and way-points in walls")
        self._drives = self._offers("set_observation", "legs and ways that are driven")
        if self._drives and planner.controller is None:
            self._drives = False
            self.empty["legs and ways that are driven"] = "the planner has no controller"
        self._rewards = self._offers("rewards_at", "promised rewards")
        self._value = guide_value(planner)
        if self._value is None:
            self.empty["values"] = "no guide has a value of single observations"
        self._distances = self._offers("distance_to_goal", "rank correlation of the value")
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
            self._driven(waypoints[part], None if actions is None else actions[part], part)
            for part in tqdm(self._batches(), desc=f"drive {name}", disable=not progress)
        ]
        found: dict[str, Any] = {
            key: np.concatenate([part[key] for part in parts]) for key in parts[0]
        }
        ends = found.pop("leg_ends", None)
        if ends is not None:
            found["leg_misses"] = self._misses(ends, waypoints[:, 1:])
            found["misses"] = self._misses(found["driven"][:, 1:], waypoints[:, 1:])
        if self._clearance is not None:
            places = np.asarray(waypoints[..., list(self.position)], np.float64)
            least = leg_clearances(places, self.task.clearance)
            found["cuts"], found["through"] = least <= self._clearance, least <= 0
            found["in_wall"] = self.task.clearance(places[:, 1:]) <= 0
        if self._value is not None and ends is not None:
            value = self._value[1]
            planned, reached = (
                value(way[:, -1], self.goals) for way in (waypoints, found["driven"])
            )
            found["value_gaps"] = planned - reached
        if self._likelihood:
            some = slice(self._likelihood)
            found["nats"] = plan_nats(
                self.planner,
                waypoints[some],
                None if actions is None else actions[some],
                None if self.goals is None else self.goals[some],
                steps=self._likelihood_steps,
            )
        return TruthRow(waypoints=waypoints, **found)

    def limits(self, rows: Mapping[str, TruthRow], *, near: float) -> Limits:
        """Return what shares are counted by, of the recorded and the unguided row."""
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
        """Return how well the guide's value orders the starts."""
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
        # From a place inside a wall, where a recorded ball never is, no way leads anywhere.
        there = np.isfinite(distances)
        if there.sum() < 2:
            self.empty["rank correlation of the value"] = "no way leads to the goal"
            return None
        name, value = self._value
        return value_truth(
            value,
            observations[there],
            distances[there],
            position=self.position,
            goals=None if self.goals is None else self.goals[there],
            name=name,
        )

    def _limit_of(self, episodes: Episodes) -> float:
        """Return the clearance at which a point counts as in a wall."""
        return recorded_clearance(episodes, self.task.clearance, position=self.position)

    def _offers(self, method: str, what: str) -> bool:
        """Whether the environment has a method; else note what is not measured without it."""
        if hasattr(self.task, method):
            return True
        self.empty[what] = f"'{checks.name_of(self.envs[0])}' has no method {method}"
        return False

    def _batches(self) -> list[slice]:
        size, count = len(self.envs), len(self.starts)
        return [slice(first, min(first + size, count)) for first in range(0, count, size)]

    def _begin(self, part: slice) -> Simulators:
        """Reset an environment for each of some starts, with the start's own goal."""
        simulators = Simulators(self.envs[: part.stop - part.start], self.planner)
        simulators.begin(self.starts.seeds[part].tolist())
        return simulators

    def _driven(
        self, waypoints: Waypoints, actions: Actions | None, part: slice
    ) -> dict[str, np.ndarray]:
        """Rewards along the straight legs, and what the simulator makes of some plans."""
        found: dict[str, np.ndarray] = {}
        simulators = self._begin(part)
        if self._rewards:
            lines = straight(waypoints, self.planner.model.layout.stride)
            tasks: list[Any] = [env.unwrapped for env in simulators.envs]
            found["promised"] = np.array(
                [task.rewards_at(line).sum() for task, line in zip(tasks, lines, strict=True)]
            )
        if self._drives:
            starts = self.starts.observations[part, 0]
            found["driven"], rewards = simulators.open_loop(starts, waypoints, actions)
            found["achieved"] = rewards.sum(axis=1)
            found["leg_ends"] = simulators.legs(waypoints, actions)
        return found

    def _misses(self, ends: np.ndarray, targets: np.ndarray) -> np.ndarray:
        """Distance of places; without walls, root mean square over all features."""
        gaps = ends.astype(np.float64) - targets
        if self._walls:
            return np.asarray(np.linalg.norm(gaps[..., list(self.position)], axis=-1))
        return np.asarray(np.sqrt(((gaps / self._unit) ** 2).mean(axis=-1)))


def _deviations(episodes: Episodes) -> Float[np.ndarray, " obs"]:
    """Standard deviation of every feature of a recording; 1 where a feature is constant."""
    deviation = np.asarray(episodes.observations[rows_of(episodes)], np.float64).std(axis=0)
    return np.where(deviation > 0, deviation, 1.0)
