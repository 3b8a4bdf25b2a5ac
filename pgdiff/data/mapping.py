"""Arrays that are mapped from .npy files without a file descriptor each."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import torch


def map_array(path: Path) -> np.memmap:
    """Map a .npy file, read-only; the array's `filename` and `offset` say where it lies.

    `numpy.memmap` keeps a descriptor of its file open as long as the array lives, so that a few
    hundred recordings of some fields each would reach a process's limit. PyTorch's mapping closes
    it at once.

    Raises:
        OSError, ValueError, EOFError: the file cannot be read, or is not a complete .npy file.
    """
    with path.open("rb") as file:
        version = np.lib.format.read_magic(file)
        if version != (1, 0):
            raise ValueError(f"'{path}' is of the .npy format {version}")
        shape, fortran, dtype = np.lib.format.read_array_header_1_0(file)
        offset = file.tell()
    size = offset + math.prod(shape) * dtype.itemsize
    if fortran or dtype.hasobject or path.stat().st_size < size:
        raise ValueError(f"'{path}' does not hold the {size} bytes of a plain array")
    try:
        content = torch.from_file(str(path), shared=False, size=size, dtype=torch.uint8).numpy()
    except RuntimeError:  # larger than what the system lets a private mapping have
        whole: np.memmap = np.load(path, mmap_mode="r", allow_pickle=False)
        return whole
    content.setflags(write=False)
    # NumPy leaves out bases of an array's own class: of this one, views keep the array made here.
    base = content.view(np.memmap)
    mapped: Any = np.ndarray.__new__(np.memmap, shape, dtype, buffer=base, offset=offset)
    mapped.filename, mapped.offset, mapped.mode = path.absolute(), offset, "r"
    found: np.memmap = mapped
    return found
