"""Compilation by `torch.compile` with clear errors instead of a silent fallback."""

import os
import sysconfig
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import nn

from pgdiff.core.validation import PgdiffError
from pgdiff.training.learner import Learner


def compile_learner(learner: Learner) -> None:
    """Compile the learner's networks in place; warn if it has no `compile_parts()`."""
    compile_parts = getattr(learner, "compile_parts", None)
    if compile_parts is None:
        warnings.warn(
            f"compile=True has no effect: {type(learner).__name__} has no compile_parts().",
            UserWarning,
            stacklevel=3,
        )
    else:
        compile_parts()


@contextmanager
def compiled(model: nn.Module, on: bool) -> Iterator[None]:
    """Run a model's networks compiled (`on`) or uncompiled within the block."""
    parts = list(model.children())
    before = [part._compiled_call_impl for part in parts]
    for part in parts:
        if not on:
            part._compiled_call_impl = None
        elif part._compiled_call_impl is None:
            part.compile()  # kept: a later block reuses the compiled code
    try:
        with compile_errors(on):
            yield
    finally:
        if not on:
            for part, implementation in zip(parts, before, strict=True):
                part._compiled_call_impl = implementation


@contextmanager
def compile_errors(compiling: bool) -> Iterator[None]:
    """Raise `PgdiffError` for a failure of torch.compile, which appears at the first step."""
    if not compiling:
        yield
        return
    from torch._dynamo.exc import TorchDynamoException

    try:
        yield
    except TorchDynamoException as error:
        reason = str(error).strip().splitlines()[0]
        raise PgdiffError(
            f"`compile` must be False: torch.compile failed ({reason}).{_space_in_path()}"
        ) from error


def _space_in_path() -> str:
    """Return the fix for a path with a space, which the compiler's command line rejects."""
    cache = os.environ.get("TORCHINDUCTOR_CACHE_DIR") or tempfile.gettempdir()
    remedies = {
        cache: "Set TORCHINDUCTOR_CACHE_DIR to a path without spaces.",
        str(Path(torch.__file__).parent): "Install PyTorch in a path without spaces.",
        sysconfig.get_path("include"): "Use a Python in a path without spaces.",
    }
    for path, remedy in remedies.items():
        if " " in path:
            return f" The compiler does not accept the space in '{path}'. {remedy}"
    return ""
