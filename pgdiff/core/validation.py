"""Checks of arguments, and the error class of the package."""

import difflib
import importlib
import math
import os
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np


class PgdiffError(ValueError):
    """An input or a setting is invalid; the message names the argument, its value and the fix."""


def nearest(name: str, choices: Iterable[str]) -> str:
    """Return a phrase that lists the choices and suggests the nearest to `name`."""
    names = sorted(choices)
    close = difflib.get_close_matches(name, names, n=1, cutoff=0.4)
    hint = f" Did you mean '{close[0]}'?" if close else ""
    return f"one of {{{', '.join(names)}}}.{hint}"


def check_in(name: str, value: str, choices: Iterable[str]) -> str:
    """Return `value` if it is one of `choices`; else raise and suggest the nearest choice."""
    names = list(choices)
    if value not in names:
        raise PgdiffError(f"`{name}` must be {nearest(str(value), names)} Got '{value}'.")
    return value


def check_positive_int(name: str, value: int, *, minimum: int = 1) -> int:
    """Return `value` if it is an integer of at least `minimum`."""
    if isinstance(value, bool) or not hasattr(value, "__index__") or int(value) < minimum:
        raise PgdiffError(f"`{name}` must be an integer of at least {minimum}. Got {value!r}.")
    return int(value)


def check_seed(name: str, value: int) -> int:
    """Return `value` if it is a valid seed for PyTorch and NumPy: an integer in [0, 2^63)."""
    if isinstance(value, bool) or not hasattr(value, "__index__") or not 0 <= int(value) < 2**63:
        raise PgdiffError(f"`{name}` must be an integer in [0, 2^63). Got {value!r}.")
    return int(value)


def check_range(
    name: str,
    value: float,
    *,
    low: float = -math.inf,
    high: float = math.inf,
    open_low: bool = False,
    open_high: bool = False,
) -> float:
    """Return `value` if it is a finite number between `low` and `high`."""
    interval = f"{'(' if open_low else '['}{low}, {high}{')' if open_high else ']'}"
    number = math.nan
    if not isinstance(value, bool | str) and hasattr(value, "__float__"):
        with suppress(TypeError, ValueError, RuntimeError, OverflowError):  # e.g. arrays
            number = float(value)
    below = number <= low if open_low else number < low
    above = number >= high if open_high else number > high
    if not math.isfinite(number) or below or above:
        raise PgdiffError(f"`{name}` must be a number in {interval}. Got {_format_value(value)}.")
    return number


def check_level(name: str, value: float) -> float:
    """Return `value` if it is a noise level in [0, 1)."""
    return check_range(name, value, low=0.0, high=1.0, open_high=True)


def check_flag(name: str, value: bool) -> bool:
    """Return `value` if it is true or false."""
    if not isinstance(value, bool):
        raise PgdiffError(f"`{name}` must be true or false. Got {_format_value(value)}.")
    return value


def check_part(name: str, part: object, *kinds: type) -> Any:
    """Return `part` if it is an instance of one of `kinds`; classes are rejected."""
    if isinstance(part, type) or not isinstance(part, kinds):
        names = " or ".join(kind.__name__ for kind in kinds)
        article = "an" if names[0] in "AEIOU" else "a"
        raise PgdiffError(f"`{name}` must be {article} {names}. Got {_format_value(part)}.")
    return part


def check_each(name: str, parts: object, kind: type, *, hint: str = "") -> None:
    """Raise unless `parts` is a sequence of instances of `kind`.

    Args:
        name: name of the argument, for the message.
        parts: value of the argument.
        kind: required class of each element.
        hint: text at the end of the message about a wrong element.
    """
    rule = f"`{name}` must be a sequence of {kind.__name__}"
    if not isinstance(parts, Sequence) or isinstance(parts, str):
        raise PgdiffError(f"{rule}. Got {_format_value(parts)}.")
    for part in parts:
        if isinstance(part, type) or not isinstance(part, kind):
            raise PgdiffError(f"{rule}. Got {_format_value(part)} in it{hint}.")


def _format_value(value: object) -> str:
    """Return a value as shown in errors: its `repr`, or its class name if that is not readable."""
    text = repr(value)
    default = type(value).__repr__ is object.__repr__
    readable = not default and len(text) <= 80 and "\n" not in text
    return text if readable else f"a {type(value).__name__}"


def as_array(name: str, value: Any) -> "np.ndarray":
    """Return a value as a NumPy array; a PyTorch tensor is detached and copied to the CPU.

    Args:
        name: name of the argument, for the message.
        value: any input of `numpy.asarray`, or a tensor.

    Raises:
        PgdiffError: the value cannot be converted to an array.
    """
    import numpy as np  # imported here to keep `pgdiff --help` fast

    if hasattr(value, "detach"):
        value = value.detach().cpu()
        if str(value.dtype) == "torch.bfloat16":  # NumPy does not have this type
            value = value.float()
    try:
        return np.asarray(value)
    except (TypeError, ValueError, RuntimeError) as error:
        raise PgdiffError(
            f"`{name}` must be an array. Got {_format_value(value)} ({error})."
        ) from error


def user_path(path: str | os.PathLike[str]) -> Path:
    """Return a path with a leading "~" replaced by the home directory."""
    with suppress(RuntimeError):  # "~name" of an unknown user is kept as a name
        return Path(path).expanduser()
    return Path(path)


def require(module: str, *, extra: str) -> ModuleType:
    """Import an optional module; raise with the name of its extra if it is missing.

    Args:
        module: dotted name of the module.
        extra: extra of this package that installs the module.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise PgdiffError(
            f"This needs the optional package '{module.partition('.')[0]}', which is not "
            f"installed. Install it with: pip install 'pgdiff-rl[{extra}]'."
        ) from error


def check_features(indices: Sequence[int] | None, *, size: int) -> tuple[int, ...] | None:
    """Return the checked indices of a value's input features; None selects all `size` features."""
    if indices is None:
        return None
    chosen = tuple(indices)
    if not chosen or any(isinstance(i, bool) or not 0 <= i < size for i in chosen):
        raise PgdiffError(
            f"`value_features` must be indices of the {size} features of an observation. "
            f"Got {list(chosen)}."
        )
    return chosen
