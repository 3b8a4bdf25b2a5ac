"""Time limits: how long the episodes of an environment can be."""

from typing import Any

import gymnasium as gym

from pgdiff.validation import PgdiffError

LONGEST = 10_000
"""Steps that an episode may have in an environment for which no time limit is known."""


def time_limit(env: gym.Env[Any, Any]) -> int | None:
    """Return the number of steps after which an episode is truncated; None if none is known.

    It is the smallest of the `TimeLimit` wrappers, else the one that the environment's spec states.
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
    """Return the time limit that Gymnasium's registry has for the environment's id."""
    registered = None if env.spec is None else gym.registry.get(env.spec.id)
    return getattr(registered, "max_episode_steps", None)


def check_limited(env: gym.Env[Any, Any], *, name: str) -> None:
    """Raise an error if the time limit of the environment's id was taken off.

    Args:
        env: the environment.
        name: of the argument that the environment comes from.

    Raises:
        PgdiffError: the registry states a limit for the id, and the environment has none.
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
    """Raise an error if an episode has run for `LONGEST` steps and no time limit is known.

    Args:
        env: the environment.
        length: steps of the episode so far; it has not ended.
        name: of the argument that the environment comes from.
        episode: which episode, in words.
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
