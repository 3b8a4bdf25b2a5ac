"""Checks of agents and environments during a rollout, with errors that name the row."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import gymnasium as gym
import numpy as np
from jaxtyping import Float, Shaped

from pgdiff.core.validation import PgdiffError, as_array
from pgdiff.evaluation.plain import json_value
from pgdiff.evaluation.time_limits import time_limit


def env_name(env: gym.Env[Any, Any]) -> str:
    """Return the environment's id, or its class name if it has no spec."""
    return env.spec.id if env.spec is not None else type(env.unwrapped).__name__


def changed_options(env: gym.Env[Any, Any]) -> dict[str, Any]:
    """Return the environment's arguments that differ from its registration, as JSON values.

    The time limit is included. Arguments of rendering are left out.
    """
    registered = None if env.spec is None else gym.registry.get(env.spec.id)
    if env.spec is None or registered is None:
        return {}
    defaults = {key: json_value(value) for key, value in registered.kwargs.items()}
    arguments = {key: json_value(value) for key, value in env.spec.kwargs.items()}
    options = {
        key: value
        for key, value in arguments.items()
        if not key.startswith("render") and (key not in defaults or defaults[key] != value)
    }
    limit = time_limit(env)
    if limit is not None and limit != registered.max_episode_steps:
        options["max_episode_steps"] = limit
    return options


def wrapper_settings(env: gym.Env[Any, Any]) -> dict[str, dict[str, Any]]:
    """Return the settings of the wrappers that the id does not include, by wrapper name.

    Only wrappers that record their arguments (`gymnasium.utils.RecordConstructorArgs`) and have
    any are included. Arrays become lists; an object without a JSON form, such as a function,
    becomes the name of its class.
    """
    wrappers = env.spec.additional_wrappers if env.spec is not None else ()
    return {w.name: json_value(w.kwargs) for w in wrappers if w.kwargs}


def check_env(env: Any) -> None:
    """Raise if `env` is not a single Gymnasium environment."""
    if isinstance(env, gym.vector.VectorEnv):
        raise PgdiffError(
            f"`make_env` must return a single environment. Got {type(env).__name__}. Set "
            "`parallel` to run several environments at once."
        )
    if not isinstance(env, gym.Env):
        raise PgdiffError(f"`make_env` must return a gymnasium.Env. Got a {type(env).__name__}.")


def check_spaces(agent: Any, env: gym.Env[Any, Any]) -> None:
    """Raise if the agent's observation or action space does not match the environment's.

    Dict observations require an agent with an `observation_layout`, or with an `observation_space`
    that is a Dict. Bounds are not compared: finite actions are passed to the environment unchanged.
    """
    space = env.observation_space
    if isinstance(space, gym.spaces.Dict):
        agent_space = getattr(agent, "observation_space", None)
        if getattr(agent, "observation_layout", None) is None and not isinstance(
            agent_space, gym.spaces.Dict
        ):
            raise PgdiffError(
                "`agent` must accept Dict observations: it needs an `observation_layout`, or an "
                f"`observation_space` that is a Dict. Got '{env_name(env)}' with the keys "
                f"{list(space.spaces)} and an agent without them. "
                "gymnasium.wrappers.FlattenObservation turns the observations into arrays."
            )
    else:
        _check_shape(agent, env, "observation")
    _check_shape(agent, env, "action")


def _check_shape(agent: Any, env: gym.Env[Any, Any], kind: str) -> None:
    space = getattr(env, f"{kind}_space")
    if space.shape is None:
        raise PgdiffError(
            f"`make_env` must return an environment whose {kind}s are arrays. Got {space}."
        )
    agent_space = getattr(agent, f"{kind}_space", None)
    shape = getattr(agent, f"{kind}_shape", getattr(agent_space, "shape", None))
    if shape is not None and tuple(shape) != tuple(space.shape):
        raise PgdiffError(
            f"`agent` must fit the environment: the agent has {kind}s of shape {tuple(shape)}. "
            f"Got '{env_name(env)}' with {kind}s of shape {tuple(space.shape)}. Use the "
            "environment that the agent was trained in."
        )


def validate_actions(
    actions: Any, env: gym.Env[Any, Any], count: int
) -> Shaped[np.ndarray, "envs ..."]:
    """Return the actions of a batch as an array; raise unless each row is a finite action."""
    array = as_array("agent.predict", actions)
    shape = (count, *(env.action_space.shape or ()))
    if array.shape != shape:
        raise PgdiffError(
            f"`agent.predict` must return one action per observation, shape {shape}. "
            f"Got shape {array.shape}."
        )
    if array.dtype.kind not in "fiub":
        raise PgdiffError(f"`agent.predict` must return numbers. Got {array.dtype}.")
    finite = np.isfinite(array)
    if not finite.all():
        row = int(np.argwhere(~finite)[0, 0])
        raise PgdiffError(
            f"`agent.predict` must return finite actions. Got NaN or Inf in row {row}."
        )
    return array


def reset(
    env: gym.Env[Any, Any], seed: int, options: Mapping[str, Any] | None = None
) -> tuple[Any, dict[str, Any]]:
    """Reset with a seed and options; return the observation, which must be finite, and the info."""
    result: Any = (
        env.reset(seed=seed) if options is None else env.reset(seed=seed, options=dict(options))
    )
    if not isinstance(result, tuple) or len(result) != 2 or not isinstance(result[1], dict):
        raise PgdiffError(
            f"The environment's reset must return (observation, info). '{env_name(env)}' returned "
            f"{_describe(result)}, as in OpenAI Gym. Wrap it with the package shimmy."
        )
    _check_finite(env, result[0], f"at the reset with seed {seed}")
    return result


def step(
    env: gym.Env[Any, Any], action: Any, *, seed: int, number: int, gaps: bool = False
) -> tuple[Any, float, bool, dict[str, Any]]:
    """Take one step; return observation and reward, which must be finite, the end, and the info.

    Args:
        env: the environment.
        action: passed to the environment unchanged.
        seed: seed of the episode, for errors.
        number: number of the step, from 1, for errors.
        gaps: True to accept missing observations, in which every entry is NaN.
    """
    where = f"in step {number} of the episode with seed {seed}"
    observation, reward, terminated, truncated, info = step_values(env, action, where)
    if not (gaps and _is_gap(observation)):
        _check_finite(env, observation, where)
    if not math.isfinite(reward):
        raise _bad_reward(env, reward, where)
    return observation, reward, terminated or truncated, info


def step_values(
    env: gym.Env[Any, Any], action: Any, where: str
) -> tuple[Any, float, bool, bool, dict[str, Any]]:
    """Take one step; return the five values of Gymnasium's `step`, with the reward as a float.

    The reward may be an array of one number. Observation and reward may be NaN.

    Args:
        env: the environment.
        action: passed to the environment unchanged.
        where: description of the step, for errors.
    """
    try:
        result: Any = env.step(action)
    except ValueError as error:
        # Gymnasium's wrappers raise this error on four values.
        if "values to unpack" in str(error):
            raise _old_interface(env, "a different number of values") from error
        raise
    if not isinstance(result, tuple) or len(result) != 5:
        raise _old_interface(env, _describe(result))
    observation, reward, terminated, truncated, info = result
    if not isinstance(info, dict):
        raise PgdiffError(
            f"The environment's step must return a dict as info. '{env_name(env)}' returned "
            f"{info!r} {where}. Return {{}} for an empty info."
        )
    number = as_array("reward", reward)
    if number.size != 1 or number.dtype.kind not in "biuf":
        raise _bad_reward(env, reward, where)
    return observation, float(number.item()), bool(terminated), bool(truncated), info


def _bad_reward(env: gym.Env[Any, Any], reward: Any, where: str) -> PgdiffError:
    return PgdiffError(
        f"The environment's rewards must be finite numbers. '{env_name(env)}' gave {reward!r} "
        f"{where}."
    )


def stack_condition(
    infos: Sequence[Mapping[str, Any]],
    seeds: Sequence[int],
    env: gym.Env[Any, Any],
    keys: Sequence[str] = ("goal",),
) -> dict[str, Float[np.ndarray, "envs ..."]]:
    """Return the values of resets by name, as one array each; raise if a value is missing.

    Args:
        infos: info of each reset.
        seeds: seed of each reset, for errors.
        env: the environment, for errors.
        keys: names of the values.
    """
    return {key: _stack_values(infos, seeds, env, key) for key in keys}


def _stack_values(
    infos: Sequence[Mapping[str, Any]], seeds: Sequence[int], env: gym.Env[Any, Any], key: str
) -> Float[np.ndarray, "envs ..."]:
    for info, seed in zip(infos, seeds, strict=True):
        if info.get(key) is None:
            purpose = "plans towards a goal" if key == "goal" else f"needs '{key}' in each episode"
            raise PgdiffError(
                f"`make_env` must return an environment whose reset returns `info['{key}']`, "
                f"because the agent {purpose}. '{env_name(env)}' returned none for seed {seed}. "
                f"Use an environment that returns it, or an agent that does not need '{key}'."
            )
    values = [np.atleast_1d(np.asarray(info[key], dtype=np.float32)) for info in infos]
    for value, seed in zip(values, seeds, strict=True):
        if value.shape != values[0].shape or value.size == 0 or not np.isfinite(value).all():
            raise PgdiffError(
                f"The environment's `info['{key}']` must be finite numbers of one shape in all "
                f"episodes. '{env_name(env)}' returned {value.tolist()} for seed {seed}."
            )
    return np.stack(values)


def _is_gap(observation: Any) -> bool:
    if isinstance(observation, Mapping):
        return all(map(_is_gap, observation.values()))
    array = np.asarray(observation)
    return bool(array.dtype.kind == "f" and np.isnan(array).all())


def _check_finite(env: gym.Env[Any, Any], observation: Any, where: str) -> None:
    leaves = observation.items() if isinstance(observation, Mapping) else [("", observation)]
    for key, leaf in leaves:
        if isinstance(leaf, Mapping):
            _check_finite(env, leaf, where)
            continue
        array = np.asarray(leaf)
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            feature = int(np.flatnonzero(~np.isfinite(array.reshape(-1)))[0])
            of = f" of '{key}'" if key else ""
            raise PgdiffError(
                f"The environment's observations must be finite. '{env_name(env)}' gave "
                f"{array.reshape(-1)[feature]} in feature {feature}{of} {where}."
            )


def _old_interface(env: gym.Env[Any, Any], got: str) -> PgdiffError:
    return PgdiffError(
        "The environment's step must return (observation, reward, terminated, truncated, info). "
        f"'{env_name(env)}' returned {got}, as in OpenAI Gym. Wrap it with the package shimmy."
    )


def _describe(result: Any) -> str:
    if isinstance(result, tuple):
        return f"{len(result)} values"
    return f"a {type(result).__name__}"
