"""The spaces of a task's environment: data must fit them, and agents act within them."""

import inspect
import sys
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import gymnasium
import numpy as np
from gymnasium.spaces import Box, Dict, Space, flatdim

from pgdiff.cli.tasks import same_id
from pgdiff.data import Episodes, ObservationLayout
from pgdiff.data.selection import selected
from pgdiff.registry import registered
from pgdiff.validation import PgdiffError
from pgdiff.workflows.stages import Stage


@dataclass(frozen=True)
class TaskSpaces:
    """Observation and action space of a task.

    Attributes:
        env_id: of the environment.
        observation: its observation space.
        action: its action space.
    """

    env_id: str
    observation: Space[Any]
    action: Space[Any]


def task_spaces(task: Mapping[str, Any]) -> TaskSpaces | None:
    """Return the spaces of a task's environment; None where it has none, or not on this machine.

    Raises:
        PgdiffError: an id that is not registered.
    """
    env_id = task.get("id")
    if env_id is None:
        return None
    try:
        env = gymnasium.make(str(env_id))
    except gymnasium.error.DependencyNotInstalled as error:
        _print_absent(env_id, error)
        return None
    except gymnasium.error.Error as error:
        raise PgdiffError(
            f"`task.id` must be an environment of Gymnasium's, or MODULE:ID. Got '{env_id}' "
            f"({_first_line(error)})."
        ) from error
    except Exception as error:  # a simulator without its display or its library: not our fault
        _print_absent(env_id, error)
        return None
    try:
        return TaskSpaces(str(env_id), env.observation_space, env.action_space)
    finally:
        env.close()


def _print_absent(env_id: object, error: Exception) -> None:
    print(
        f"note: '{env_id}' cannot be made here ({type(error).__name__}: {_first_line(error)}), so "
        "the data are not compared with its observations and actions",
        file=sys.stderr,
    )


def _first_line(error: Exception) -> str:
    return next(iter(str(error).strip().splitlines()), "")


def check_data(
    episodes: Episodes, spaces: TaskSpaces, *, name: str, data: str, recorded: str | None
) -> None:
    """Raise an error unless a recording has the task's observations and actions.

    Args:
        episodes: the recording.
        spaces: of the task.
        name: of the task, for errors.
        data: where the recording was read, for errors.
        recorded: the environment that the data name, if they do.
    """
    wanted = (_observation_size(spaces, episodes), _action_size(spaces))
    got = (episodes.observations.shape[1], episodes.actions.shape[1])
    if wanted == got:
        if recorded is not None and not same_id(recorded, spaces.env_id):
            print(
                f"note: '{data}' was recorded in '{recorded}'; the task is '{name}' "
                f"({spaces.env_id})",
                file=sys.stderr,
            )
        return
    origin = "" if recorded is None else f", which was recorded in '{recorded}'"
    raise PgdiffError(
        f"`task` must be the one that the data were recorded in. '{name}' ({spaces.env_id}) has "
        f"observations of {wanted[0]} features and actions of {wanted[1]}. Got {got[0]} and "
        f"{got[1]} in '{data}'{origin}. Change task=NAME, task.id=ID or data=PATH."
    )


def _observation_size(spaces: TaskSpaces, episodes: Episodes) -> int | str:
    space = spaces.observation
    if isinstance(space, Dict) and episodes.observation_layout is not None:
        own = ObservationLayout.from_space(space)
        return own.features if own == episodes.observation_layout else f"{own.features} other"
    if isinstance(space, Dict | Box):
        return flatdim(space)
    return f"no ({space})"


def _action_size(spaces: TaskSpaces) -> int | str:
    space = spaces.action
    return flatdim(space) if isinstance(space, Box) else f"no ({space})"


def fill_bounds(
    stages: Sequence[Stage], episodes: Episodes, spaces: TaskSpaces | None
) -> list[Stage]:
    """Give agents the bounds of the task's actions, where a recipe leaves them open.

    Returns:
        The stages; those of agents have `action_low` and `action_high` of the action space.
    """
    if spaces is None or not isinstance(spaces.action, Box) or not _bounded(spaces.action):
        return list(stages)
    bounds = {"action_low": spaces.action.low, "action_high": spaces.action.high}
    filled = []
    for stage in stages:
        learner: Any = registered("learner")[stage.learner]
        has = inspect.signature(learner.from_episodes).parameters
        added = {
            key: [float(value) for value in values]
            for key, values in bounds.items()
            if key in has and stage.arguments.get(key) is None
        }
        if added:
            _warn_outside(episodes, spaces)
        filled.append(replace(stage, arguments={**stage.arguments, **added}))
    return filled


def _bounded(space: Box) -> bool:
    return space.is_bounded() and bool((space.low < space.high).all())


def _warn_outside(episodes: Episodes, spaces: TaskSpaces) -> None:
    """Warn of recorded actions that the task does not have."""
    space: Any = spaces.action
    slack = 1e-3 * (space.high - space.low)
    actions = selected(episodes, "actions")
    outside = ((actions < space.low - slack) | (actions > space.high + slack)).any(axis=1)
    if outside.any():
        row = int(np.argmax(outside))
        warnings.warn(
            f"`actions` must lie within the action space of '{spaces.env_id}', {space}. Got "
            f"{actions[row].tolist()} in row {row} and {int(outside.sum()) - 1} more rows "
            "outside: agents learn actions that are clipped when they act.",
            UserWarning,
            stacklevel=2,
        )
