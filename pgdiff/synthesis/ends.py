"""Where episodes end, by the rule of a Gymnasium task."""

from dataclasses import dataclass
from functools import cache
from typing import Any

import gymnasium as gym
import numpy as np
from jaxtyping import Bool, Float

from pgdiff.validation import PgdiffError


@dataclass(frozen=True)
class TaskEnds:
    """Which observations end an episode of a task, as its `ends_episode(observations)` says.

    Models draw terminals, and miss some: of a trajectory that falls, the fallen observation tells
    more surely. That takes a model of recordings with `next_observations`, which has seen such
    observations.

    Attributes:
        env_id: of an environment whose task has `ends_episode`, as `pgdiff_envs`' locomotion has.

    Raises:
        PgdiffError: no such environment, or one without the rule.
    """

    env_id: str

    def __post_init__(self) -> None:
        if not isinstance(self.env_id, str):
            raise PgdiffError(f"`ends` must be an environment's id. Got {self.env_id!r}.")
        if not hasattr(_task(self.env_id), "ends_episode"):
            raise PgdiffError(
                f"`ends` must be an environment with ends_episode(observations). Got "
                f"'{self.env_id}' without it; pgdiff_envs' locomotion tasks have it."
            )

    def __call__(self, observations: Float[np.ndarray, "*rows obs"]) -> Bool[np.ndarray, "*rows"]:
        """Whether each observation ends an episode."""
        task = _task(self.env_id)
        wanted = task.observation_space.shape[0]
        if observations.shape[-1] != wanted:
            raise PgdiffError(
                f"`ends` must be of the model's task. '{self.env_id}' has observations of {wanted} "
                f"features. Got {observations.shape[-1]}."
            )
        over: np.ndarray = task.ends_episode(observations)
        return over


@cache
def _task(env_id: str) -> Any:
    try:
        return gym.make(env_id).unwrapped
    except (gym.error.Error, ImportError) as error:
        raise PgdiffError(f"`ends` must be an environment's id. Got '{env_id}': {error}") from error
