"""Termination rule of a Gymnasium task."""

from dataclasses import dataclass
from functools import cache
from typing import Any

import gymnasium as gym
import numpy as np
from jaxtyping import Bool, Float

from pgdiff.core.validation import PgdiffError


@dataclass(frozen=True)
class TaskEnds:
    """Termination rule of a task, computed by its method `ends_episode(observations)`.

    Sampled terminals miss some ends of episodes. The rule also finds ends in the sampled
    observations, for example a fallen body. It requires a model of recordings with
    `next_observations`, because only those hold the last observation of an episode.

    Attributes:
        env_id: id of an environment with the method `ends_episode`, such as the locomotion tasks of
            `pgdiff_envs`.

    Raises:
        PgdiffError: the environment does not exist, or has no method `ends_episode`.

    Example:
        >>> import numpy as np
        >>> from pgdiff.synthesis import TaskEnds
        >>> ends = TaskEnds("pgdiff_envs:walker2d-v5")
        >>> observations = np.zeros((2, 17))
        >>> observations[0, 0] = 1.2  # height of the torso; the second walker lies on the ground
        >>> ends(observations).tolist()
        [False, True]
    """

    env_id: str

    def __post_init__(self) -> None:
        if not isinstance(self.env_id, str):
            raise PgdiffError(f"`termination` must be an environment's id. Got {self.env_id!r}.")
        if not hasattr(_task(self.env_id), "ends_episode"):
            raise PgdiffError(
                f"`termination` must be an environment with ends_episode(observations). Got "
                f"'{self.env_id}' without it. The locomotion tasks of pgdiff_envs have it."
            )

    def __call__(self, observations: Float[np.ndarray, "*rows obs"]) -> Bool[np.ndarray, "*rows"]:
        """Return True for each observation that ends an episode."""
        task = _task(self.env_id)
        features = task.observation_space.shape[0]
        if observations.shape[-1] != features:
            raise PgdiffError(
                f"`termination` must be the rule of the model's task. '{self.env_id}' has "
                f"observations of {features} features. Got {observations.shape[-1]}."
            )
        ended: np.ndarray = task.ends_episode(observations)
        return ended


@cache
def _task(env_id: str) -> Any:
    try:
        return gym.make(env_id).unwrapped
    except (gym.error.Error, ImportError) as error:
        raise PgdiffError(
            f"`termination` must be an environment's id. Got '{env_id}': {error}"
        ) from error
