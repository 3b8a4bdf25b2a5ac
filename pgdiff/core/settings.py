"""Settings as plain values: merging, building and describing registered dataclasses.

A setting is a field of one registered dataclass. The configuration of the command line, its help
and the record in a run are generated from these classes, so that a new field is a new setting.
"""

import dataclasses
import functools
import inspect
import re
import typing
from collections.abc import Mapping
from typing import Any

from pgdiff.core.registry import (
    check_imported,
    is_registered,
    kind_of_annotation,
    registered,
    to_config,
)
from pgdiff.core.validation import PgdiffError, check_in, nearest


def part(kind: str) -> dict[str, str]:
    """Return the metadata of a dataclass field that holds a registered part of this kind.

    Plain values can then name the part: `field(default=None, metadata=part("solver"))`.
    """
    return {"kind": kind}


def merge(base: Any, change: Any) -> Any:
    """Return the plain values of a part, with changes.

    A mapping merges into the base, key by key. A mapping with another `name`, and any other value
    (None switches a part off), replaces the base.

    Args:
        base: a plain value.
        change: a plain value; keys that it leaves out stay as they are.

    Example:
        >>> from pgdiff.core.settings import merge
        >>> merge({"steps": 5, "solver": {"name": "ddim", "eta": 0.5}}, {"steps": 20})
        {'steps': 20, 'solver': {'name': 'ddim', 'eta': 0.5}}
    """
    if not isinstance(change, Mapping):
        return change
    if isinstance(base, str) and set(change) - {"name"}:
        base = {"name": base}
    if not isinstance(base, Mapping) or change.get("name", base.get("name")) != base.get("name"):
        return dict(change)
    merged = dict(base)
    for key, value in change.items():
        merged[str(key)] = merge(base[key], value) if key in base else value
    return merged


def build(cls: type, values: Mapping[str, Any], *, name: str) -> Any:
    """Return an instance of a registered dataclass from plain values.

    Args:
        cls: the dataclass.
        values: values of its fields by name; a part is a name, `{name: ..., ...}`, or an object.
        name: name of the setting, for errors.

    Raises:
        PgdiffError: an unknown setting, with the nearest one, a missing one, or a value out of its
            range.
    """
    given = build_arguments(cls, values, name=name)
    kinds = part_kinds(cls)
    for key, parameter in inspect.signature(cls).parameters.items():
        if parameter.default is parameter.empty and key in kinds and key not in given:
            raise PgdiffError(f"`{name}` needs `{key}`, which is missing.")
    return cls(**given)


def build_arguments(cls: type, values: Mapping[str, Any], *, name: str) -> dict[str, Any]:
    """Return arguments of a class from plain values; see `build`."""
    if not isinstance(values, Mapping):
        raise PgdiffError(f"`{name}` must be settings by name, for example {{}}. Got {values!r}.")
    kinds = part_kinds(cls)
    given = {}
    for key, value in values.items():
        if key in ("name", "kind", "import"):
            continue
        if key not in kinds:
            raise PgdiffError(f"`{name}` has no '{key}'. It must be {nearest(str(key), kinds)}")
        given[key] = build_part(kinds[key], value, name=f"{name}.{key}")
    return given


def build_part(kind: str | None, value: Any, *, name: str) -> Any:
    """Return the part that a plain value names; other values as they are.

    Args:
        kind: kind of the part; None for a value that is not a part.
        value: a name, `{name: ..., ...}`, an object, or None.
        name: name of the setting, for errors.
    """
    if isinstance(value, list | tuple):
        return tuple(build_part(kind, item, name=f"{name}[{i}]") for i, item in enumerate(value))
    if kind is None or value is None or not isinstance(value, str | Mapping):
        return value
    known = registered(kind)
    config = {"name": value} if isinstance(value, str) else value
    if "name" not in config and len(known) == 1:
        config = {"name": next(iter(known)), **config}
    check_imported(kind, config)
    check_in(f"{name}", str(config.get("name")), known)
    return build(known[str(config["name"])], config, name=name)


@functools.cache
def part_kinds(cls: type) -> dict[str, str | None]:
    """Return the fields of a class, each with the kind of part that it holds, or None."""
    if dataclasses.is_dataclass(cls):
        return {f.name: f.metadata.get("kind") for f in dataclasses.fields(cls) if f.init}
    return {
        name: kind_of_argument(name, argument.hint) for name, argument in arguments(cls).items()
    }


class Argument(typing.NamedTuple):
    """An argument of a class.

    Attributes:
        hint: annotation.
        default: default, or `inspect.Parameter.empty`.
        passed_on: whether it is one of the `**settings` that a class passes to its base class.
    """

    hint: Any
    default: Any
    passed_on: bool = False


@functools.cache
def arguments(cls: type) -> dict[str, Argument]:
    """Return the arguments of a class by name.

    `**settings: Unpack[Options]` stands for the keys of the TypedDict, and `**settings` of another
    type for the arguments of the base class.

    Args:
        cls: any class.
    """
    init: Any = cls.__init__  # type: ignore[misc]
    if init is object.__init__:
        return {}
    hints, found = _hints(init), dict[str, Argument]()
    for parameter in inspect.signature(init).parameters.values():
        hint = hints.get(parameter.name)
        if parameter.kind is parameter.VAR_KEYWORD:
            below = arguments(cls.__mro__[cls.__mro__.index(_owner(cls)) + 1])
            if options := typing.get_args(hint):
                typed = typing.get_type_hints(options[0])
                below = {key: below.get(key, Argument(typed[key], None)) for key in typed}
            passed_on = {key: Argument(one.hint, one.default, True) for key, one in below.items()}
            found = {**found, **{key: one for key, one in passed_on.items() if key not in found}}
        elif parameter.kind is not parameter.VAR_POSITIONAL and parameter.name != "self":
            found[parameter.name] = Argument(hint, parameter.default)
    return found


def _hints(function: Any) -> dict[str, Any]:
    try:
        return typing.get_type_hints(function)
    except NameError:  # an annotation that only a type checker can read
        return {}


def _owner(cls: type) -> type:
    """Return the class in whose body the constructor of a class is written."""
    return next(base for base in cls.__mro__ if "__init__" in vars(base))


def kind_of_argument(name: str, hint: Any) -> str | None:
    """Return the kind of part that an argument holds: by its annotation, or by its name."""
    return _kind_in(hint) or (name if registered(name) else None)


def part_kind(name: str, make: Any) -> str | None:
    """Return the kind of part that an argument of a function holds; None for a plain value.

    It is that of the registered class that annotates it, or the kind of the argument's name.
    """
    return kind_of_argument(name, _hints(getattr(make, "__func__", make)).get(name))


def _kind_in(hint: Any) -> str | None:
    kinds = map(kind_of_annotation, typing.get_args(hint) or (hint,))
    return next((kind for kind in kinds if kind is not None), None)


def settings_classes(cls: type) -> dict[str, type]:
    """Return the arguments of a class that are settings dataclasses, by name."""
    hints = typing.get_type_hints(vars(cls)["__init__"])
    found = {}
    for name in inspect.signature(cls).parameters:
        for one in typing.get_args(hints.get(name)) or (hints.get(name),):
            if isinstance(one, type) and is_registered(one) and dataclasses.is_dataclass(one):
                found[name] = one
    return found


def plain(value: Any) -> Any:
    """Return settings as plain values, with every default written out."""
    if type(value) is not type and is_registered(type(value)):
        config = to_config(value)
        config.pop("kind", None)
        return {key: plain(item) for key, item in config.items()}
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items() if key != "kind"}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return value


def described(cls: type) -> dict[str, str]:
    """Return the description of every argument of a class, from its docstring."""
    text = inspect.getdoc(cls) or ""
    section = re.search(r"^(?:Args|Attributes):\n((?:[ ]+.*\n?|\n)*)", text, re.M)
    if section is None:
        return {}
    entries = re.split(r"^ {4}(?=\w+: )", section.group(1), flags=re.M)
    found = {}
    for entry in entries:
        name, _, rest = entry.partition(": ")
        if rest:
            found[name.strip()] = " ".join(rest.split())
    return found
