"""Registry of classes by kind and name, and conversion of their objects to JSON and back.

Loading a file never runs code from it: a file can only name a class that is already registered.
"""

import dataclasses
import functools
import inspect
import math
import re
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import numpy as np
from torch import Tensor

from pgdiff.core.plugins import load_installed_plugins
from pgdiff.core.validation import PgdiffError, nearest

AnyClass = TypeVar("AnyClass", bound=type)
_HOME = __name__.partition(".")[0]
_MODULE = "import"
"""Configuration key with the module of a class from another package. It is a Python keyword, so no
argument has this name. It is only used in error messages; the module is never imported."""
_OWN_KEYS = ("name", "kind", _MODULE)
_REGISTRY: dict[str, dict[str, type]] = {}
_NAMES: dict[type, tuple[str, str]] = {}
_BASES: dict[type, str] = {}
_PATH = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*")


def register(kind: str, name: str) -> Callable[[AnyClass], AnyClass]:
    """Register a class under a name that configurations and saved folders can use.

    The class is a frozen dataclass, or any class (for example a network) that stores every
    constructor argument in an attribute of the same name. Arguments are JSON values, tuples, dicts
    with string keys, or registered objects.

    Args:
        kind: group of the class, for example "noise_schedule".
        name: unique name within the kind, for example "cosine".

    Raises:
        PgdiffError: another class is registered under this name.
    """

    def decorate(cls: AnyClass) -> AnyClass:
        classes = _REGISTRY.setdefault(kind, {})
        other = classes.get(name)
        if other is not None and _identity(other) != _identity(cls):
            raise PgdiffError(
                f"`name` must be unique among the registered {kind}s. Got '{name}', which is "
                f"{other.__module__}.{other.__qualname__}. Choose another name."
            )
        classes[name] = cls
        _NAMES[cls] = (kind, name)
        _convert_numpy_scalars(cls)
        return cls

    return decorate


def base_of(kind: str) -> Callable[[AnyClass], AnyClass]:
    """Declare a protocol as that of a kind: arguments annotated with it take parts of this kind.

    Args:
        kind: kind of the registered classes that satisfy the protocol.
    """

    def decorate(cls: AnyClass) -> AnyClass:
        _BASES[cls] = kind
        return cls

    return decorate


def is_path(name: str) -> bool:
    """Return whether a name has the form `module:Class`."""
    return _PATH.fullmatch(name) is not None


def is_registered(cls: type) -> bool:
    """Return whether a class is registered."""
    return cls in _NAMES


def kind_of(cls: type) -> str:
    """Return the kind of a registered class."""
    return _NAMES[cls][0]


def kind_of_annotation(cls: object) -> str | None:
    """Return the kind of the parts that a class or protocol annotates; None for other values."""
    if not isinstance(cls, type):
        return None
    return _NAMES[cls][0] if cls in _NAMES else _BASES.get(cls)


def name_of(cls: type) -> str:
    """Return the name of a registered class."""
    return _NAMES[cls][1]


def registered(kind: str) -> dict[str, type]:
    """Return the registered classes of a kind by name."""
    return dict(_REGISTRY.get(kind, {}))


def create(kind: str, name: str, **kwargs: Any) -> Any:
    """Build an object of the class registered as `name` of `kind` from keyword arguments.

    Raises:
        PgdiffError: unknown kind, name or argument (the message suggests the nearest valid one), or
            a missing argument.
    """
    if kind not in _REGISTRY:
        raise PgdiffError(f"`kind` must be {nearest(str(kind), _REGISTRY)} Got {kind!r}.")
    choices = _REGISTRY[kind]
    if name not in choices:
        load_installed_plugins()
    if name not in choices:
        raise PgdiffError(f"`{kind}` must be {nearest(str(name), choices)} Got {name!r}.")
    cls = choices[name]
    parameters = _parameters(cls)
    for key in kwargs:
        if key not in parameters:
            raise PgdiffError(
                f"Arguments of {kind} '{name}' must be {nearest(key, parameters)} Got '{key}'."
            )
    missing = [key for key, p in parameters.items() if p.default is p.empty and key not in kwargs]
    if missing:
        raise PgdiffError(f"{kind} '{name}' needs `{missing[0]}`, which is missing.")
    try:
        return cls(**kwargs)
    except (TypeError, AttributeError) as error:  # AttributeError: an argument of a wrong kind
        raise PgdiffError(f"{kind} '{name}' cannot be built from {kwargs}: {error}.") from error


def to_config(obj: object) -> dict[str, Any]:
    """Return a registered object as a JSON-serialisable dict `{"name": ..., **arguments}`.

    For a class of another package, the key `"import"` holds the name of its module; `from_config`
    shows it in an error message and never imports it. An argument that is a registered object
    becomes a dict of this form with its "kind" added. Tuples and one-dimensional tensors become
    lists, which are restored as tuples.

    Raises:
        PgdiffError: the class is not registered, or an argument cannot be written as JSON.
    """
    cls = type(obj)
    if cls not in _NAMES:
        raise PgdiffError(
            f"{cls.__qualname__} is not registered. Decorate it with @register(kind, name)."
        )
    _, name = _NAMES[cls]
    config: dict[str, Any] = {"name": name}
    if is_foreign(cls):
        config[_MODULE] = cls.__module__
    for key in _parameters(cls):
        config[key] = _encode(getattr(obj, key), f"{name}.{key}")
    return config


def from_config(kind: str, config: Mapping[str, Any]) -> Any:
    """Build an object from a configuration that `to_config` made.

    Raises:
        PgdiffError: unknown name or argument (the message suggests the nearest valid one, or the
            module to import first), or a missing argument.
    """
    if not isinstance(config, Mapping) or not isinstance(config.get("name"), str):
        raise PgdiffError(f"A {kind} configuration must be a dict with a 'name'. Got {config!r}.")
    check_imported(kind, config)
    arguments = {str(key): _decode(value) for key, value in config.items() if key not in _OWN_KEYS}
    return create(kind, config["name"], **arguments)


def check_imported(kind: str, config: Mapping[str, Any]) -> None:
    """Raise if the class of a configuration is not registered; the message names its module.

    Args:
        kind: kind of the class.
        config: configuration made by `to_config`.
    """
    name, module = config.get("name"), config.get(_MODULE)
    if not isinstance(name, str):
        return
    if name not in _REGISTRY.get(kind, {}):
        load_installed_plugins()
    if name in _REGISTRY.get(kind, {}):
        return
    if is_path(name) and not isinstance(module, str):
        module = name.partition(":")[0]
    if not isinstance(module, str):
        return
    shown = module[:100].encode("unicode_escape").decode("ascii")
    fix = (
        "Define it in this program with the same @register"
        if module == "__main__"
        else f"Import this module first (import {shown}, or plugins={shown} on the command line)"
    )
    raise PgdiffError(
        f"The {kind} '{name}' must be registered before it is loaded. It was saved from the module "
        f"'{shown}'. pgdiff never imports a module that a file names. {fix}."
    )


def with_module(kind: str, value: Any) -> Any:
    """Return a configuration with the module of its class added if it is from another package.

    Args:
        kind: kind of the class.
        value: a name, or a dict `{"name": ..., ...}`; other values are returned unchanged.
    """
    config = {"name": value} if isinstance(value, str) else value
    name = config.get("name") if isinstance(config, Mapping) else None
    cls = _REGISTRY.get(kind, {}).get(name) if isinstance(name, str) else None
    return value if cls is None or not is_foreign(cls) else {**config, _MODULE: cls.__module__}


def is_foreign(cls: type) -> bool:
    """Return whether a class is from another package."""
    return cls.__module__.partition(".")[0] != _HOME


def _identity(cls: type) -> tuple[str, str]:
    # A reloaded module (in a notebook) registers its class again.
    return cls.__module__, cls.__qualname__


def _convert_numpy_scalars(cls: Any) -> None:
    """Make a dataclass convert NumPy scalars to Python numbers before its own checks.

    Otherwise a `uint8` step count could overflow, and a `float32` setting would differ from the
    value loaded from a file.
    """
    check = vars(cls).get("__post_init__")
    if check is None or not dataclasses.is_dataclass(cls):
        return

    @functools.wraps(check)
    def converted(self: Any) -> None:
        for part in dataclasses.fields(self):
            value = getattr(self, part.name)
            if isinstance(value, np.generic):
                object.__setattr__(self, part.name, value.item())
        check(self)

    setattr(cls, check.__name__, converted)


def _parameters(cls: type) -> dict[str, inspect.Parameter]:
    parameters = dict(inspect.signature(cls).parameters)
    for key, parameter in parameters.items():
        loose = parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
        if loose or parameter.kind is parameter.POSITIONAL_ONLY or key in ("name", "kind"):
            raise PgdiffError(
                f"{cls.__qualname__} cannot be registered with the argument '{key}': arguments "
                "must be keyword arguments, and the names 'name' and 'kind' are reserved."
            )
    return parameters


def _encode(value: Any, where: str) -> Any:
    if type(value) in _NAMES:
        kind, _ = _NAMES[type(value)]
        return {"kind": kind, **to_config(value)}
    if isinstance(value, np.generic):
        value = value.item()
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        if not math.isfinite(value):
            raise PgdiffError(f"`{where}` must be finite to be saved. Got {value}.")
        return value
    if isinstance(value, Tensor) and value.ndim == 1:
        value = tuple(value.tolist())
    if isinstance(value, tuple):
        return [_encode(item, f"{where}[{i}]") for i, item in enumerate(value)]
    if isinstance(value, dict) and "kind" not in value and all(isinstance(k, str) for k in value):
        return {key: _encode(item, f"{where}.{key}") for key, item in value.items()}
    raise PgdiffError(
        f"`{where}` must be a JSON value, a tuple, a dict with string keys (none of them 'kind') "
        f"or a registered object to be saved. Got {type(value).__qualname__}."
    )


def _decode(value: Any) -> Any:
    if isinstance(value, Mapping):
        if isinstance(value.get("kind"), str):
            return from_config(value["kind"], value)
        return {str(key): _decode(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return tuple(_decode(item) for item in value)
    return value
