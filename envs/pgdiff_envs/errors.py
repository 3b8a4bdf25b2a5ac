"""Error class of this package, and the import of optional modules."""

import difflib
import importlib
from collections.abc import Iterable
from typing import Any


class PgdiffEnvsError(ValueError):
    """An argument is invalid or an optional package is missing; the message names the fix.

    Example:
        >>> import pgdiff_envs
        >>> try:
        ...     pgdiff_envs.normalized_score("maze2d-tiny-v1", 10.0)
        ... except pgdiff_envs.PgdiffEnvsError as error:
        ...     print(str(error)[:24])
        `task_id` must be one of
    """


def nearest(name: str, choices: Iterable[str]) -> str:
    """Return a phrase that lists the choices and suggests the nearest to `name`."""
    names = sorted(choices)
    close = difflib.get_close_matches(name, names, n=1, cutoff=0.4)
    hint = f" Did you mean '{close[0]}'?" if close else ""
    return f"one of {{{', '.join(names)}}}.{hint}"


def require(module: str, *, extra: str) -> Any:
    """Import an optional module; raise with the name of its extra if it is missing.

    Args:
        module: dotted name of the module.
        extra: extra of pgdiff that installs the module.

    Raises:
        PgdiffEnvsError: the module is not installed.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise PgdiffEnvsError(
            f"This needs the optional package '{module.partition('.')[0]}', which is not "
            f"installed. Install it with: pip install 'pgdiff-rl[{extra}]'."
        ) from error
