"""Parts by name: a noise schedule, a denoiser, a normaliser as plain JSON and back.

Nothing that a file says is run: a file can only name a class that code has registered.
"""

import dataclasses
import functools
import inspect
import math
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import numpy as np
from torch import Tensor

from pgdiff.validation import PgdiffError, nearest

AnyClass = TypeVar("AnyClass", bound=type)
_HOME = __name__.partition(".")[0]
_MODULE = "import"
"""Key of a configuration that names the module of a part that is not this package's. No argument
can be called so, for it is a keyword of Python. It is for messages: nothing is imported by it."""
_OWN_KEYS = ("name", "kind", _MODULE)
_REGISTRY: dict[str, dict[str, type]] = {}
_NAMES: dict[type, tuple[str, str]] = {}


def register(kind: str, name: str) -> Callable[[AnyClass], AnyClass]:
    """Make a class known under a name, so that configurations and saved folders can name it.

    The class is a frozen dataclass, or any class (a network, say) that keeps every argument of
    its constructor in an attribute of the same name. Arguments are JSON values, tuples, dicts
    with string keys, or registered objects.

    Args:
        kind: what it is a choice of, for example "noise_schedule".
        name: its name among that kind, for example "cosine".

    Raises:
        PgdiffError: the name is taken by another class.
    """

    def decorate(cls: AnyClass) -> AnyClass:
        known = _REGISTRY.setdefault(kind, {})
        taken = known.get(name)
        if taken is not None and _identity(taken) != _identity(cls):
            raise PgdiffError(
                f"`name` must be free among the {kind}s. Got '{name}', which is "
                f"{taken.__module__}.{taken.__qualname__}."
            )
        known[name] = cls
        _NAMES[cls] = (kind, name)
        _take_numpy_numbers(cls)
        return cls

    return decorate


def registered(kind: str) -> dict[str, type]:
    """Return the classes of one kind by name (empty where there are none)."""
    return dict(_REGISTRY.get(kind, {}))


def create(kind: str, name: str, **kwargs: Any) -> Any:
    """Build the registered part `name` of `kind` from keyword arguments.

    Raises:
        PgdiffError: unknown kind, name or argument (with the nearest right one), or a missing
            argument.
    """
    if kind not in _REGISTRY:
        raise PgdiffError(f"`kind` must be {nearest(str(kind), _REGISTRY)} Got {kind!r}.")
    choices = _REGISTRY[kind]
    if name not in choices:
        raise PgdiffError(f"`{kind}` must be {nearest(str(name), choices)} Got {name!r}.")
    cls = choices[name]
    parameters = _parameters(cls)
    for key in kwargs:
        if key not in parameters:
            raise PgdiffError(
                f"{kind} '{name}' has no argument '{key}'. It must be {nearest(key, parameters)}"
            )
    missing = [key for key, p in parameters.items() if p.default is p.empty and key not in kwargs]
    if missing:
        raise PgdiffError(f"{kind} '{name}' needs `{missing[0]}`, which is missing.")
    try:
        return cls(**kwargs)
    except (TypeError, AttributeError) as error:  # the latter where a part is of another kind
        raise PgdiffError(f"{kind} '{name}' cannot be built from {kwargs}: {error}.") from error


def to_config(obj: object) -> dict[str, Any]:
    """Return `{"name": ..., **arguments}` of a registered object, all of it JSON-able.

    Of a class that is not this package's, `"import"` has the module that registers it, as text:
    where it is not imported, `from_config` says which module to import, and never imports it
    itself. An argument that is itself a registered object becomes such a dict with its "kind"
    added; a tuple or a tensor of one dimension becomes a list, which comes back as a tuple.

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
    if _is_foreign(cls):
        config[_MODULE] = cls.__module__
    for key in _parameters(cls):
        config[key] = _encode(getattr(obj, key), f"{name}.{key}")
    return config


def from_config(kind: str, config: Mapping[str, Any]) -> Any:
    """Build the object that `to_config` described.

    Raises:
        PgdiffError: unknown name or argument (with the nearest right one, or the module to import
            first), or a missing argument.
    """
    if not isinstance(config, Mapping) or not isinstance(config.get("name"), str):
        raise PgdiffError(f"A {kind}'s configuration must be a dict with a 'name'. Got {config!r}.")
    check_imported(kind, config)
    arguments = {str(key): _decode(value) for key, value in config.items() if key not in _OWN_KEYS}
    return create(kind, config["name"], **arguments)


def check_imported(kind: str, config: Mapping[str, Any]) -> None:
    """Raise an error that names the module to import, if a part's class is not registered yet.

    Args:
        kind: what the part is a choice of.
        config: as `to_config` made it.
    """
    name, module = config.get("name"), config.get(_MODULE)
    if not isinstance(name, str) or not isinstance(module, str):
        return
    if name in _REGISTRY.get(kind, {}):
        return
    shown = module[:100].encode("unicode_escape").decode("ascii")
    mend = (
        "Define it in this program too, with the same @register"
        if module == "__main__"
        else f"Import that module first (import {shown})"
    )
    raise PgdiffError(
        f"The {kind} '{name}' must be registered before it is read. It was saved from a class of "
        f"the module '{shown}', and no module is imported because a file names it. {mend}."
    )


def with_module(kind: str, value: Any) -> Any:
    """Return a part's name or configuration with the module of a class that is not this package's.

    Args:
        kind: what the part is a choice of.
        value: a name, or `{"name": ..., ...}`; anything else is returned as it is.
    """
    config = {"name": value} if isinstance(value, str) else value
    name = config.get("name") if isinstance(config, Mapping) else None
    cls = _REGISTRY.get(kind, {}).get(name) if isinstance(name, str) else None
    return value if cls is None or not _is_foreign(cls) else {**config, _MODULE: cls.__module__}


def _is_foreign(cls: type) -> bool:
    return cls.__module__.partition(".")[0] != _HOME


def _identity(cls: type) -> tuple[str, str]:
    # A module that is reloaded (a notebook) may register its class again.
    return cls.__module__, cls.__qualname__


def _take_numpy_numbers(cls: Any) -> None:
    """Let a dataclass turn NumPy's numbers into Python's before it checks them.

    A step count that is a `uint8` would overflow later, and a `float32` would not be equal to the
    setting that comes back from a file.
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
                "are passed by keyword, and 'name' and 'kind' are the registry's own."
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
