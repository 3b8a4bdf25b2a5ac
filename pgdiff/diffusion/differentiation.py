"""Gradients within the sampling, whatever mode the caller is in."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import overload

import torch
from torch import Tensor

from pgdiff.validation import PgdiffError


@contextmanager
def differentiable(name: str) -> Iterator[None]:
    """Let autograd record within, also where the caller is in inference or no-grad mode.

    Args:
        name: what is differentiated, for the message.

    Raises:
        PgdiffError: it holds tensors that were made in inference mode, which autograd cannot use.
    """
    with torch.inference_mode(False), torch.enable_grad():
        try:
            yield
        except RuntimeError as error:
            if "nference tensor" not in str(error):
                raise
            raise PgdiffError(
                f"{name} must hold tensors that were made outside torch.inference_mode(). Got one "
                "that autograd cannot use; make or load it outside, or copy it there with clone()."
            ) from error


@overload
def recordable(tensor: Tensor) -> Tensor: ...
@overload
def recordable(tensor: None) -> None: ...
def recordable(tensor: Tensor | None) -> Tensor | None:
    """Return the tensor, or a copy of one that was made in inference mode.

    Autograd refuses to keep such a tensor for its backward pass. Call this outside inference mode,
    in which a copy would be such a tensor again.
    """
    return tensor.clone() if tensor is not None and tensor.is_inference() else tensor
