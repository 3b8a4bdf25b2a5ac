"""Spaces of a task's environment, which check recordings and bound the actions of agents."""

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
from pgdiff.core.registry import registered
from pgdiff.core.validation import PgdiffError
from pgdiff.data import Episodes, ObservationLayout
from pgdiff.data.selection import selected
from pgdiff.runs.stages import Stage


@dataclass(frozen=True)
class TaskSpaces:
    """Observation and action space of a task.

    Attributes:
        env_id: id of the environment.
        observation: observation space.
        action: action space.
    """

    env_id: str
    observation: Space[Any]
    action: Space[Any]


def task_spaces(task: Mapping[str, Any]) -> TaskSpaces | None:
    """Return the spaces of a task; None if it has no environment, or none that works here.

    Raises:
        PgdiffError: the environment is not registered.
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
            "`task.id` must be an environment that is registered in Gymnasium, or MODULE:ID. Got "
            f"'{env_id}' ({_first_line(error)})."
        ) from error
    except Exception as error:  # for example a simulator without a display or a library
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
    """Raise unless a recording has the task's observations and actions.

    Args:
        episodes: the recording.
        spaces: spaces of the task.
        name: name of the task, for errors.
        data: path of the recording, for errors.
        recorded: environment of the recording; None if unknown.
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
        f"`task` must be the task in which the data were recorded. '{name}' ({spaces.env_id}) has "
        f"observations of {wanted[0]} features and actions of {wanted[1]}. Got {got[0]} and "
        f"{got[1]} in '{data}'{origin}. Change task=NAME, task.id=ID or data=PATH."
    )


def _observation_size(spaces: TaskSpaces, episodes: Episodes) -> int | str:
    space = spaces.observation
    if isinstance(space, Dict) and episodes.observation_layout is not None:
        layout = ObservationLayout.from_space(space)
        same = layout == episodes.observation_layout
        return layout.features if same else f"{layout.features} other"
    if isinstance(space, Dict | Box):
        return flatdim(space)
    return f"no ({space})"


def _action_size(spaces: TaskSpaces) -> int | str:
    space = spaces.action
    return flatdim(space) if isinstance(space, Box) else f"no ({space})"


def fill_bounds(
    stages: Sequence[Stage], episodes: Episodes, spaces: TaskSpaces | None
) -> list[Stage]:
    """Return the stages with the bounds of the task's actions in `action_low` and `action_high`.

    Only stages of agents have these arguments; values of the recipe are kept.
    """
    if spaces is None or not isinstance(spaces.action, Box) or not _bounded(spaces.action):
        return list(stages)
    bounds = {"action_low": spaces.action.low, "action_high": spaces.action.high}
    filled = []
    for stage in stages:
        learner: Any = registered("learner")[stage.learner]
        parameters = inspect.signature(learner.from_episodes).parameters
        added = {
            key: [float(value) for value in values]
            for key, values in bounds.items()
            if key in parameters and stage.arguments.get(key) is None
        }
        if added:
            _warn_outside(episodes, spaces)
        filled.append(replace(stage, arguments={**stage.arguments, **added}))
    return filled


def _bounded(space: Box) -> bool:
    return space.is_bounded() and bool((space.low < space.high).all())


def _warn_outside(episodes: Episodes, spaces: TaskSpaces) -> None:
    """Warn of recorded actions outside the task's action space."""
    space: Any = spaces.action
    slack = 1e-3 * (space.high - space.low)
    actions = selected(episodes, "actions")
    outside = ((actions < space.low - slack) | (actions > space.high + slack)).any(axis=1)
    if outside.any():
        row = int(np.argmax(outside))
        warnings.warn(
            f"`actions` must lie in the action space of '{spaces.env_id}', {space}. Got "
            f"{actions[row].tolist()} in row {row}, and {int(outside.sum()) - 1} more rows "
            "outside. Agents learn these actions, but they are clipped in the environment.",
            UserWarning,
            stacklevel=2,
        )
