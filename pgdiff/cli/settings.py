"""Checked values of single settings, with errors that name the setting."""

from pathlib import Path
from typing import Any

from pgdiff.cli.path_settings import is_path
from pgdiff.core.validation import PgdiffError


def flag(settings: dict[str, Any], name: str) -> bool:
    """Return a setting that is true or false."""
    value = settings[name]
    if not isinstance(value, bool):
        raise PgdiffError(f"`{name}` must be true or false. Got {value!r}.")
    return value


def path(settings: dict[str, Any], name: str, default: str | Path | None = None) -> Path:
    """Return a path; `default` if the setting is null."""
    assert is_path(name), f"{name} is read as a path; list it in pgdiff.cli.path_settings"
    value = settings[name]
    if value is None and default is None:
        raise PgdiffError(f"`{name}` must be given. Got null. Set {name}=PATH.")
    chosen = default if value is None else value
    if not isinstance(chosen, str | Path | int | float) or isinstance(chosen, bool):
        raise PgdiffError(f"`{name}` must be a path. Got {chosen!r}.")
    return Path(str(chosen)).expanduser()


def paths(settings: dict[str, Any], name: str) -> list[Path]:
    """Return the paths of a setting that is one path or a list of paths, [A,B,C]."""
    value = settings[name]
    if not isinstance(value, list):
        return [path(settings, name)]
    if not value or "" in value:
        raise PgdiffError(f"`{name}` must be a path or a list of paths. Got {value}.")
    return [path({name: item}, name) for item in value]


def swept(settings: dict[str, Any], *, named: tuple[str, ...] = ()) -> str:
    """Return the suffix of a job's default output in a sweep; an empty text without a sweep.

    Args:
        settings: settings of the job.
        named: keys that the default output contains already.
    """
    words = [word for word in settings.get("sweep", []) if word.partition("=")[0] not in named]
    return "".join(f"-{word.replace('/', '_')}" for word in words)
