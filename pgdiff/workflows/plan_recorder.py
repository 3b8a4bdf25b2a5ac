"""Recorder of a planner's plans and actions during an evaluation."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from pgdiff.planning import Planner, PlannerState
from pgdiff.trajectory import Plan


class PlanRecorder:
    """Agent that wraps a planner and records the plans and actions of the first episodes.

    Each plan is stored once, with the step at which it was first followed, which takes a few
    megabytes for hundreds of episodes. Episodes need not be repeated for pictures; a repetition
    would not be exact, because the rounding of networks varies with the batch.

    Args:
        planner: the planner.
        episodes: number of recorded episodes, counted over batches.
    """

    def __init__(self, planner: Planner, episodes: int) -> None:
        self.planner = planner
        self.episodes = episodes
        self.observation_shape = planner.observation_shape
        self.missing_level = getattr(planner, "missing_level", None)
        self.condition_keys = tuple(getattr(planner, "condition_keys", ()))
        model = planner.model
        self.observation_layout = getattr(
            planner, "observation_layout", getattr(model, "observation_layout", None)
        )
        self._followed: list[list[tuple[int, np.ndarray]]] = []
        self._rows: list[int] = []  # episode of each row of the batch
        self._acted: list[list[np.ndarray]] = []
        self._step = 0

    @property
    def stride(self) -> int:
        """Environment steps between the way-points of a plan."""
        return int(self.planner.model.codec.spec.stride)

    @property
    def plans_made(self) -> int:
        """Number of plans that the planner has made."""
        return self.planner.plans_made

    def initial_state(
        self, seeds: Sequence[int], condition: Mapping[str, Any] | None = None
    ) -> PlannerState:
        """Begin a new batch of episodes; see `Planner.initial_state`."""
        first, self._step = len(self._followed), 0
        self._rows = list(range(first, first + len(seeds)))
        kept = min(len(seeds), self.episodes - first)
        self._followed += [[] for _ in range(kept)]
        self._acted += [[] for _ in range(kept)]
        return self.planner.initial_state(seeds, condition)

    def keep_rows(self, state: PlannerState, rows: Sequence[int]) -> PlannerState:
        """See `Planner.keep_rows`."""
        self._rows = [self._rows[row] for row in rows]
        return self.planner.keep_rows(state, rows)

    def predict(
        self,
        observation: Any,
        state: Any = None,
        episode_start: Any = None,
        deterministic: bool = True,
    ) -> tuple[np.ndarray, PlannerState]:
        """See `Planner.predict`."""
        action, memory = self.planner.predict(observation, state, episode_start, deterministic)
        for number, waypoints in zip(self._rows, memory.waypoints, strict=True):
            if number >= len(self._followed):  # not recorded
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
        """Return the actions of the first `steps` steps of an episode; empty if not recorded."""
        return self._acted[episode][:steps] if episode < len(self._acted) else []

    def followed(self, episode: int, *, steps: int) -> list[tuple[int, np.ndarray]]:
        """Return each plan of an episode once: its first followed step and its way-points.

        Args:
            episode: index of the episode over all batches, from 0.
            steps: length of the episode; plans made after its end are left out.
        """
        if episode >= len(self._followed):
            return []
        return [(step, waypoints) for step, waypoints in self._followed[episode] if step < steps]

    def plans(self, episode: int, *, steps: int) -> list[Plan] | None:
        """Return the plan followed at each step of an episode; None if it was not recorded."""
        followed = self.followed(episode, steps=steps)
        if not followed:
            return None
        stride = self.planner.model.codec.spec.stride
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
