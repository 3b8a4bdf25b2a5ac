"""Agent with Gaussian noise on its actions."""

from typing import Any

import gymnasium
import numpy as np
from jaxtyping import Float

from pgdiff.core.validation import PgdiffError, as_array, check_range, check_seed
from pgdiff.workflows.recording.recorder import Agent


class NoisyAgent:
    """Wrapper of an agent that adds Gaussian noise to its actions and clips them.

    The noise of an episode depends on the seed and on the number of episodes begun earlier
    (according to `episode_start`), but not on the other rows of the batch.

    Args:
        agent: the wrapped agent.
        action_space: bounded Box; actions are clipped to it.
        noise: standard deviation of the noise, in units of half the action range.
        seed: seed of the noise.
        deterministic: use the agent's mean action instead of a sampled one.

    Raises:
        PgdiffError: `noise` or `seed` is out of range, or the action space has no bounds.
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
            raise PgdiffError(f"`action_space` must have finite bounds. Got {action_space}.")
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
        """Return noisy actions, or the agent's mean actions if `deterministic` is set.

        Raises:
            PgdiffError: the agent returns actions of a wrong shape or non-finite values.
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
                f"The agent must return finite actions of shape {shape}. Got {action!r}."
            )
        if not deterministic:
            action = action + self._scale * self._noise(shape, episode_start)
        clipped = np.clip(action, self.action_space.low, self.action_space.high)
        return clipped.astype(self.action_space.dtype), state

    def _noise(self, shape: tuple[int, ...], episode_start: Any) -> Float[np.ndarray, "..."]:
        """Return standard normal noise, drawn per row from the generator of its episode."""
        rows = shape[0] if len(shape) > 1 else 1
        starts = np.broadcast_to(False if episode_start is None else episode_start, rows)
        for row in range(rows):
            if starts[row] or row not in self._draws:
                self._draws[row] = np.random.default_rng([self._seed, self._episodes])
                self._episodes += 1
        drawn = [self._draws[row].standard_normal(shape[-1]) for row in range(rows)]
        return np.reshape(drawn, shape)
