"""PyTorch's number of threads, for the time of a call."""

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Concatenate, ParamSpec, Protocol, TypeVar

import torch

from pgdiff.validation import check_positive_int


@contextmanager
def torch_threads(count: int | None) -> Iterator[None]:
    """Within it, PyTorch uses `count` threads; as many as before if None."""
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
    """Return a number of threads, or None, if it is one."""
    return None if count is None else check_positive_int("threads", count)


class HasThreads(Protocol):
    """What has a setting `threads`."""

    threads: int | None


_Owner = TypeVar("_Owner", bound=HasThreads)
_Arguments = ParamSpec("_Arguments")
_Result = TypeVar("_Result")


def on_own_threads(
    method: Callable[Concatenate[_Owner, _Arguments], _Result],
) -> Callable[Concatenate[_Owner, _Arguments], _Result]:
    """Let a method run on the number of threads that its object was given."""

    @functools.wraps(method)
    def limited(
        owner: _Owner, /, *arguments: _Arguments.args, **named: _Arguments.kwargs
    ) -> _Result:
        with torch_threads(owner.threads):
            return method(owner, *arguments, **named)

    return limited
