"""Pickling for worker processes that does not copy memory-mapped arrays."""

import io
import pickle
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from pgdiff.core.validation import PgdiffError

SAMPLE = 4096
"""Number of bytes at each end of a mapping that identify it."""


def dumps(value: Any) -> bytes:
    """Pickle a value for another process; read-only memory maps are sent as file names.

    All other arrays, and maps whose file was removed or replaced, are sent by value.
    """
    buffer = io.BytesIO()
    _Sharing(buffer, protocol=pickle.HIGHEST_PROTOCOL).dump(value)
    return buffer.getvalue()


loads = pickle.loads
"""Unpickle bytes sent by the parent process. Never use it for bytes read from a file."""


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
            f"'{path}' must not change while a training run reads it. It has been removed or "
            "changed. Restore the file and resume."
        )
    root = np.memmap(path, np.uint8, mode="r", offset=first, shape=(size,))
    return np.ndarray(shape, dtype, buffer=root, offset=offset, strides=strides)


def _mapping(array: np.ndarray) -> np.memmap | None:
    """Return the read-only memory map that an array is a view of, or None."""
    base: Any = array
    root = None
    while isinstance(base, np.ndarray):
        if isinstance(base, np.memmap) and base.filename is not None:
            root = base  # slices of a map have its file name too; the map itself is the last
        base = base.base
    return root if root is not None and root.mode == "r" else None


def _address(array: np.ndarray) -> int:
    address: int = array.__array_interface__["data"][0]
    return address


def _mark(path: Path, first: int, size: int) -> int | None:
    """Return the checksum of both ends of a part of a file; None if it cannot be read."""
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
