"""Observations of many environments as one batch, and each as one vector."""

import copy
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import gymnasium as gym
import numpy as np


def stacked(observations: Sequence[Any]) -> Any:
    """One new batch of the observations; of a Dict, each of its arrays."""
    first = observations[0]
    if isinstance(first, dict):
        return {key: stacked([observation[key] for observation in observations]) for key in first}
    return np.stack([np.asarray(observation) for observation in observations])


def kept(value: Any) -> Any:
    """Return a copy of the arrays in a value, which an environment may write anew at its next step.

    Mappings, lists and tuples are copied with all that they hold; other objects are returned as
    they are.
    """
    if isinstance(value, np.ndarray):
        return value.copy()
    if isinstance(value, Mapping):
        return {key: kept(inner) for key, inner in value.items()}
    if type(value) in (list, tuple):
        return type(value)(kept(inner) for inner in value)
    return value


def flat_observation(agent: Any, env: gym.Env[Any, Any]) -> Callable[[Any], np.ndarray]:
    """What a recorded observation is: the array itself, or a Dict as one vector."""
    space = env.observation_space
    if not isinstance(space, gym.spaces.Dict):
        return np.asarray
    layout = getattr(agent, "observation_layout", None)
    if layout is not None:
        return lambda observation: np.asarray(layout.flatten(observation)[0])
    return lambda observation: np.asarray(gym.spaces.flatten(space, observation))


def goal_of(agent: Any, observation: Any, info: Mapping[str, Any]) -> Any:
    """Return a copy of the goal that a reset gave: in its info, or in a Dict observation.

    None where it gave none. It is a copy because environments may write the next goal in place.
    """
    layout = getattr(agent, "observation_layout", None)
    if info.get("goal") is None and layout is not None and isinstance(observation, Mapping):
        return copy.deepcopy(layout.flatten(observation)[1])
    return copy.deepcopy(info.get("goal"))
