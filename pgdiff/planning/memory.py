"""What a planner remembers between calls of `predict`, for each environment."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int


class PlanMemory(NamedTuple):
    """The state that `Planner.predict` gives and takes; arrays are never changed in place.

    Attributes:
        waypoints: `[environments, tokens, observation]`, the plan that each follows.
        age: `[environments]`, steps since it was made; negative where there is none yet.
        seed: `[environments]`, seed of each environment's noise.
        plans: `[environments]`, plans made so far, which vary the noise.
    """

    waypoints: Float[np.ndarray, "environments tokens observation"]
    age: Int[np.ndarray, " environments"]
    seed: Int[np.ndarray, " environments"]
    plans: Int[np.ndarray, " environments"]

    @classmethod
    def empty(cls, seeds: Sequence[int], *, tokens: int, observation: int) -> "PlanMemory":
        """No plan yet, for as many environments as there are seeds."""
        count = len(seeds)
        return cls(
            waypoints=np.zeros((count, tokens, observation), dtype=np.float32),
            age=np.full(count, -1, dtype=np.int64),
            seed=np.asarray(seeds, dtype=np.int64),
            plans=np.zeros(count, dtype=np.int64),
        )

    def with_plans(
        self,
        due: Bool[np.ndarray, " environments"],
        waypoints: Float[np.ndarray, "due tokens observation"],
    ) -> "PlanMemory":
        """New plans where they were due."""
        kept = self.waypoints.copy()
        kept[due] = waypoints
        return self._replace(waypoints=kept, age=np.where(due, 0, self.age), plans=self.plans + due)

    def target(
        self, stride: int
    ) -> tuple[Float[np.ndarray, "environments observation"], Int[np.ndarray, " environments"]]:
        """Way-point that each environment now drives to, and the steps left to it.

        Past the end of a plan the last way-point is held.
        """
        last = self.waypoints.shape[1] - 1
        token = np.minimum(self.age // stride + 1, last)
        left = token * stride - self.age
        steps = np.where(left >= 1, left, stride)
        return self.waypoints[np.arange(len(token)), token], steps
