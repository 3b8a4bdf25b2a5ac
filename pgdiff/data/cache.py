"""A folder of .npy files beside a recording: its checked fields, ready to be memory-mapped."""

import contextlib
import json
import os
import shutil
import tempfile
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np

from pgdiff.data.checks import Sink
from pgdiff.data.fields import Field
from pgdiff.data.mapping import map_array
from pgdiff.data.observation_layout import ObservationLayout, from_json, to_json
from pgdiff.data.recording import Recording

_VERSION = 3
_INDEX = "fields.json"


class Cached(NamedTuple):
    """What a cache folder holds.

    Attributes:
        arrays: the fields, mapped.
        layout: of the Dict observations that were flattened, if they were.
        ends_known: see `Recording`.
    """

    arrays: dict[str, np.ndarray]
    layout: ObservationLayout | None
    ends_known: bool


def cache_key(*paths: Path) -> str:
    """Return the name of a recording's cache folder; it changes whenever a file is replaced."""
    found = [path.stat() for path in paths]
    parts = [f"{s.st_size:x}-{s.st_mtime_ns:x}-{s.st_ino:x}" for s in found]
    return "-".join([f"v{_VERSION}", *parts])


def cache_root(path: Path, cache_dir: Path | None) -> Path:
    """Return the folder that holds the caches of this file."""
    return path.with_name(f"{path.name}.cache") if cache_dir is None else cache_dir / path.name


def open_cache(folder: Path) -> Cached | None:
    """Map a finished cache folder, or return None where it is absent or damaged."""
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
    """Remove a cache folder, and the folder of caches if it is then empty."""
    shutil.rmtree(folder, ignore_errors=True)
    with contextlib.suppress(OSError):
        folder.parent.rmdir()


def _file(name: str) -> str:
    return f"{name.replace('/', '.')}.npy"


class CacheWriter:
    """Writes blocks of fields to a temporary folder, which `finish` renames into its place.

    Where `root` cannot be written, the folder is made in the system's temporary directory and
    removed as soon as it is mapped: the mapping keeps the values until it is dropped.
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
        """Takes blocks in the order of their rows."""
        return self._take

    def _take(self, field: Field, first: int, block: np.ndarray) -> None:
        # Written, not mapped: on a full disk a write fails where a mapping kills the process.
        if field.name not in self._files:
            file = self._files[field.name] = (self.folder / _file(field.name)).open("wb")
            shape = (self._recording.fields[field.name].shape[0], *block.shape[1:])
            header = {"descr": block.dtype.str, "fortran_order": False, "shape": shape}
            np.lib.format.write_array_header_1_0(file, header)
        self._files[field.name].write(np.ascontiguousarray(block).data)

    def finish(self, key: str) -> Cached:
        """Put the folder into its place and map it."""
        names, layout = list(self._files), self._recording.layout
        index = {
            "fields": names,
            "layout": None if layout is None else to_json(layout),
            "ends_known": self._recording.ends_known,
        }
        (self.folder / _INDEX).write_text(json.dumps(index))
        # A folder that survives a power failure must not hold zeros that look like data.
        for file in self._files.values():
            file.flush()
            os.fsync(file.fileno())
        self._close()
        if self._root is None:
            cached = open_cache(self.folder)
            self.discard()
        else:
            self._place(self._root / key)
            cached = open_cache(self._root / key)
        if cached is None:
            raise OSError(f"the cache of {names} could not be read back")
        return cached

    def _place(self, final: Path) -> None:
        # Damaged or of an older file: nobody can use it, and whoever has it mapped keeps it.
        for old in final.parent.glob("v*-*-*-*"):
            if old != final or open_cache(old) is None:
                shutil.rmtree(old, ignore_errors=True)
        try:
            self.folder.rename(final)
        except OSError:  # another process was first; its folder is as good
            self.discard()

    def discard(self) -> None:
        """Remove what was written."""
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
