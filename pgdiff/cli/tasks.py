"""Which task a command is about, where the user names an environment or data in its place."""

import functools
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import gymnasium
import h5py
from omegaconf import OmegaConf

from pgdiff.cli.overrides import Override
from pgdiff.cli.path_settings import quoted
from pgdiff.cli.places import CONFIG_DIR, choices
from pgdiff.data.minari_store import METADATA
from pgdiff.data.places import find_place
from pgdiff.planning.from_run import MODEL, RunInfo
from pgdiff.validation import PgdiffError

CUSTOM = "custom"
"""The task of environments that no other configuration describes."""

OF_THE_TASK = ("horizon", "stride", "discount")
_LONGEST_ID = 200


@functools.cache
def known_tasks() -> Mapping[str, str]:
    """Return the tasks of this package: the environment's id of each by its name."""
    return {name: str(_configuration(name)["id"]) for name in choices("task") if name != CUSTOM}


def same_id(first: str, second: str) -> bool:
    """Whether two ids name one task, with their module or without: Hopper-v5, m:hopper-v5."""
    ends = [one.rpartition(":")[2].lower() for one in (first, second)]
    return ends[0] == ends[1]


def task_named(given: Mapping[str, Override]) -> list[str] | None:
    """Return the words to add where the user names a task by `task.id` or `task.name` alone.

    Args:
        given: the words of the command line, by key.

    Returns:
        Words, empty where `task` is given; None where no word names a task.
    """
    if "task" in given:
        return []
    if "task.id" in given and given["task.id"].values is None:
        return words_of_id(str(given["task.id"].value), given)
    return [f"task={CUSTOM}"] if {"task.id", "task.name"} & given.keys() else None


def words_of_id(env_id: str, given: Mapping[str, Override]) -> list[str]:
    """Return the words that make an environment's id the task, by its own configuration if any."""
    for name, known in known_tasks().items():
        if same_id(env_id, known):
            return [f"task={name}"]
    own = {"task.id": env_id, "task.name": env_id.rpartition(":")[2]}
    added = [f"{key}={quoted(value)}" for key, value in own.items() if key not in given]
    return [f"task={CUSTOM}", *added]


def words_of_data(data: str, given: Mapping[str, Override]) -> list[str]:
    """Return the words that make the recorded environment of a data set the task.

    Raises:
        PgdiffError: data that exist and do not say where they were recorded, or say so by the id
            of an environment that is not registered here.
    """
    source = str(Path(data).expanduser()) if data.startswith("~") else data
    if not find_place(source).exists:
        return []  # `train` says so, with the command that records them
    env_id = recorded_env(source)
    if env_id is not None:
        words = words_of_id(env_id, given)
        # Nothing is imported because a file names it: only what is registered already is made.
        if words[0] != f"task={CUSTOM}" or env_id in gymnasium.registry:
            print(f"task: {_told(words)}, in which '{data}' was recorded")
            return words
    found = "do not say" if env_id is None else f"say '{env_id}', which is not registered here"
    raise PgdiffError(
        f"`task` must be given, because the data must say where they were recorded. '{data}' "
        f"{found}. Pass task=NAME (`pgdiff train --help` lists them), or task.id=ID of a Gymnasium "
        "environment, task.name=NAME without one; then task.horizon=N, task.stride=N and "
        "task.discount=G as they fit the data."
    )


def words_of_run(run: RunInfo, given: Mapping[str, Override]) -> list[str]:
    """Return the words that make the task of a run that of the command."""
    name = str(run.task.get("name"))
    described = dict(run.task)
    words = {"task": name}
    if name not in known_tasks():
        words = {"task": CUSTOM}
        known = _flat(_configuration(CUSTOM))
        words |= {
            f"task.{key}": _text(value)
            for key, value in _flat(described).items()
            if key in known and not isinstance(value, list)
        }
    elif described.get("id") is not None and described["id"] != known_tasks()[name]:
        words["task.id"] = quoted(str(described["id"]))
    # A recipe may have a horizon and a stride of its own: what is added must fit the model.
    model = run.stage(MODEL)
    described |= {} if model is None else model.arguments
    words |= {f"task.{key}": str(described[key]) for key in OF_THE_TASK if key in described}
    return [f"{key}={value}" for key, value in words.items() if key not in given]


def check_named(task: Mapping[str, Any]) -> None:
    """Raise an error for a task without a name, which folders and files are called by."""
    if task["name"] is None:
        raise PgdiffError(
            f"`task.id` or `task.name` must be given with task={CUSTOM}: task.id=ID of a Gymnasium "
            "environment, task.name=NAME without one. Got null for both."
        )


def recorded_env(data: str) -> str | None:
    """Return the id of the environment that a data set says it was recorded in, or None."""
    place = find_place(data)
    try:
        if place.folder is not None:
            spec = json.loads((place.folder / METADATA).read_bytes()).get("env_spec")
            found = json.loads(spec).get("id") if isinstance(spec, str) else None
        else:
            with h5py.File(place.path) as file:
                found = file.attrs.get("env_id")
    except (OSError, ValueError, AttributeError, RuntimeError):
        return None  # reading the data names the fault
    usable = isinstance(found, str) and 0 < len(found) <= _LONGEST_ID and found.isprintable()
    return str(found) if usable else None


def _told(words: Sequence[str]) -> str:
    name = words[0].partition("=")[2]
    if name != CUSTOM:
        return name
    own = _configuration(CUSTOM)
    numbers = ", ".join(f"{key} {own[key]}" for key in OF_THE_TASK)
    env_id = words[1].partition("=")[2].strip("'")
    return f"{env_id} ({numbers}; change them by task.horizon=N and so on)"


def _configuration(name: str) -> dict[str, Any]:
    found = OmegaConf.to_container(OmegaConf.load(CONFIG_DIR / "task" / f"{name}.yaml"))
    assert isinstance(found, dict)
    return {str(key): value for key, value in found.items()}


def _flat(node: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Values by dotted key."""
    found: dict[str, Any] = {}
    for key, value in node.items():
        found |= (
            _flat(value, f"{prefix}{key}.")
            if isinstance(value, Mapping)
            else {f"{prefix}{key}": value}
        )
    return found


def _text(value: Any) -> str:
    return quoted(value) if isinstance(value, str) else json.dumps(value)
