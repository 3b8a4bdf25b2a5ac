"""torch.compile, without a silent way back."""

import os
import sysconfig
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import nn

from pgdiff.training.learner import Learner
from pgdiff.validation import PgdiffError


def compile_learner(learner: Learner) -> None:
    """Let the learner compile its networks in place, or say that it has none to compile."""
    compile_parts = getattr(learner, "compile_parts", None)
    if compile_parts is None:
        warnings.warn(
            f"compile=True changes nothing: {type(learner).__name__} has no compile_parts().",
            UserWarning,
            stacklevel=3,
        )
    else:
        compile_parts()


@contextmanager
def compiled(model: nn.Module, on: bool) -> Iterator[None]:
    """Within it a model's networks run compiled, or not, whatever they did before."""
    parts = list(model.children())
    before = [part._compiled_call_impl for part in parts]
    for part in parts:
        if not on:
            part._compiled_call_impl = None
        elif part._compiled_call_impl is None:
            part.compile()  # and stays so: the next time is free
    try:
        with compile_errors(on):
            yield
    finally:
        if not on:
            for part, implementation in zip(parts, before, strict=True):
                part._compiled_call_impl = implementation


@contextmanager
def compile_errors(compiling: bool) -> Iterator[None]:
    """Turn a failure of torch.compile, which shows at the first step, into one clear error."""
    if not compiling:
        yield
        return
    from torch._dynamo.exc import TorchDynamoException

    try:
        yield
    except TorchDynamoException as error:
        reason = str(error).strip().splitlines()[0]
        raise PgdiffError(
            f"`compile` must be False here: torch.compile failed ({reason}).{_space_in_path()}"
        ) from error


def _space_in_path() -> str:
    """Return what to do about a space in a path, which the compiler's command line cannot take."""
    cache = os.environ.get("TORCHINDUCTOR_CACHE_DIR") or tempfile.gettempdir()
    remedies = {
        cache: "Set TORCHINDUCTOR_CACHE_DIR to a folder without one.",
        str(Path(torch.__file__).parent): "Install PyTorch in an environment without one.",
        sysconfig.get_path("include"): "Use a Python whose path has none.",
    }
    for path, remedy in remedies.items():
        if " " in path:
            return f" The compiler cannot work with the space in '{path}'. {remedy}"
    return ""
