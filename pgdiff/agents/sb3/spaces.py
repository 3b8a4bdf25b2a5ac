"""Spaces of agents: checks, and Gymnasium boxes from their printed form in a file."""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from gymnasium.spaces import Box

from pgdiff.core.validation import PgdiffError


def check_sizes(agent: object, *, observation: int, action: int | None, name: str) -> None:
    """Raise if the observation or action size of an agent differs from that of a model.

    Agents without `observation_space` or `action_space` are not checked.

    Args:
        agent: an actor or a critic.
        observation: number of features of the model's observations.
        action: number of features of the model's actions; None for a model without actions.
        name: argument name of the agent, for errors.

    Raises:
        PgdiffError: a size differs.

    Example:
        >>> from pgdiff.agents import Cloning
        >>> from pgdiff.testing import example_episodes
        >>> agent = Cloning.from_episodes(example_episodes(), members=1, width=16)
        >>> check_sizes(agent, observation=4, action=2, name="agent")
    """
    spaces = [getattr(agent, key, None) for key in ("observation_space", "action_space")]
    if None in spaces:
        return
    agent_observation, agent_action = (getattr(space, "shape", None) for space in spaces)
    fits = agent_observation == (observation,) and (action is None or agent_action == (action,))
    if not fits:
        actions = "no action" if action is None else f"action {(action,)}"
        raise PgdiffError(
            f"`{name}` must be of the model's task. Got an agent of observation "
            f"{agent_observation} and action {agent_action}, and a model of observation "
            f"{(observation,)} and {actions}."
        )


def check_box(space: object, *, name: str) -> Box:
    """Return `space` if it is a `Box` of one dimension.

    Raises:
        PgdiffError: the space is discrete, a dictionary, of images or any other.
    """
    if not isinstance(space, Box) or len(space.shape) != 1:
        raise PgdiffError(
            f"`{name}` must be a Gymnasium Box of one dimension, because guides need continuous "
            f"actions and flat observations. Got {space}."
        )
    return space


def check_bounds(space: Box) -> None:
    """Raise if the bounds of an action space are not finite, or not in order."""
    if not (np.isfinite(space.low).all() and np.isfinite(space.high).all()):
        raise PgdiffError(f"`action_space` must have finite bounds for this agent. Got {space}.")
    if not (space.low < space.high).all():
        raise PgdiffError(f"`action_space` must have low < high everywhere. Got {space}.")


def choose_box(printed: object, given: Box | None, *, size: int, name: str, where: str) -> Box:
    """Return the box that the user passed, or else the box that a file describes.

    Args:
        printed: Stable-Baselines3's JSON of a space, besides its pickle: type, and `str` of shape,
            bounds and dtype. NumPy prints eight decimals, and omits the middle of more than 1,000
            numbers.
        given: the user's argument, or None.
        size: number of features according to the weights.
        name: name of the argument ("action_space").
        where: name of the file, for errors.

    Raises:
        PgdiffError: the space is not a box of one dimension and this size, or cannot be parsed.
    """
    box = (
        check_box(given, name=name)
        if given is not None
        else _read_box(printed, size=size, name=name, where=where)
    )
    if box.shape != (size,):
        raise PgdiffError(
            f"`{name}` must be of shape {(size,)}, as the weights of '{where}'. Got {box.shape}."
        )
    return box


def _read_box(printed: object, *, size: int, name: str, where: str) -> Box:
    fix = f"Pass `{name}=`, a Gymnasium Box."
    if not isinstance(printed, Mapping) or not isinstance(printed.get(":type:"), str):
        raise PgdiffError(f"'{where}' does not describe its `{name}`. {fix}")
    kind = printed[":type:"]
    if not kind.endswith(".spaces.box.Box'>"):
        raise PgdiffError(
            f"The `{name}` of '{where}' must be a Box of one dimension, because guides need "
            f"continuous actions and flat observations. Got {kind[:100]}."
        )
    shape = printed.get("_shape", printed.get("shape", [size]))
    if not (isinstance(shape, list) and all(isinstance(n, int) for n in shape)):
        raise PgdiffError(f"'{where}' does not describe its `{name}`. {fix}")
    if len(shape) != 1:
        raise PgdiffError(
            f"The `{name}` of '{where}' must have one dimension, because guides need flat "
            f"observations. Got the shape {str(shape)[:100]}."
        )
    if shape != [size]:
        raise PgdiffError(
            f"The `{name}` of '{where}' has shape ({shape[0]},), but its weights have ({size},). "
            f"{fix}"
        )
    low = _read_numbers(printed.get("low"), size=size)
    high = _read_numbers(printed.get("high"), size=size)
    if low is None or high is None or (low > high).any():
        raise PgdiffError(f"The bounds of the `{name}` of '{where}' cannot be read. {fix}")
    dtype = np.float64 if printed.get("dtype") == "float64" else np.float32
    return Box(low.astype(dtype), high.astype(dtype), dtype=dtype)


def _read_numbers(printed: Any, *, size: int) -> np.ndarray | None:
    """Parse numbers printed by NumPy; if some are omitted, all printed ones must be equal."""
    if not isinstance(printed, str):
        return None
    words = printed.strip().removeprefix("[").removesuffix("]").split()
    try:
        numbers = [float(word) for word in words if word != "..."]
    except ValueError:
        return None
    if any(math.isnan(number) for number in numbers) or not numbers:
        return None
    if len(numbers) == size and "..." not in words:
        return np.array(numbers)
    if "..." in words and len({*numbers}) == 1:
        return np.full(size, numbers[0])
    return None
