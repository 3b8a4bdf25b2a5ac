"""Watching a planner act: which plan was followed at every step."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from pgdiff.planning import PlanMemory, Planner
from pgdiff.trajectory import Plan


class Watched:
    """A planner that keeps the way-points followed in the first episodes of its first batch.

    Args:
        planner: the planner.
        episodes: how many episodes are kept.
    """

    def __init__(self, planner: Planner, episodes: int) -> None:
        self.planner = planner
        self.episodes = episodes
        self.observation_shape = planner.observation_shape
        self._followed: list[np.ndarray] = []
        self._batches = 0

    @property
    def plans_made(self) -> int:
        """How many plans the planner has made."""
        return self.planner.plans_made

    def initial_state(self, seeds: Sequence[int]) -> PlanMemory:
        """See `Planner.initial_state`; a new batch begins with it."""
        self._batches += 1
        return self.planner.initial_state(seeds)

    def predict(
        self,
        observation: Any,
        state: Any = None,
        episode_start: Any = None,
        deterministic: bool = True,
    ) -> tuple[np.ndarray, PlanMemory]:
        """See `Planner.predict`."""
        action, memory = self.planner.predict(observation, state, episode_start, deterministic)
        if self._batches <= 1 and self.episodes > 0:
            self._followed.append(memory.waypoints[: self.episodes])
        return action, memory

    def plans(self, episode: int, *, steps: int) -> list[Plan] | None:
        """Return the plan followed at each step of an episode; None where it was not kept."""
        if len(self._followed) < steps or episode >= len(self._followed[0]):
            return None
        stride = self.planner.model.layout.stride
        return [
            Plan(
                observations=waypoints[episode],
                actions=None,
                candidates=waypoints[episode, None],
                scores=np.full(1, np.nan, dtype=np.float32),
                best=0,
                stride=stride,
            )
            for waypoints in self._followed[:steps]
        ]
