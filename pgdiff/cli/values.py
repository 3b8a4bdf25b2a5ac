"""Reading single settings, with errors that name them."""

from pathlib import Path
from typing import Any

from pgdiff.validation import PgdiffError


def flag(settings: dict[str, Any], name: str) -> bool:
    """Return a setting that is true or false."""
    value = settings[name]
    if not isinstance(value, bool):
        raise PgdiffError(f"`{name}` must be true or false. Got {value!r}.")
    return value


def path(settings: dict[str, Any], name: str, default: str | Path | None = None) -> Path:
    """Return a path; `default` where the setting is null."""
    value = settings[name]
    if value is None and default is None:
        raise PgdiffError(f"`{name}` must be given: {name}=PATH. Got null.")
    chosen = default if value is None else value
    if not isinstance(chosen, str | Path | int | float) or isinstance(chosen, bool):
        raise PgdiffError(f"`{name}` must be a path. Got {chosen!r}.")
    return Path(str(chosen)).expanduser()


def swept(settings: dict[str, Any], *, named: tuple[str, ...] = ()) -> str:
    """Return what tells a job of a sweep from the others, for its default output; else "".

    Args:
        settings: those of the job.
        named: keys that the default output names anyway.
    """
    words = [word for word in settings.get("sweep", []) if word.partition("=")[0] not in named]
    return "".join(f"-{word.replace('/', '_')}" for word in words)
