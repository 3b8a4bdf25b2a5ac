"""What agent and environment must keep to while they act, with errors that name the row."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import gymnasium as gym
import numpy as np
from jaxtyping import Float, Shaped

from pgdiff.evaluation.limits import time_limit
from pgdiff.evaluation.plain import plain
from pgdiff.validation import PgdiffError, as_array


def name_of(env: gym.Env[Any, Any]) -> str:
    """The environment's id, or its class where it has none."""
    return env.spec.id if env.spec is not None else type(env.unwrapped).__name__


def options_of(env: gym.Env[Any, Any]) -> dict[str, Any]:
    """Return the arguments with which the environment is not what its id says, ready for JSON.

    These are the arguments of `gymnasium.make` that differ from those that the id is registered
    with, its time limit included; those of rendering are left out.
    """
    registered = None if env.spec is None else gym.registry.get(env.spec.id)
    if env.spec is None or registered is None:
        return {}
    own = {key: plain(value) for key, value in registered.kwargs.items()}
    given = {key: plain(value) for key, value in env.spec.kwargs.items()}
    options = {
        key: value
        for key, value in given.items()
        if not key.startswith("render") and (key not in own or own[key] != value)
    }
    limit = time_limit(env)
    if limit is not None and limit != registered.max_episode_steps:
        options["max_episode_steps"] = limit
    return options


def wrappers_of(env: gym.Env[Any, Any]) -> dict[str, dict[str, Any]]:
    """Settings of the wrappers with which the environment is not what its id says, by name.

    Those that say what they were made with (`gymnasium.utils.RecordConstructorArgs`) and have
    settings. Arrays are lists; of what JSON has no word for, such as functions, the class is told.
    """
    found = env.spec.additional_wrappers if env.spec is not None else ()
    return {w.name: plain(w.kwargs) for w in found if w.kwargs}


def check_env(env: Any) -> None:
    """Raise an error unless this is one environment, not a batch of them."""
    if isinstance(env, gym.vector.VectorEnv):
        raise PgdiffError(
            "`make_env` must return a single environment, because `evaluate` makes its own batch. "
            f"Got {type(env).__name__}."
        )
    if not isinstance(env, gym.Env):
        raise PgdiffError(f"`make_env` must return a gymnasium.Env. Got a {type(env).__name__}.")


def check_fit(agent: Any, env: gym.Env[Any, Any]) -> None:
    """Compare the spaces that the agent was made for with the environment's.

    A Dict of observations is let through to an agent that says how it takes one, by an
    `observation_layout` or an `observation_space` that is a Dict. Bounds are not compared: finite
    actions are handed over as they are, and what lies outside is the environment's business.
    """
    space = env.observation_space
    if isinstance(space, gym.spaces.Dict):
        own = getattr(agent, "observation_space", None)
        if getattr(agent, "observation_layout", None) is None and not isinstance(
            own, gym.spaces.Dict
        ):
            raise PgdiffError(
                "`agent` must take observations that are a Dict, which it does not say by an "
                f"`observation_layout` or `observation_space`. Got '{name_of(env)}' with the keys "
                f"{list(space.spaces)}; gymnasium.wrappers.FlattenObservation makes arrays of them."
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
    own = getattr(agent, f"{kind}_space", None)
    wanted = getattr(agent, f"{kind}_shape", getattr(own, "shape", None))
    if wanted is not None and tuple(wanted) != tuple(space.shape):
        raise PgdiffError(
            f"`agent` must fit the environment: it was made for {kind}s of shape "
            f"{tuple(wanted)}. Got '{name_of(env)}' with {kind}s of shape {tuple(space.shape)}."
        )


def checked_actions(
    actions: Any, env: gym.Env[Any, Any], count: int
) -> Shaped[np.ndarray, "envs ..."]:
    """Return the actions of a batch, one finite action a row."""
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


def reset(env: gym.Env[Any, Any], seed: int) -> tuple[Any, dict[str, Any]]:
    """Reset with a seed; return a finite observation and the info."""
    result: Any = env.reset(seed=seed)
    if not isinstance(result, tuple) or len(result) != 2 or not isinstance(result[1], dict):
        raise PgdiffError(
            f"The environment's reset must return (observation, info). '{name_of(env)}' returned "
            f"{_described(result)}: it keeps to an older interface than Gymnasium's, for which "
            "there is the package shimmy."
        )
    _check_finite(env, result[0], f"at the reset with seed {seed}")
    return result


def step(
    env: gym.Env[Any, Any], action: Any, *, seed: int, number: int, gaps: bool = False
) -> tuple[Any, float, bool, dict[str, Any]]:
    """Make one step; return a finite observation and reward, whether it ended, and the info.

    Args:
        env: the environment.
        action: handed over as it is.
        seed: of the episode, for errors.
        number: of the step, from 1, for errors.
        gaps: whether an observation may be missing, NaN throughout.
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
    """Make one step; return what Gymnasium's `step` returns, with the reward as a number.

    A reward that is an array of one number is that number. It may be NaN, as the observation may.

    Args:
        env: the environment.
        action: handed over as it is.
        where: of the step, for errors.
    """
    try:
        result: Any = env.step(action)
    except ValueError as error:
        # Gymnasium's own wrappers fail so on four values, before they reach us.
        if "values to unpack" in str(error):
            raise _older(env, "another number of values") from error
        raise
    if not isinstance(result, tuple) or len(result) != 5:
        raise _older(env, _described(result))
    observation, reward, terminated, truncated, info = result
    if not isinstance(info, dict):
        raise PgdiffError(
            f"The environment's step must return a dict as info. '{name_of(env)}' returned "
            f"{info!r} {where}. Return {{}} where there is nothing to say."
        )
    number = as_array("reward", reward)
    if number.size != 1 or number.dtype.kind not in "biuf":
        raise _bad_reward(env, reward, where)
    return observation, float(number.item()), bool(terminated), bool(truncated), info


def _bad_reward(env: gym.Env[Any, Any], reward: Any, where: str) -> PgdiffError:
    return PgdiffError(
        f"The environment's rewards must be finite numbers. '{name_of(env)}' gave {reward!r} "
        f"{where}."
    )


def goals_of(
    infos: Sequence[Mapping[str, Any]], seeds: Sequence[int], env: gym.Env[Any, Any]
) -> Float[np.ndarray, "envs goal"]:
    """Return the goals that resets told, for an agent that is to be told them."""
    for info, seed in zip(infos, seeds, strict=True):
        if info.get("goal") is None:
            raise PgdiffError(
                "`make_env` must return an environment whose reset tells `info['goal']`, because "
                f"the agent plans towards a goal. '{name_of(env)}' told none for seed {seed}."
            )
    goals = [np.asarray(info["goal"], dtype=np.float32).reshape(-1) for info in infos]
    for goal, seed in zip(goals, seeds, strict=True):
        if goal.shape != goals[0].shape or goal.size == 0 or not np.isfinite(goal).all():
            raise PgdiffError(
                "The environment's `info['goal']` must be finite numbers, as many for every "
                f"episode. '{name_of(env)}' told {goal.tolist()} for seed {seed}."
            )
    return np.stack(goals)


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
                f"The environment's observations must be finite. '{name_of(env)}' gave "
                f"{array.reshape(-1)[feature]} in feature {feature}{of} {where}."
            )


def _older(env: gym.Env[Any, Any], got: str) -> PgdiffError:
    return PgdiffError(
        "The environment's step must return (observation, reward, terminated, truncated, info). "
        f"'{name_of(env)}' returned {got}: it keeps to an older interface than Gymnasium's, for "
        "which there is the package shimmy."
    )


def _described(result: Any) -> str:
    if isinstance(result, tuple):
        return f"{len(result)} values"
    return f"a {type(result).__name__}"
