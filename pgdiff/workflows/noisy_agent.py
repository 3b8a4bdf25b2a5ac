"""An agent whose actions are disturbed."""

from typing import Any

import gymnasium
import numpy as np
from jaxtyping import Float

from pgdiff.validation import PgdiffError, as_array, check_range, check_seed
from pgdiff.workflows.recording import Agent


class NoisyAgent:
    """An agent with Gaussian noise on its actions, which are clipped to the action space.

    The noise of an episode depends on the seed and on how many episodes have begun before it, as
    `episode_start` tells, whatever else is in the batch.

    Args:
        agent: asked for the actions.
        action_space: a bounded Box.
        noise: standard deviation in units of half the action range.
        seed: of the noise.
        deterministic: whether the agent is asked for its mean action.

    Raises:
        PgdiffError: a bad `noise` or `seed`, or an action space without bounds.
    """

    def __init__(
        self,
        agent: Agent,
        *,
        action_space: gymnasium.spaces.Box,
        noise: float,
        seed: int,
        deterministic: bool = True,
    ) -> None:
        if not action_space.is_bounded():
            raise PgdiffError(f"`action_space` must have bounds. Got {action_space}.")
        self.action_space = action_space
        self._agent = agent
        self._scale = check_range("noise", noise, low=0.0) * (action_space.high - action_space.low)
        self._scale = self._scale / 2
        self._seed = check_seed("seed", seed)
        self._deterministic = deterministic
        self._episodes = 0
        self._draws: dict[int, np.random.Generator] = {}  # by row of the batch

    def predict(
        self,
        observation: np.ndarray,
        state: Any = None,
        episode_start: Any = None,
        deterministic: bool = False,
    ) -> tuple[Float[np.ndarray, "*batch action"], Any]:
        """Return noisy actions, or with `deterministic` the agent's mean actions.

        Raises:
            PgdiffError: the agent gives what is no finite action.
        """
        action, state = self._agent.predict(
            observation,
            state=state,
            episode_start=episode_start,
            deterministic=deterministic or self._deterministic,
        )
        action = as_array("agent.predict", action)
        shape = (*np.shape(observation)[:-1], *self.action_space.shape)
        if np.shape(action) != shape or not np.isfinite(action).all():
            raise PgdiffError(
                f"The agent must give finite actions of shape {shape}. Got {action!r}."
            )
        if not deterministic:
            action = action + self._scale * self._noise(shape, episode_start)
        clipped = np.clip(action, self.action_space.low, self.action_space.high)
        return clipped.astype(self.action_space.dtype), state

    def _noise(self, shape: tuple[int, ...], episode_start: Any) -> Float[np.ndarray, "..."]:
        """Standard normal numbers, each row's from its own episode's generator."""
        rows = shape[0] if len(shape) > 1 else 1
        starts = np.broadcast_to(False if episode_start is None else episode_start, rows)
        for row in range(rows):
            if starts[row] or row not in self._draws:
                self._draws[row] = np.random.default_rng([self._seed, self._episodes])
                self._episodes += 1
        drawn = [self._draws[row].standard_normal(shape[-1]) for row in range(rows)]
        return np.reshape(drawn, shape)
