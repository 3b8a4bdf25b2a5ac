"""Cache of a recording's fields: memory-mapped .npy files that hold no file descriptors open."""

import contextlib
import json
import math
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
import torch

from pgdiff.data.checks import Sink
from pgdiff.data.dict_observations import ObservationLayout, from_json, to_json
from pgdiff.data.formats.source import Recording
from pgdiff.data.schema import FIELDS, Field, recording_fields

_VERSION = 3
_INDEX = "fields.json"


class Cached(NamedTuple):
    """Contents of a cache folder.

    Attributes:
        arrays: the fields, mapped.
        layout: layout of the Dict observations that were flattened, or None.
        ends_known: see `Recording`.
    """

    arrays: dict[str, np.ndarray]
    layout: ObservationLayout | None
    ends_known: bool


def cache_key(*paths: Path) -> str:
    """Return the name of a recording's cache folder.

    It changes whenever a file is replaced, or an own token field reads further `infos`.
    """
    stats = [path.stat() for path in paths]
    parts = [f"{s.st_size:x}-{s.st_mtime_ns:x}-{s.st_ino:x}" for s in stats]
    further = sorted(recording_fields().keys() - {field.name for field in FIELDS})
    return "-".join([f"v{_VERSION}", *parts, *map(_stem, further)])


def cache_root(path: Path, cache_dir: Path | None) -> Path:
    """Return the folder for the caches of this file."""
    return path.with_name(f"{path.name}.cache") if cache_dir is None else cache_dir / path.name


def open_cache(folder: Path) -> Cached | None:
    """Map a complete cache folder; return None if it is absent or damaged."""
    try:
        index = json.loads((folder / _INDEX).read_text())
        arrays = {
            name: map_array(folder / _file(name)).view(np.ndarray) for name in index["fields"]
        }
        layout = index["layout"]
        layout = None if layout is None else from_json(layout)
        return Cached(arrays, layout, bool(index["ends_known"]))
    except (OSError, ValueError, EOFError, TypeError, KeyError):
        return None


def remove_cache(folder: Path) -> None:
    """Remove a cache folder, and its parent folder if that is then empty."""
    shutil.rmtree(folder, ignore_errors=True)
    with contextlib.suppress(OSError):
        folder.parent.rmdir()


def _file(name: str) -> str:
    return f"{_stem(name)}.npy"


def _stem(name: str) -> str:
    return name.replace("/", ".")


class CacheWriter:
    """Writer of fields, block by block, to a temporary folder that `finish` renames.

    If `root` is not writable, the folder is created in the system's temporary directory and removed
    once it is mapped: the mapping keeps the values as long as it exists.
    """

    def __init__(self, root: Path, recording: Recording) -> None:
        self._recording = recording
        self._files: dict[str, BinaryIO] = {}
        self._root: Path | None = root
        try:
            root.mkdir(parents=True, exist_ok=True)
            self.folder = Path(tempfile.mkdtemp(prefix="part-", dir=root))
        except OSError:
            self._root = None
            self.folder = Path(tempfile.mkdtemp(prefix="pgdiff-"))

    @property
    def sink(self) -> Sink:
        """Function that receives blocks in the order of their rows."""
        return self._write

    def _write(self, field: Field, first: int, block: np.ndarray) -> None:
        # Written, not mapped: on a full disk a write raises, whereas a mapping kills the process.
        if field.name not in self._files:
            file = self._files[field.name] = (self.folder / _file(field.name)).open("wb")
            shape = (self._recording.fields[field.name].shape[0], *block.shape[1:])
            header = {"descr": block.dtype.str, "fortran_order": False, "shape": shape}
            np.lib.format.write_array_header_1_0(file, header)
        self._files[field.name].write(np.ascontiguousarray(block).data)

    def finish(self, key: str) -> Cached:
        """Rename the folder to its final name and map it."""
        names, layout = list(self._files), self._recording.layout
        index = {
            "fields": names,
            "layout": None if layout is None else to_json(layout),
            "ends_known": self._recording.ends_known,
        }
        (self.folder / _INDEX).write_text(json.dumps(index))
        # After a power failure, the folder must not contain zeros that look like data.
        for file in self._files.values():
            file.flush()
            os.fsync(file.fileno())
        self._close()
        if self._root is None:
            cached = open_cache(self.folder)
            self.discard()
        else:
            self._move_to(self._root / key)
            cached = open_cache(self._root / key)
        if cached is None:
            raise OSError(f"the cache of {names} could not be read back")
        return cached

    def _move_to(self, final: Path) -> None:
        # Damaged caches and those of older files are useless; existing mappings stay valid.
        for old in final.parent.glob("v*-*-*-*"):
            if old != final or open_cache(old) is None:
                shutil.rmtree(old, ignore_errors=True)
        try:
            self.folder.rename(final)
        except OSError:  # another process was first; its folder is equivalent
            self.discard()

    def discard(self) -> None:
        """Remove the temporary folder."""
        self._close()
        shutil.rmtree(self.folder, ignore_errors=True)
        if self._root is not None:
            with contextlib.suppress(OSError):
                self._root.rmdir()  # only if empty

    def _close(self) -> None:
        for file in self._files.values():
            with contextlib.suppress(OSError):
                file.close()
        self._files.clear()


def map_array(path: Path) -> np.memmap:
    """Map a .npy file, read-only; the array's `filename` and `offset` locate its data.

    `numpy.memmap` keeps a file descriptor open as long as the array exists, so a few hundred
    recordings would reach the process's limit. PyTorch's mapping closes the file at once.

    Raises:
        OSError, ValueError, EOFError: if the file cannot be read, or is not a complete .npy file.
    """
    with path.open("rb") as file:
        version = np.lib.format.read_magic(file)
        if version != (1, 0):
            raise ValueError(f"'{path}' has the .npy format {version}, not (1, 0)")
        shape, fortran, dtype = np.lib.format.read_array_header_1_0(file)
        offset = file.tell()
    size = offset + math.prod(shape) * dtype.itemsize
    if fortran or dtype.hasobject or path.stat().st_size < size:
        raise ValueError(f"'{path}' does not contain a plain array of {size} bytes")
    try:
        content = torch.from_file(str(path), shared=False, size=size, dtype=torch.uint8).numpy()
    except RuntimeError:  # larger than the system's limit for private mappings
        whole: np.memmap = np.load(path, mmap_mode="r", allow_pickle=False)
        return whole
    content.setflags(write=False)
    # NumPy skips bases of the array's own class, so views keep a reference to the array below.
    base = content.view(np.memmap)
    mapped: Any = np.ndarray.__new__(np.memmap, shape, dtype, buffer=base, offset=offset)
    mapped.filename, mapped.offset, mapped.mode = path.absolute(), offset, "r"
    result: np.memmap = mapped
    return result
