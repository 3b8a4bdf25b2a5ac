"""Wrappers of evaluations: noisy observations, and the task's rewards below other wrappers."""

from contextlib import suppress
from typing import Any

import gymnasium as gym
import numpy as np
from jaxtyping import Float

from pgdiff.core.validation import PgdiffError, check_flag, check_range


class NoisyObservations(gym.Wrapper[Any, Any, Any, Any], gym.utils.RecordConstructorArgs):
    """Wrapper that adds Gaussian noise to observations and drops some of them.

    The seed of `reset` determines the noise and the dropped steps, whatever the actions are. A
    reset without a seed continues the random stream; before the first seed it is not reproducible.

    Args:
        env: environment with flat observations of floats.
        noise: standard deviation of the noise in the observation's units: one number, or one for
            each feature.
        dropped: probability that an observation is dropped, in [0, 1). The first observation of an
            episode is never dropped.
        stale: True to repeat the last observation in place of a dropped one; False to return NaN.

    Raises:
        PgdiffError: if a setting is out of range or the observations are not a flat box of floats.

    Example:
        >>> from pgdiff.evaluation import NoisyObservations
        >>> env = NoisyObservations(gym.make("CartPole-v1"), noise=0.1, dropped=0.2)
        >>> observation, info = env.reset(seed=0)
        >>> observation.shape
        (4,)
    """

    def __init__(
        self,
        env: gym.Env[Any, Any],
        *,
        noise: float | Float[np.ndarray, " observation"] = 0.0,
        dropped: float = 0.0,
        stale: bool = True,
    ) -> None:
        gym.utils.RecordConstructorArgs.__init__(self, noise=noise, dropped=dropped, stale=stale)
        gym.Wrapper.__init__(self, env)
        shape = getattr(env.observation_space, "shape", None)
        box = isinstance(env.observation_space, gym.spaces.Box)
        floats = getattr(env.observation_space, "dtype", np.dtype(int)).kind == "f"
        if not box or not floats or len(shape or ()) != 1:
            raise PgdiffError(
                f"`env` must have flat observations of floats. Got {env.observation_space}."
            )
        try:
            deviations = np.asarray(noise, dtype=np.float64)
        except (TypeError, ValueError):
            deviations = np.array(np.nan)
        if deviations.shape not in ((), shape) or not (
            np.isfinite(deviations).all() and (deviations >= 0).all()
        ):
            raise PgdiffError(
                "`noise` must be a number of at least 0, or an array with one for each feature, "
                f"shape {shape}. Got {noise!r}."
            )
        self.noise = deviations
        self.dropped = check_range("dropped", dropped, low=0.0, high=1.0, open_high=True)
        self.stale = check_flag("stale", stale)
        self._source = np.random.default_rng()
        self._last: Any = None

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """Begin an episode. Its first observation may be noisy but is not dropped."""
        observation, info = self.env.reset(seed=seed, options=options)
        if seed is not None:
            self._source = np.random.default_rng([seed, 0x0B5])
        self._last = self._noisy(observation)
        return self._last.copy(), info

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        """Take a step. Its observation may be noisy, or dropped."""
        observation, reward, terminated, truncated, info = self.env.step(action)
        noisy = self._noisy(observation)  # drawn for dropped observations too
        if self._source.random() < self.dropped:
            noisy = self._last if self.stale else np.full_like(noisy, np.nan)
        else:
            self._last = noisy
        return noisy.copy(), reward, terminated, truncated, info

    def _noisy(self, observation: Any) -> np.ndarray:
        drawn = self._source.standard_normal(np.shape(observation))
        return np.asarray(observation + self.noise * drawn, dtype=np.asarray(observation).dtype)


_NEUTRAL = (
    gym.wrappers.TimeLimit,
    gym.wrappers.OrderEnforcing,
    gym.wrappers.PassiveEnvChecker,
    gym.ObservationWrapper,
    gym.ActionWrapper,
)
"""Wrappers that return rewards unchanged and take one step of the task in each step."""


class TaskRewards:
    """Recorder of the rewards and steps of the innermost environment.

    A normalised score applies only to the task's unchanged rewards. The class of a wrapper does not
    show if it changes them, so the rewards below and above the wrappers are summed and compared.
    Nothing is recorded if all wrappers are known to leave rewards unchanged.

    Args:
        env: the wrapped environment. The step method of `env.unwrapped` is replaced by one that
            records its rewards, until `release` is called.

    Attributes:
        total: sum of the rewards since `restart`.
        steps: number of steps since `restart`.
        active: True if rewards are recorded.
    """

    def __init__(self, env: gym.Env[Any, Any]) -> None:
        self._base: Any = env.unwrapped
        self.total = 0.0
        self.steps = 0
        self.active = False
        if _all_neutral(env):
            return
        step = self._base.step

        def record_step(action: Any) -> Any:
            result = step(action)
            self.steps += 1
            with suppress(TypeError, ValueError, IndexError):  # `checks.step` reports the error
                self.total += np.asarray(result[1], dtype=np.float64).item()
            return result

        with suppress(AttributeError):  # a class with slots
            self._base.__dict__["step"] = record_step
            self.active = True

    def restart(self) -> None:
        """Begin an episode."""
        self.total, self.steps = 0.0, 0

    def release(self) -> None:
        """Restore the environment's step method."""
        if self.active:
            del self._base.__dict__["step"]
            self.active = False


def _all_neutral(env: Any) -> bool:
    while isinstance(env, gym.Wrapper):
        if not isinstance(env, _NEUTRAL):
            return False
        env = env.env
    return True
