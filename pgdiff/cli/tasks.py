"""The task of a command whose words name an environment, data or a run instead of a task."""

import functools
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import gymnasium
import h5py

from pgdiff.cli.config_paths import CUSTOM, TASK, choices, node_of, packaged
from pgdiff.cli.overrides import Override
from pgdiff.cli.path_settings import quoted
from pgdiff.core.validation import PgdiffError
from pgdiff.data.formats.minari_layout import METADATA
from pgdiff.data.loading import find_recording
from pgdiff.runs.run import MODEL, RunInfo

OF_THE_TASK = ("horizon", "stride", "discount")
_LONGEST_ID = 200


@functools.cache
def known_tasks() -> Mapping[str, str]:
    """Return the environment ids of this package's tasks by the names of the tasks."""
    return {name: str(node_of(TASK, name)["id"]) for name in packaged(TASK) if name != CUSTOM}


def same_id(first: str, second: str) -> bool:
    """Return whether two ids are equal up to case and module: Hopper-v5, m:hopper-v5."""
    ends = [env_id.rpartition(":")[2].lower() for env_id in (first, second)]
    return ends[0] == ends[1]


def task_named(given: Mapping[str, Override]) -> list[str] | None:
    """Return the words to add if only `task.id` or `task.name` is given.

    Args:
        given: words of the command line by key.

    Returns:
        The words; an empty list if `task` is given; None if no word names a task.
    """
    if "task" in given:
        return []
    if "task.id" in given and given["task.id"].values is None:
        return words_of_id(str(given["task.id"].value), given)
    return [f"task={CUSTOM}"] if {"task.id", "task.name"} & given.keys() else None


def words_of_id(env_id: str, given: Mapping[str, Override]) -> list[str]:
    """Return the words that choose the task of an environment, or else the custom task."""
    for name in choices(TASK):
        known = None if name == CUSTOM else node_of(TASK, name).get("id")
        if known is not None and same_id(env_id, str(known)):
            return [f"task={name}"]
    settings = {"task.id": env_id, "task.name": env_id.rpartition(":")[2]}
    added = [f"{key}={quoted(value)}" for key, value in settings.items() if key not in given]
    return [f"task={CUSTOM}", *added]


def words_of_data(data: str, given: Mapping[str, Override]) -> list[str]:
    """Return the words that choose the task in which a data set was recorded.

    Raises:
        PgdiffError: the data exist, but their environment is unknown or not registered.
    """
    source = str(Path(data).expanduser()) if data.startswith("~") else data
    if not find_recording(source).exists:
        return []  # `train` raises an error with the command that records them
    env_id = recorded_env(source)
    if env_id is not None:
        words = words_of_id(env_id, given)
        # A file never imports a module: the environment must be registered already.
        if words[0] != f"task={CUSTOM}" or is_available(env_id):
            print(f"task: {_summary(words)}, in which '{data}' was recorded")
            return words
    reason = (
        f"'{data}' does not name its environment"
        if env_id is None
        else f"'{data}' was recorded in '{env_id}', which is not registered"
    )
    raise PgdiffError(
        f"`task` must be given, because {reason}. Set task=NAME (`pgdiff train --help` lists the "
        "names). Or set task.id=ID of a Gymnasium environment, or task.name=NAME without an "
        "environment, with task.horizon=N, task.stride=N and task.discount=G to fit the data."
    )


def words_of_run(run: RunInfo, given: Mapping[str, Override]) -> list[str]:
    """Return the words that choose the task of a run.

    Raises:
        PgdiffError: the environment of the run is neither a task of this package nor registered. A
            file never imports a module.
    """
    name = str(run.task.get("name"))
    settings = dict(run.task)
    if "task" not in given and "task.id" not in given:
        _check_registered(run)
    words = {"task": name}
    if name not in known_tasks():
        words = {"task": CUSTOM}
        known = _flat(node_of(TASK, CUSTOM))
        words |= {
            f"task.{key}": _text(value)
            for key, value in _flat(settings).items()
            if key in known and not isinstance(value, list)
        }
    elif settings.get("id") is not None and settings["id"] != known_tasks()[name]:
        words["task.id"] = quoted(str(settings["id"]))
    # Added stages must have the horizon and the stride of the model, which a recipe may set.
    model = run.stage(MODEL)
    settings |= {} if model is None else model.arguments.get("tokens", {})
    words |= {f"task.{key}": str(settings[key]) for key in OF_THE_TASK if key in settings}
    return [f"{key}={value}" for key, value in words.items() if key not in given]


def is_available(env_id: object) -> bool:
    """Return whether an environment can be made without importing a module.

    Such an environment belongs to a task of this package, or is registered in Gymnasium.

    Args:
        env_id: id in a file; the module of `MODULE:ID` must be imported already.
    """
    module, _, name = str(env_id).rpartition(":")
    registered = name in gymnasium.registry and (not module or module in sys.modules)
    return env_id in known_tasks().values() or registered


def _check_registered(run: RunInfo) -> None:
    env_id = run.task.get("id")
    if env_id is None or is_available(env_id):
        return
    module = str(env_id).partition(":")[0]
    hint = f" or plugins={module}" if ":" in str(env_id) else ""
    raise PgdiffError(
        f"`task.id` must be given for the run '{run.path}', because it was trained for '{env_id}', "
        f"which is not registered in Gymnasium. Set task.id=ID{hint}."
    )


def check_named(task: Mapping[str, Any]) -> None:
    """Raise for a task without a name, which names of folders and files must contain."""
    if task["name"] is None:
        raise PgdiffError(
            f"`task.id` or `task.name` must be given with task={CUSTOM}. Got null for both. Set "
            "task.id=ID of a Gymnasium environment, or task.name=NAME without an environment."
        )


def recorded_env(data: str) -> str | None:
    """Return the id of the environment in which a data set was recorded, or None."""
    recording = find_recording(data)
    try:
        if recording.folder is not None:
            spec = json.loads((recording.folder / METADATA).read_bytes()).get("env_spec")
            env_id = json.loads(spec).get("id") if isinstance(spec, str) else None
        else:
            with h5py.File(recording.path) as file:
                env_id = file.attrs.get("env_id")
    except (OSError, ValueError, AttributeError, RuntimeError):
        return None  # the error is raised when the data are read
    usable = isinstance(env_id, str) and 0 < len(env_id) <= _LONGEST_ID and env_id.isprintable()
    return str(env_id) if usable else None


def _summary(words: Sequence[str]) -> str:
    """Return a short description of the chosen task."""
    name = words[0].partition("=")[2]
    if name != CUSTOM:
        return name
    custom = node_of(TASK, CUSTOM)
    numbers = ", ".join(f"{key} {custom[key]}" for key in OF_THE_TASK)
    env_id = words[1].partition("=")[2].strip("'")
    return f"{env_id} ({numbers}; change these with task.horizon=N and so on)"


def _flat(node: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return the values by dotted key."""
    values: dict[str, Any] = {}
    for key, value in node.items():
        values |= (
            _flat(value, f"{prefix}{key}.")
            if isinstance(value, Mapping)
            else {f"{prefix}{key}": value}
        )
    return values


def _text(value: Any) -> str:
    return quoted(value) if isinstance(value, str) else json.dumps(value)
