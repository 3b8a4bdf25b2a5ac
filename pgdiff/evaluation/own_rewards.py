"""The rewards of an environment below its wrappers, which may change them."""

from contextlib import suppress
from typing import Any

import gymnasium as gym
import numpy as np

_NEUTRAL = (
    gym.wrappers.TimeLimit,
    gym.wrappers.OrderEnforcing,
    gym.wrappers.PassiveEnvChecker,
    gym.ObservationWrapper,
    gym.ActionWrapper,
)
"""Wrappers that pass rewards on and make one step of each step."""


class OwnRewards:
    """Notes the rewards and steps of the innermost environment.

    A normalised score is a scale for the rewards that the task itself pays. Whether a wrapper
    changes them cannot be seen from its class, so both sides are summed and compared. Where all
    wrappers are known to pass rewards on, nothing is noted.

    Args:
        env: the wrapped environment. The step method of `env.unwrapped` is replaced by one that
            notes its rewards, until `release` is called.

    Attributes:
        total: sum of the rewards since `restart`.
        steps: number of steps since `restart`.
        watching: whether anything is noted.
    """

    def __init__(self, env: gym.Env[Any, Any]) -> None:
        self._base: Any = env.unwrapped
        self.total = 0.0
        self.steps = 0
        self.watching = False
        if _all_neutral(env):
            return
        step = self._base.step

        def noted(action: Any) -> Any:
            result = step(action)
            self.steps += 1
            with suppress(TypeError, ValueError, IndexError):  # `checks.step` names the fault
                self.total += np.asarray(result[1], dtype=np.float64).item()
            return result

        with suppress(AttributeError):  # a class with slots
            self._base.__dict__["step"] = noted
            self.watching = True

    def restart(self) -> None:
        """Begin an episode."""
        self.total, self.steps = 0.0, 0

    def release(self) -> None:
        """Give the environment its own step method back."""
        if self.watching:
            del self._base.__dict__["step"]
            self.watching = False


def _all_neutral(env: Any) -> bool:
    while isinstance(env, gym.Wrapper):
        if not isinstance(env, _NEUTRAL):
            return False
        env = env.env
    return True
