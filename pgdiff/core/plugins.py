"""Modules of the user that register parts of their own.

A module is imported where a person names it, or as an installed entry point. The name of a module
in a file never imports the module.
"""

import importlib
import os
import sys
import warnings
from functools import cache
from importlib.metadata import entry_points
from types import ModuleType

from pgdiff.core.validation import PgdiffError

GROUP = "pgdiff.plugins"
"""Group of the entry points of installed packages with parts for this library."""


def import_plugin(name: str) -> ModuleType:
    """Import a module that registers parts, also from the current folder.

    Args:
        name: dotted name of the module, for example "my_package.guides".

    Raises:
        PgdiffError: no such module, or an error while it is imported.

    Example:
        >>> from pgdiff.core.plugins import import_plugin
        >>> import_plugin("json").__name__
        'json'
    """
    if not all(part.isidentifier() for part in name.split(".")):
        raise PgdiffError(
            f"`plugins` must be names of modules, for example plugins=my_module. Got '{name}'."
        )
    folder = os.getcwd()
    if folder not in sys.path and "" not in sys.path:
        sys.path.append(folder)  # at the end, so that no installed module is replaced
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is not None and f"{name}.".startswith(f"{error.name}."):
            raise PgdiffError(
                f"`plugins` must be modules that Python finds. Got '{name}'. Install its package, "
                "or call pgdiff in the folder of the module."
            ) from error
        raise _import_error(name, error) from error
    except Exception as error:
        raise _import_error(name, error) from error


def _import_error(name: str, error: Exception) -> PgdiffError:
    reason = f"{type(error).__name__}: {error}".rstrip(".")
    return PgdiffError(f"`plugins`: '{name}' raises an error when it is imported ({reason}).")


@cache
def load_installed_plugins() -> tuple[str, ...]:
    """Import the entry points of the group `pgdiff.plugins`, and return their names.

    An entry point that cannot be imported is left out with a warning. Each is imported once.

    Example:
        >>> from pgdiff.core.plugins import load_installed_plugins
        >>> names = load_installed_plugins()
    """
    names = []
    for entry in entry_points(group=GROUP):
        try:
            entry.load()
        except Exception as error:
            warnings.warn(
                f"The plugin '{entry.name}' ({entry.value}) cannot be imported: "
                f"{type(error).__name__}: {error}. Repair or uninstall its package.",
                UserWarning,
                stacklevel=2,
            )
        else:
            names.append(entry.name)
    return tuple(names)
