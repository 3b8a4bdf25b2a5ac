"""Numbers as NumPy arrays, whatever holds them."""

from typing import Any

import numpy as np
import torch


def as_array(value: Any) -> np.ndarray:
    """Return numbers as an array, also those of a tensor on a device or with a gradient."""
    if not isinstance(value, torch.Tensor):
        return np.asarray(value)
    value = value.detach().cpu()
    if value.dtype == torch.bfloat16:  # NumPy has no such type
        value = value.float()
    array: np.ndarray = value.numpy()
    return array
