"""Sending a source of batches to another process without copying what is mapped from a file."""

import io
import pickle
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from pgdiff.validation import PgdiffError

SAMPLE = 4096
"""Bytes at either end of a mapping by which it is known again."""


def dumps(value: Any) -> bytes:
    """Pickle for another process; read-only memory-mapped arrays are sent as the file's name.

    A mapping whose file is gone or was replaced is sent by value, as every other array is.
    """
    buffer = io.BytesIO()
    _Sharing(buffer, protocol=pickle.HIGHEST_PROTOCOL).dump(value)
    return buffer.getvalue()


loads = pickle.loads
"""The way back, for what this process's parent has sent; never for what was read from a disk."""


class _Sharing(pickle.Pickler):
    def reducer_override(self, value: Any) -> Any:
        if not isinstance(value, np.ndarray) or value.nbytes <= SAMPLE:
            return NotImplemented
        root = _mapping(value)
        if root is None:
            return NotImplemented
        path, first = Path(str(root.filename)), int(root.offset)
        mark = _mark(path, first, root.nbytes)
        if mark is None or mark != _mark_of(root):
            return NotImplemented
        offset = _address(value) - _address(root)
        layout = (value.dtype.str, value.shape, value.strides, offset)
        return _reopen, (str(path), first, root.nbytes, mark, *layout)


def _reopen(
    path: str,
    first: int,
    size: int,
    mark: int,
    dtype: str,
    shape: tuple[int, ...],
    strides: tuple[int, ...],
    offset: int,
) -> np.ndarray:
    if _mark(Path(path), first, size) != mark:
        raise PgdiffError(
            f"'{path}' must stay as it is while a training reads it. It has been removed or "
            "changed."
        )
    root = np.memmap(path, np.uint8, mode="r", offset=first, shape=(size,))
    return np.ndarray(shape, dtype, buffer=root, offset=offset, strides=strides)


def _mapping(array: np.ndarray) -> np.memmap | None:
    """Return the read-only map that an array is a view of."""
    base: Any = array
    found = None
    while isinstance(base, np.ndarray):
        if isinstance(base, np.memmap) and base.filename is not None:
            found = base  # a slice has the name of its map; the map itself comes last
        base = base.base
    return found if found is not None and found.mode == "r" else None


def _address(array: np.ndarray) -> int:
    address: int = array.__array_interface__["data"][0]
    return address


def _mark(path: Path, first: int, size: int) -> int | None:
    """Checksum of both ends of a part of a file; None where the file does not have it."""
    try:
        with open(path, "rb") as file:

            def read(start: int) -> bytes:
                file.seek(first + start)
                return file.read(min(SAMPLE, size))

            return _checksum(read, size)
    except OSError:
        return None


def _mark_of(root: np.memmap) -> int | None:
    data = np.ndarray((root.nbytes,), np.uint8, buffer=root if root.flags.c_contiguous else root.T)
    return _checksum(lambda start: data[start : start + SAMPLE].tobytes(), root.nbytes)


def _checksum(read: Callable[[int], bytes], size: int) -> int | None:
    ends = [read(0), read(max(0, size - SAMPLE))]
    if any(len(end) != min(SAMPLE, size) for end in ends):
        return None
    return zlib.crc32(ends[1], zlib.crc32(ends[0]))
