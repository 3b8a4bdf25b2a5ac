"""Time limits of environments."""

from typing import Any

import gymnasium as gym

from pgdiff.core.validation import PgdiffError

LONGEST = 10_000
"""Maximum number of steps of an episode in an environment without a known time limit."""


def time_limit(env: gym.Env[Any, Any]) -> int | None:
    """Return the number of steps after which an episode is truncated; None if unknown.

    It is the smallest limit of the `TimeLimit` wrappers, else the limit of the environment's spec.
    """
    limits: list[int] = []
    inner: Any = env
    while isinstance(inner, gym.Wrapper):
        if isinstance(inner, gym.wrappers.TimeLimit):
            limits.append(int(inner._max_episode_steps))
        inner = inner.env
    if limits:
        return min(limits)
    stated = getattr(env.spec, "max_episode_steps", None)
    return None if stated is None else int(stated)


def registered_limit(env: gym.Env[Any, Any]) -> int | None:
    """Return the time limit of the environment's id in Gymnasium's registry; None if absent."""
    registered = None if env.spec is None else gym.registry.get(env.spec.id)
    return getattr(registered, "max_episode_steps", None)


def check_limited(env: gym.Env[Any, Any], *, name: str) -> None:
    """Raise if the time limit of the environment's id was removed.

    Args:
        env: the environment.
        name: name of the argument that the environment comes from.

    Raises:
        PgdiffError: if the registry has a limit for the id, and the environment has none.
    """
    registered = registered_limit(env)
    if registered is None or time_limit(env) is not None:
        return
    assert env.spec is not None
    raise PgdiffError(
        f"`{name}` must have a time limit: '{env.spec.id}' is registered with {registered} steps. "
        f"Got none. {_FIX}"
    )


def check_length(env: gym.Env[Any, Any], length: int, *, name: str, episode: str) -> None:
    """Raise if an episode has `LONGEST` steps and the time limit is unknown.

    Args:
        env: the environment.
        length: steps of the episode so far, which has not ended.
        name: name of the argument that the environment comes from.
        episode: description of the episode.
    """
    if length < LONGEST or time_limit(env) is not None:
        return
    which = env.spec.id if env.spec is not None else type(env.unwrapped).__name__
    raise PgdiffError(
        f"`{name}` must have episodes that end. '{which}' has no known time limit, and {episode} "
        f"did not end within {LONGEST:,} steps. {_FIX}"
    )


_FIX = (
    "Pass max_episode_steps=N to gymnasium.make, or wrap the environment in "
    "gymnasium.wrappers.TimeLimit(env, N)."
)
