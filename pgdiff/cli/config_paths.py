"""Configurations of the package and of the user, by group and name; without Hydra."""

import functools
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from pgdiff.core.validation import PgdiffError

_PACKAGED = Path(__file__).parents[1] / "configs"
CONFIG_DIR = _PACKAGED if _PACKAGED.is_dir() else Path(__file__).parents[2] / "configs"
"""Folder of the configurations: inside the package in a wheel, next to it in a checkout."""

GENERATED = {"planner": "run", "sampling": "run", "trainer": "default"}
"""Groups whose settings are generated from classes (`pgdiff.cli.generated`), with their choice."""

CLASSES = ("denoiser", "guide")
"""Groups in which registered classes are choices too."""

TASK, TUNED = "task", "tuned"
"""Group of the tasks, and folder with one table of tuned values for each recipe."""

CUSTOM = "custom"
"""Task of the environments without a row in the table of tasks."""

_user: dict[tuple[str, str], str] = {}
"""YAML text of the user's configurations by group and name, for the present command."""


class _Loader(yaml.SafeLoader):  # type: ignore[misc]
    """A loader that reads YAML 1.2 numbers such as 1e-3 as OmegaConf does."""


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"[-+]?(?:\d[\d_]*)(?:\.\d*)?(?:[eE][-+]?\d+)|[-+]?\d+\.\d*|[-+]?\.\d+\Z"),
    list("-+.0123456789"),
)


def parse_yaml(text: str, where: object) -> dict[str, Any]:
    """Return the mapping in a YAML text.

    Args:
        text: the YAML text.
        where: name of the text in errors.

    Raises:
        PgdiffError: the text is not YAML, or not a mapping.
    """
    try:
        content = _Loader(text).get_single_data()
    except yaml.YAMLError as error:
        reason = " ".join(str(error).split())
        raise PgdiffError(f"'{where}' must be a YAML file. Got an error: {reason}.") from error
    if not isinstance(content, dict):
        raise PgdiffError(f"'{where}' must map names to values. Got {type(content).__name__}.")
    return {str(key): value for key, value in content.items()}


def groups(command: str) -> dict[str, str]:
    """Return the default choice of each group of a command."""
    text = (CONFIG_DIR / f"{command}.yaml").read_text(encoding="utf-8")
    return dict(re.findall(r"^  - (\w+): ([\w-]+)$", text, flags=re.MULTILINE))


def choices(group: str) -> list[str]:
    """Return the choices of a group, including the user's configurations."""
    added = {name for kind, name in _user if kind == group}
    return sorted({*packaged(group), *classes(group), *added})


def packaged(group: str) -> list[str]:
    """Return the choices of a group that belong to the package."""
    if group in GENERATED:
        return [GENERATED[group]]
    if group == TASK:
        return list(_task_rows())
    return sorted(file.stem for file in (CONFIG_DIR / group).glob("*.yaml"))


def classes(group: str) -> dict[str, type]:
    """Return the registered classes that are choices of a group, by name."""
    if group not in CLASSES:
        return {}
    import pgdiff.denoisers  # noqa: F401  (registers classes; imports PyTorch)
    from pgdiff.core.registry import is_foreign, registered

    by_name = registered(group)
    if group == "guide":  # guides of the package have configuration files
        by_name = {name: cls for name, cls in by_name.items() if is_foreign(cls)}
    return {name: cls for name, cls in by_name.items() if name not in packaged(group)}


def text_of(group: str, choice: str) -> str:
    """Return the YAML text of a choice, with its comments."""
    if (group, choice) in _user:
        return _user[group, choice]
    if group == TASK:
        return _row_text(choice)
    if choice in (known := classes(group)):
        from pgdiff.cli.generated import class_text

        return class_text(group, choice, known[choice])
    return (CONFIG_DIR / group / f"{choice}.yaml").read_text(encoding="utf-8")


def node_of(group: str, choice: str) -> dict[str, Any]:
    """Return the content of a choice, including its list of defaults."""
    node = parse_yaml(text_of(group, choice), f"{group}={choice}")
    line = f"optional /{TUNED}/{choice}@_here_"
    if (group, choice) in _user and group == "recipe" and (TUNED, choice) in _user:
        defaults = node.get("defaults", ["_self_"])
        if not any(isinstance(item, dict) and line in item for item in defaults):
            node = {**node, "defaults": with_default(defaults, {line: "${task}"})}
    return node


def tables() -> dict[str, dict[str, Any]]:
    """Return the tuned values by recipe and task.

    Rows of the user's tables replace rows of the package.
    """
    rows = {name: dict(_packaged_table(name)) for name in packaged(TUNED)}
    for group, name in _user:
        if group == TUNED:
            rows[name] = rows.get(name, {}) | parse_yaml(_user[group, name], f"{TUNED}/{name}.yaml")
    return rows


# ----------------------------------------------------------------- configurations of the user


def user_texts() -> Mapping[tuple[str, str], str]:
    """Return the texts of the user's configurations by group and name."""
    return _user


def add_user_text(group: str, name: str, text: str) -> None:
    """Add a configuration of the user to the present command."""
    _user[group, name] = text


def clear_user_texts() -> None:
    """Remove the user's configurations of an earlier command."""
    _user.clear()


def with_default(defaults: list[Any], item: dict[str, str]) -> list[Any]:
    """Return a list of defaults with an item added in front of its overrides."""
    overrides = [other for other in defaults if isinstance(other, dict) and _overrides(other)]
    return [*(other for other in defaults if other not in overrides), item, *overrides]


def _overrides(item: dict[str, Any]) -> bool:
    return any(str(key).startswith("override ") for key in item)


# --------------------------------------------------------------------------------------- tables


@functools.cache
def _task_text() -> str:
    return (CONFIG_DIR / "tasks.yaml").read_text(encoding="utf-8")


@functools.cache
def _task_rows() -> dict[str, dict[str, Any]]:
    rows = parse_yaml(_task_text(), "tasks.yaml")
    return {name: {"name": name, **row} for name, row in rows.items()}


@functools.cache
def _packaged_table(name: str) -> dict[str, Any]:
    file = CONFIG_DIR / TUNED / f"{name}.yaml"
    return parse_yaml(file.read_text(encoding="utf-8"), file)


def _row_text(task: str) -> str:
    """Return a row of the table of tasks as a YAML text, with the comment of each column."""
    comments = dict(re.findall(r"^#   (\w+): (.*)$", _task_text(), flags=re.MULTILINE))
    lines = []
    for key, value in _task_rows()[task].items():
        comment = f"  # {comments[key]}" if key in comments else ""
        lines.append(f"{key}: {'null' if value is None else value}{comment}")
    return "\n".join(lines)
