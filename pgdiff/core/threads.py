"""PyTorch's number of threads during a call."""

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Concatenate, ParamSpec, Protocol, TypeVar

import torch

from pgdiff.core.validation import check_positive_int


@contextmanager
def torch_threads(count: int | None) -> Iterator[None]:
    """Set PyTorch's number of threads within the block; None keeps the present number."""
    if count is None:
        yield
        return
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def check_threads(count: int | None) -> int | None:
    """Return `count` if it is None or a positive integer."""
    return None if count is None else check_positive_int("threads", count)


class HasThreads(Protocol):
    """Protocol of an object with a setting `threads`."""

    threads: int | None


_Owner = TypeVar("_Owner", bound=HasThreads)
_Arguments = ParamSpec("_Arguments")
_Result = TypeVar("_Result")


def on_own_threads(
    method: Callable[Concatenate[_Owner, _Arguments], _Result],
) -> Callable[Concatenate[_Owner, _Arguments], _Result]:
    """Decorate a method to run with the number of threads in `self.threads`."""

    @functools.wraps(method)
    def limited(
        owner: _Owner, /, *arguments: _Arguments.args, **named: _Arguments.kwargs
    ) -> _Result:
        with torch_threads(owner.threads):
            return method(owner, *arguments, **named)

    return limited
