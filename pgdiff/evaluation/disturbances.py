"""Environments whose observations are noisy, or do not arrive."""

from typing import Any

import gymnasium
import numpy as np
from jaxtyping import Float

from pgdiff.validation import PgdiffError, check_flag, check_range


class Disturbed(gymnasium.Wrapper[Any, Any, Any, Any], gymnasium.utils.RecordConstructorArgs):
    """Observations with Gaussian noise, some of which are dropped; all else is as it was.

    What is drawn comes from the seed of `reset`: the same seed, the same disturbances, whatever the
    actions are. Without a seed it goes on; before the first, nobody knows.

    Args:
        env: has flat observations.
        noise: standard deviation of the noise, one number or one for each feature.
        dropped: probability that an observation does not arrive; the first of an episode does.
        stale: whether the last one that did then stands in for it; without, NaN does.

    Raises:
        PgdiffError: a setting out of its range, or observations that are no flat box.
    """

    def __init__(
        self,
        env: gymnasium.Env[Any, Any],
        *,
        noise: float | Float[np.ndarray, " observation"] = 0.0,
        dropped: float = 0.0,
        stale: bool = True,
    ) -> None:
        gymnasium.utils.RecordConstructorArgs.__init__(
            self, noise=noise, dropped=dropped, stale=stale
        )
        gymnasium.Wrapper.__init__(self, env)
        shape = getattr(env.observation_space, "shape", None)
        box = isinstance(env.observation_space, gymnasium.spaces.Box)
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
                f"`noise` must be a number of at least 0, or one for each of the {shape} features. "
                f"Got {noise!r}."
            )
        self.noise = deviations
        self.dropped = check_range("dropped", dropped, low=0.0, high=1.0, open_high=True)
        self.stale = check_flag("stale", stale)
        self._source = np.random.default_rng()
        self._last: Any = None

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """Begin an episode; its first observation arrives."""
        observation, info = self.env.reset(seed=seed, options=options)
        if seed is not None:
            self._source = np.random.default_rng([seed, 0x0B5])
        self._last = self._noisy(observation)
        return self._last.copy(), info

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        """Take a step; its observation may be noisy, or missing."""
        observation, reward, terminated, truncated, info = self.env.step(action)
        seen = self._noisy(observation)  # drawn whether it arrives or not
        if self._source.random() < self.dropped:
            seen = self._last if self.stale else np.full_like(seen, np.nan)
        else:
            self._last = seen
        return seen.copy(), reward, terminated, truncated, info

    def _noisy(self, observation: Any) -> np.ndarray:
        drawn = self._source.standard_normal(np.shape(observation))
        return np.asarray(observation + self.noise * drawn, dtype=np.asarray(observation).dtype)
