"""What a planner remembers between calls of `predict`, for each environment."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from pgdiff.planning.past import Past
from pgdiff.planning.previous import shifted
from pgdiff.validation import PgdiffError


class PlanMemory(NamedTuple):
    """The state that `Planner.predict` gives and takes; arrays are never changed in place.

    Attributes:
        waypoints: `[environments, tokens, observation]`, the plan that each follows.
        age: `[environments]`, steps since it was made; negative where there is none yet.
        seed: `[environments]`, seed of each environment's noise.
        plans: `[environments]`, plans made so far, which vary the noise.
        goal: `[environments, goal]`, what each is to reach; None where no goal is told.
        actions: `[environments, steps, action]`, the plan's own action for every step; None where
            the model generates none.
        past: what was seen and done before now; None where observations are seen alone.
    """

    waypoints: Float[np.ndarray, "environments tokens observation"]
    age: Int[np.ndarray, " environments"]
    seed: Int[np.ndarray, " environments"]
    plans: Int[np.ndarray, " environments"]
    goal: Float[np.ndarray, "environments goal"] | None = None
    actions: Float[np.ndarray, "environments steps action"] | None = None
    past: Past | None = None

    @classmethod
    def empty(
        cls,
        seeds: Sequence[int],
        *,
        tokens: int,
        observation: int,
        goal: Float[np.ndarray, "environments goal"] | None = None,
    ) -> "PlanMemory":
        """No plan yet, for as many environments as there are seeds."""
        count = len(seeds)
        return cls(
            waypoints=np.zeros((count, tokens, observation), dtype=np.float32),
            age=np.full(count, -1, dtype=np.int64),
            seed=np.asarray(seeds, dtype=np.int64),
            plans=np.zeros(count, dtype=np.int64),
            goal=goal,
        )

    def sizes(self) -> dict[str, tuple[int, ...] | None]:
        """What must be the same for a planner that goes on from here; None for what is not there.

        Without the number of environments: tokens and features of the plans, steps and features of
        the past's observations and actions, and of the plans' own actions.
        """
        past, actions = self.past, self.actions
        return {
            "a plan": self.waypoints.shape[1:],
            "a past": None if past is None else past.observations.shape[1:],
            "actions of a past": None if past is None else past.actions.shape[1:],
            "actions of a plan": None if actions is None else actions.shape[1:],
        }

    def rows(self, rows: Sequence[int]) -> "PlanMemory":
        """Return the memory of these environments alone, in this order."""
        kept = list(rows)
        past = None if self.past is None else Past(*(part[kept] for part in self.past))
        return self._replace(
            waypoints=self.waypoints[kept],
            age=self.age[kept],
            seed=self.seed[kept],
            plans=self.plans[kept],
            goal=None if self.goal is None else self.goal[kept],
            actions=None if self.actions is None else self.actions[kept],
            past=past,
        )

    def begun(self, episode_start: Any) -> "PlanMemory":
        """The memory without the plans of episodes that are over.

        Args:
            episode_start: one flag an environment, or one for all; None where none has begun.
        """
        if episode_start is None:
            return self
        started = np.asarray(episode_start, dtype=bool)
        if started.shape not in ((), self.age.shape):
            raise PgdiffError(
                f"`episode_start` must hold {len(self.age)} flags, one an environment. "
                f"Got the shape {list(started.shape)}."
            )
        past = None if self.past is None else self.past.begun(started)
        return self._replace(age=np.where(started, -1, self.age), past=past)

    def due(self, replan_every: int | None) -> Bool[np.ndarray, " environments"]:
        """Where a new plan is to be made; None for open loop."""
        due: np.ndarray = self.age < 0
        return due if replan_every is None else due | (self.age >= replan_every)

    def with_plans(
        self,
        due: Bool[np.ndarray, " environments"],
        waypoints: Float[np.ndarray, "due tokens observation"],
        actions: Float[np.ndarray, "due steps action"] | None = None,
    ) -> "PlanMemory":
        """New plans where they were due."""
        kept = self.waypoints.copy()
        kept[due] = waypoints
        kept_actions = None
        if actions is not None:
            shape = (len(due), *actions.shape[1:])
            kept_actions = np.zeros(shape, actions.dtype)
            if self.actions is not None:
                kept_actions[:] = self.actions
            kept_actions[due] = actions
        return self._replace(
            waypoints=kept,
            age=np.where(due, 0, self.age),
            plans=self.plans + due,
            actions=kept_actions,
        )

    def target(
        self, stride: int, lookahead: int = 1
    ) -> tuple[Float[np.ndarray, "environments observation"], Int[np.ndarray, " environments"]]:
        """Way-point that each environment now drives to, and the steps left to it.

        Past the end of a plan the last way-point is held, always as far ahead.

        Args:
            stride: environment steps between way-points.
            lookahead: how many way-points ahead; 1 is the next.
        """
        last = self.waypoints.shape[1] - 1
        token = np.minimum(self.age // stride + lookahead, last)
        left = token * stride - self.age
        steps = np.where(left >= 1, left, lookahead * stride)
        return self.waypoints[np.arange(len(token)), token], steps

    def expected(self, stride: int) -> Float[np.ndarray, "environments observation"]:
        """What the plans have for now, on a straight line between two tokens.

        Args:
            stride: environment steps between way-points.
        """
        now = shifted(self.waypoints, None, np.maximum(self.age, 0), stride)
        return now.observations[:, 0]

    def action(self) -> Float[np.ndarray, "environments action"]:
        """The plan's own action for this step; past the end of a plan its last one."""
        assert self.actions is not None
        step = np.minimum(self.age, self.actions.shape[1] - 1)
        acted: np.ndarray = self.actions[np.arange(len(step)), step]
        return acted
