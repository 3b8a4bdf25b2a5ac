"""Parse pickles without importing or calling the names in them.

A pickle is a program for a small stack machine (`pickletools` documents it). This machine runs it
on inert records: a name becomes a `Name`, and a call of a name a `Call` with its arguments. The
caller of `read_pickle` decides how to interpret them.
"""

import io
import pickletools
import struct
from collections.abc import Callable, Set
from dataclasses import dataclass, field
from typing import Any

from pgdiff.core.validation import PgdiffError


@dataclass(frozen=True)
class Name:
    """A name that unpickling would import."""

    path: str
    """Module and qualified name, such as "numpy.dtype"."""


@dataclass(eq=False, repr=False)
class Call:
    """A call that unpickling would make, and changes that it would make to the result."""

    name: Name
    arguments: tuple[Any, ...]
    state: Any = None
    """State for `__setstate__` or `__dict__`."""
    items: list[tuple[Any, Any]] = field(default_factory=list)
    """Keys and values for `__setitem__`."""


@dataclass(frozen=True)
class Outside:
    """A reference to an object outside of the pickle, such as a storage of PyTorch."""

    identity: Any


class _Refused(Exception):
    """Refusal of a pickle; the message continues the name of its file."""


def read_pickle(
    data: bytes, *, names: Set[str], what: str, where: str, outside: bool = False
) -> Any:
    """Return the content of a pickle as plain Python values, `Name`s and `Call`s.

    Args:
        data: the pickle.
        names: allowed names, such as "numpy.dtype"; any other name is refused, called or not.
        what: expected content, for errors ("network's weights").
        where: name of the file, for errors.
        outside: whether references to outside objects (`Outside`) are allowed.

    Raises:
        PgdiffError: the data are not a pickle, damaged, or contain a name or an instruction that
            is not allowed.
    """
    machine = _Machine(names, what=what, outside=outside)
    try:
        for instruction, argument, _ in pickletools.genops(io.BytesIO(data)):
            machine.run(instruction.name, argument)
        return machine.result()
    except _Refused as error:
        raise PgdiffError(f"'{where}' {error}.") from None
    except (ValueError, IndexError, KeyError, struct.error, OverflowError, Warning) as error:
        # `pickletools` warns about invalid escapes; users may turn warnings into errors.
        reason = str(error)[:200] or type(error).__name__
        raise PgdiffError(
            f"'{where}' must be an intact pickle of a {what}. Reading it failed: {reason}."
        ) from error


class _Machine:
    """A stack, marks on it and a memo, with a method for each allowed instruction."""

    def __init__(self, names: Set[str], *, what: str, outside: bool) -> None:
        self.names, self.what, self.outside = names, what, outside
        self.stack: list[Any] = []
        self.marks: list[int] = []
        self.memo: dict[int, Any] = {}
        self.stopped = False

    def run(self, instruction: str, argument: Any) -> None:
        if instruction in _LITERALS:
            self.stack.append(argument)
        elif instruction in _CONSTANTS:
            self.stack.append(_CONSTANTS[instruction]())
        elif instruction in _METHODS:
            _METHODS[instruction](self, argument)
        elif instruction not in ("PROTO", "FRAME"):
            raise _Refused(f"has the instruction {instruction}, which no {self.what} needs")

    def result(self) -> Any:
        if not self.stopped or len(self.stack) != 1 or self.marks:
            raise ValueError("it does not end with a single object")
        return self.stack[0]

    def pop(self) -> Any:
        if len(self.stack) <= (self.marks[-1] if self.marks else 0):
            raise ValueError("it takes from an empty stack")
        return self.stack.pop()

    def top(self) -> Any:
        top = self.pop()
        self.stack.append(top)
        return top

    def above_mark(self) -> list[Any]:
        start = self.marks.pop()
        values = self.stack[start:]
        del self.stack[start:]
        return values

    # --------------------------------------------------------------------------- instructions

    def mark(self, _: Any) -> None:
        self.marks.append(len(self.stack))

    def stop(self, _: Any) -> None:
        self.stopped = True

    def put(self, index: int | None) -> None:
        self.memo[len(self.memo) if index is None else index] = self.top()

    def get(self, index: int) -> None:
        self.stack.append(self.memo[index])

    def take_tuple(self, length: int) -> None:
        self.stack.append(tuple([self.pop() for _ in range(length)][::-1]))

    def take_marked_tuple(self, _: Any) -> None:
        self.stack.append(tuple(self.above_mark()))

    def extend(self, values: list[Any]) -> None:
        target = self.top()
        if isinstance(target, list):
            target.extend(values)
        elif isinstance(target, Call):
            target.items.extend(enumerate(values, start=len(target.items)))
        else:
            raise ValueError("it appends to an object that is not a list")

    def update(self, flat: list[Any]) -> None:
        target = self.top()
        if len(flat) % 2:
            raise ValueError("it has a key without a value")
        for key, value in zip(flat[::2], flat[1::2], strict=True):
            if isinstance(target, Call):
                target.items.append((key, value))
            elif isinstance(target, dict) and isinstance(key, str | int):
                target[key] = value
            else:
                raise ValueError("it sets an item of an object that is not a dictionary of strings")

    def name(self, path: str) -> None:
        if path not in self.names:
            shown = path[:100].encode("unicode_escape").decode("ascii")
            raise _Refused(f"has the name {shown}, which is not part of a {self.what}")
        self.stack.append(Name(path))

    def stacked_name(self, _: Any) -> None:
        name, module = self.pop(), self.pop()
        if not isinstance(module, str) or not isinstance(name, str):
            raise ValueError("it uses a name that is not a string")
        self.name(f"{module}.{name}")

    def call(self, _: Any) -> None:
        arguments, name = self.pop(), self.pop()
        if not isinstance(name, Name) or not isinstance(arguments, tuple):
            raise ValueError("it calls an object that is not a name")
        self.stack.append(Call(name, arguments))

    def build(self, _: Any) -> None:
        state, target = self.pop(), self.top()
        if not isinstance(target, Call) or target.state is not None:
            raise ValueError(
                "it sets the state of an object that has one already, or cannot have one"
            )
        target.state = state

    def take_outside(self, _: Any) -> None:
        if not self.outside:
            raise _Refused(f"refers to an object outside of it, which no {self.what} does")
        self.stack.append(Outside(self.pop()))


_LITERALS = frozenset(
    {
        *("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT"),
        *("STRING", "BINSTRING", "SHORT_BINSTRING", "BINBYTES", "SHORT_BINBYTES", "BINBYTES8"),
        *("UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8", "BYTEARRAY8"),
    }
)
_CONSTANTS: dict[str, Callable[[], Any]] = {
    "NONE": lambda: None,
    "NEWTRUE": lambda: True,
    "NEWFALSE": lambda: False,
    "EMPTY_LIST": list,
    "EMPTY_DICT": dict,
    "EMPTY_SET": list,  # its items are never looked up
    "EMPTY_TUPLE": tuple,
}
_METHODS: dict[str, Callable[[_Machine, Any], None]] = {
    "MARK": _Machine.mark,
    "STOP": _Machine.stop,
    **dict.fromkeys(("MEMOIZE", "PUT", "BINPUT", "LONG_BINPUT"), _Machine.put),
    **dict.fromkeys(("GET", "BINGET", "LONG_BINGET"), _Machine.get),
    "TUPLE": _Machine.take_marked_tuple,
    "TUPLE1": lambda machine, _: machine.take_tuple(1),
    "TUPLE2": lambda machine, _: machine.take_tuple(2),
    "TUPLE3": lambda machine, _: machine.take_tuple(3),
    "APPEND": lambda machine, _: machine.extend([machine.pop()]),
    "APPENDS": lambda machine, _: machine.extend(machine.above_mark()),
    "ADDITEMS": lambda machine, _: machine.extend(machine.above_mark()),
    "FROZENSET": _Machine.take_marked_tuple,
    "SETITEM": lambda machine, _: machine.update([machine.pop(), machine.pop()][::-1]),
    "SETITEMS": lambda machine, _: machine.update(machine.above_mark()),
    # `pickletools` separates module and name by a space.
    "GLOBAL": lambda machine, path: machine.name(path.replace(" ", ".", 1)),
    "STACK_GLOBAL": _Machine.stacked_name,
    "REDUCE": _Machine.call,
    "NEWOBJ": _Machine.call,
    "BUILD": _Machine.build,
    "BINPERSID": _Machine.take_outside,
}
