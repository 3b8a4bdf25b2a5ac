"""Gradients during sampling, also in the caller's inference mode or no-grad mode."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import overload

import torch
from torch import Tensor

from pgdiff.core.validation import PgdiffError


@contextmanager
def differentiable(name: str) -> Iterator[None]:
    """Enable autograd inside the context, also in the caller's inference mode or no-grad mode.

    Args:
        name: name of the differentiated function, for the error message.

    Raises:
        PgdiffError: the function uses tensors that were created in inference mode, which autograd
            cannot use.
    """
    with torch.inference_mode(False), torch.enable_grad():
        try:
            yield
        except RuntimeError as error:
            if "nference tensor" not in str(error):
                raise
            raise PgdiffError(
                f"{name} must use tensors that were made outside torch.inference_mode(). Got one "
                "made inside. Make or load it outside, or copy it outside with clone()."
            ) from error


@overload
def recordable(tensor: Tensor) -> Tensor: ...
@overload
def recordable(tensor: None) -> None: ...
def recordable(tensor: Tensor | None) -> Tensor | None:
    """Return the tensor, or a copy if it was created in inference mode.

    Autograd cannot save inference tensors for its backward pass. Call this function outside
    inference mode; a copy made inside it is an inference tensor too.
    """
    return tensor.clone() if tensor is not None and tensor.is_inference() else tensor
