"""Live models of Stable-Baselines3: the observations that their training environments made."""

import warnings
from typing import Any

import gymnasium as gym
import numpy as np

from pgdiff.validation import PgdiffError

_PASS_ON = (
    "VecCheckNan",
    "VecMonitor",
    "VecNormalize",  # its statistics are used
    "VecTransposeImage",  # `predict` does it itself
    "VecVideoRecorder",
)
"""Vector wrappers of Stable-Baselines3 after which `predict` takes observations as they were."""
_LAYOUT = (gym.wrappers.FlattenObservation, gym.wrappers.DtypeObservation)
"""Wrappers that change the form of observations and not their values."""


class NormalizedAgent:
    """A live model that is given raw observations, scaled as its own `VecNormalize` scales them.

    The statistics are read at each call and never changed.

    Args:
        model: of Stable-Baselines3.
        vec_normalize: the `VecNormalize` that it was trained in.
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
    """Return an agent that takes the observations of `env`, where a live model would not.

    A model that was trained in `VecNormalize` gets its statistics. Anything else than a live model
    of Stable-Baselines3 is returned as it is; so is `model.policy`, which takes observations as
    they come.

    Args:
        agent: any agent.
        env: where it is to act; None if that is not known.

    Raises:
        PgdiffError: the model was trained in a wrapper whose observations have another shape than
            those of `env`.
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
    "The agent was trained in VecNormalize, and acts here on raw observations, because its "
    "statistics are not with it. Pass pgdiff.agents.load(FILE, vec_normalize=STATISTICS)."
)


def warn_wrapped(model: Any) -> None:
    """Warn if a live model was trained on observations that a wrapper had changed."""
    if names := observation_wrappers(model):
        warnings.warn(
            f"The agent was trained in {' and '.join(names)}, and is given observations without "
            "it. Make sure that they are wrapped alike.",
            UserWarning,
            stacklevel=4,
        )


def observation_wrappers(model: Any) -> list[str]:
    """Name the wrappers of a model's training environment that changed its observations.

    `VecNormalize` and wrappers that change the form alone are left out.
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
    """Names of the observation wrappers of one environment."""
    names = []
    while isinstance(env, gym.Wrapper):
        if isinstance(env, gym.ObservationWrapper) and not isinstance(env, _LAYOUT):
            names.append(type(env).__name__)
        env = env.env
    return names


def _check_wrappers(model: Any, env: gym.Env[Any, Any] | None) -> None:
    """Refuse or warn where the training environment made other observations than `env`."""
    if env is None:
        warn_wrapped(model)
        return
    names = observation_wrappers(model)
    own = _names(env)
    missing = [name for name in names if name not in own]
    same_form = model.observation_space.shape == env.observation_space.shape
    if missing and not same_form:
        raise PgdiffError(
            "The environment must make the observations that the agent was trained on, of shape "
            f"{model.observation_space.shape}: it was trained in {' and '.join(missing)}. Got "
            f"observations of shape {env.observation_space.shape}. Wrap the environment alike."
        )
    if "NormalizeObservation" in names:
        warnings.warn(
            "The agent was trained in gymnasium's NormalizeObservation, whose statistics are not "
            "used here. Train in Stable-Baselines3's VecNormalize, whose statistics are.",
            UserWarning,
            stacklevel=4,
        )
    elif missing and missing != ["VecFrameStack"]:  # of that form the observations are stacked
        warnings.warn(
            f"The agent was trained in {' and '.join(missing)}, and the environment has no such "
            "wrapper. Wrap it alike if that changed the observations.",
            UserWarning,
            stacklevel=4,
        )
