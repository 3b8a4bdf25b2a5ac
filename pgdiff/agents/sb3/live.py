"""Observations of live Stable-Baselines3 models, as their training environments returned them."""

import warnings
from typing import Any

import gymnasium as gym
import numpy as np

from pgdiff.core.validation import PgdiffError

_PASS_ON = (
    "VecCheckNan",
    "VecMonitor",
    "VecNormalize",  # applied separately
    "VecTransposeImage",  # applied by `predict`
    "VecVideoRecorder",
)
"""Vector wrappers of Stable-Baselines3 that need no change of observations for `predict`."""
_LAYOUT = (gym.wrappers.FlattenObservation, gym.wrappers.DtypeObservation)
"""Wrappers that change shape or type of observations, not their values."""


class NormalizedAgent:
    """A live model that receives raw observations, scaled by its `VecNormalize`.

    The statistics are read at each call and never updated.

    Args:
        model: model of Stable-Baselines3.
        vec_normalize: the `VecNormalize` of its training environment.
    """

    def __init__(self, model: Any, vec_normalize: Any) -> None:
        self.model = model
        self.observation_space = model.observation_space
        self.action_space = model.action_space
        self._vec_normalize = vec_normalize

    def predict(
        self,
        observation: Any,
        state: Any = None,
        episode_start: Any = None,
        deterministic: bool = False,
    ) -> tuple[np.ndarray, Any]:
        """Return the model's actions for a batch of raw observations."""
        scaled = self._vec_normalize.normalize_obs(observation)
        actions, state = self.model.predict(
            scaled, state=state, episode_start=episode_start, deterministic=deterministic
        )
        return actions, state


def of_raw_observations(agent: Any, env: gym.Env[Any, Any] | None = None) -> Any:
    """Return an agent that accepts the raw observations of `env`.

    A live model that was trained in `VecNormalize` is combined with its statistics. Any other
    object is returned unchanged, `model.policy` included.

    Args:
        agent: any agent.
        env: environment in which the agent acts; None if unknown.

    Raises:
        PgdiffError: the model was trained in a wrapper that changes the shape of observations,
            and `env` has no such wrapper.
    """
    if not callable(getattr(agent, "get_vec_normalize_env", None)):
        return agent
    _check_wrappers(agent, env)
    vec_normalize = agent.get_vec_normalize_env()
    if vec_normalize is None:
        if getattr(agent, "_last_original_obs", None) is not None:
            warnings.warn(NO_STATISTICS, UserWarning, stacklevel=3)
        return agent
    return NormalizedAgent(agent, vec_normalize) if vec_normalize.norm_obs else agent


NO_STATISTICS = (
    "The agent was trained in VecNormalize, but acts on raw observations here, because the "
    "statistics are missing. Pass pgdiff.agents.load(FILE, vec_normalize=STATISTICS)."
)


def warn_wrapped(model: Any) -> None:
    """Warn if a wrapper changed the observations that a live model was trained on."""
    if names := observation_wrappers(model):
        warnings.warn(
            f"The agent was trained in {' and '.join(names)}, and is given observations without "
            "it. Make sure that they are wrapped in the same way.",
            UserWarning,
            stacklevel=4,
        )


def observation_wrappers(model: Any) -> list[str]:
    """Return the names of the training wrappers that changed a model's observations.

    `VecNormalize` and wrappers that change only the shape or type are excluded.
    """
    vector: Any = model.get_env() if callable(getattr(model, "get_env", None)) else None
    names: list[str] = []
    while hasattr(vector, "venv"):
        if type(vector).__name__ not in _PASS_ON:
            names.append(type(vector).__name__)
        vector = vector.venv
    if vector is None:
        return names
    single = getattr(vector, "envs", None)
    if single:
        return names + _names(single[0])
    if vector.env_is_wrapped(gym.ObservationWrapper, indices=[0])[0]:  # in another process
        names.append("an observation wrapper")
    return names


def _names(env: Any) -> list[str]:
    """Return the names of the observation wrappers of one environment."""
    names = []
    while isinstance(env, gym.Wrapper):
        if isinstance(env, gym.ObservationWrapper) and not isinstance(env, _LAYOUT):
            names.append(type(env).__name__)
        env = env.env
    return names


def _check_wrappers(model: Any, env: gym.Env[Any, Any] | None) -> None:
    """Raise or warn if the observations of the training environment and of `env` differ."""
    if env is None:
        warn_wrapped(model)
        return
    names = observation_wrappers(model)
    present = _names(env)
    missing = [name for name in names if name not in present]
    same_shape = model.observation_space.shape == env.observation_space.shape
    if missing and not same_shape:
        raise PgdiffError(
            "The environment must return observations of shape "
            f"{model.observation_space.shape}, because the agent was trained in "
            f"{' and '.join(missing)}. Got observations of shape {env.observation_space.shape}. "
            "Wrap the environment in the same way."
        )
    if "NormalizeObservation" in names:
        warnings.warn(
            "The agent was trained in gymnasium's NormalizeObservation, whose statistics are not "
            "used here. Train in Stable-Baselines3's VecNormalize, whose statistics are used.",
            UserWarning,
            stacklevel=4,
        )
    elif missing and missing != ["VecFrameStack"]:  # of equal shape they are stacked already
        warnings.warn(
            f"The agent was trained in {' and '.join(missing)}, and the environment does not have "
            "this wrapper. Wrap it in the same way if the wrapper changed the observations.",
            UserWarning,
            stacklevel=4,
        )
