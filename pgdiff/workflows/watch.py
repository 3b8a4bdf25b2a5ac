"""Watching a planner act: which plan was followed when, and what was done."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from pgdiff.planning import PlanMemory, Planner
from pgdiff.trajectory import Plan


class Watched:
    """A planner that keeps the plans and the actions of the first episodes.

    Each plan is kept once, with the step at which it was first followed: a few megabytes for
    hundreds of episodes. Nothing has to be acted again to be drawn, which would not be exact: the
    rounding of networks varies with the batch.

    Args:
        planner: the planner.
        episodes: how many episodes are kept, counted over batches.
    """

    def __init__(self, planner: Planner, episodes: int) -> None:
        self.planner = planner
        self.episodes = episodes
        self.observation_shape = planner.observation_shape
        self.missing_level = getattr(planner, "missing_level", None)
        self.wants_goal = bool(getattr(planner, "wants_goal", False))
        model = planner.model
        self.observation_layout = getattr(
            planner, "observation_layout", getattr(model, "observation_layout", None)
        )
        self._followed: list[list[tuple[int, np.ndarray]]] = []
        self._rows: list[int] = []  # the episode of each row of the batch
        self._acted: list[list[np.ndarray]] = []
        self._step = 0

    @property
    def stride(self) -> int:
        """Environment steps between the way-points of a plan."""
        return int(self.planner.model.layout.stride)

    @property
    def plans_made(self) -> int:
        """How many plans the planner has made."""
        return self.planner.plans_made

    def initial_state(self, seeds: Sequence[int], goals: np.ndarray | None = None) -> PlanMemory:
        """See `Planner.initial_state`; a new batch of episodes begins with it."""
        first, self._step = len(self._followed), 0
        self._rows = list(range(first, first + len(seeds)))
        kept = min(len(seeds), self.episodes - first)
        self._followed += [[] for _ in range(kept)]
        self._acted += [[] for _ in range(kept)]
        return self.planner.initial_state(seeds, goals)

    def keep_rows(self, state: PlanMemory, rows: Sequence[int]) -> PlanMemory:
        """See `Planner.keep_rows`."""
        self._rows = [self._rows[row] for row in rows]
        return self.planner.keep_rows(state, rows)

    def predict(
        self,
        observation: Any,
        state: Any = None,
        episode_start: Any = None,
        deterministic: bool = True,
    ) -> tuple[np.ndarray, PlanMemory]:
        """See `Planner.predict`."""
        action, memory = self.planner.predict(observation, state, episode_start, deterministic)
        for number, waypoints in zip(self._rows, memory.waypoints, strict=True):
            if number >= len(self._followed):  # not kept
                continue
            episode = self._followed[number]
            if not episode or not np.array_equal(episode[-1][1], waypoints):
                episode.append((self._step, waypoints.copy()))
        for number, row in zip(self._rows, action, strict=True):
            if number < len(self._acted):
                self._acted[number].append(np.array(row))
        self._step += 1
        return action, memory

    def actions(self, episode: int, *, steps: int) -> list[np.ndarray]:
        """Return the actions of the first `steps` steps of an episode; empty where not kept."""
        return self._acted[episode][:steps] if episode < len(self._acted) else []

    def followed(self, episode: int, *, steps: int) -> list[tuple[int, np.ndarray]]:
        """Each plan of an episode once: the step from which on it was followed, its way-points.

        Args:
            episode: from 0, over all batches.
            steps: of that episode; what was planned for it after its end is left out.
        """
        if episode >= len(self._followed):
            return []
        return [(step, waypoints) for step, waypoints in self._followed[episode] if step < steps]

    def plans(self, episode: int, *, steps: int) -> list[Plan] | None:
        """Return the plan followed at each step of an episode; None where it was not kept."""
        followed = self.followed(episode, steps=steps)
        if not followed:
            return None
        stride = self.planner.model.layout.stride
        ends = [step for step, _ in followed[1:]] + [steps]
        plans: list[Plan] = []
        for (step, waypoints), end in zip(followed, ends, strict=True):
            plan = Plan(
                observations=waypoints,
                actions=None,
                candidates=waypoints[None],
                scores=np.full(1, np.nan, dtype=np.float32),
                best=0,
                stride=stride,
            )
            plans += [plan] * (end - step)
        return plans
