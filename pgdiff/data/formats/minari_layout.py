"""Layout of Minari's local store and of the data sets in it."""

import math
import os
import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from pgdiff.core.validation import PgdiffError, user_path


@dataclass(frozen=True)
class Leaf:
    """HDF5 data set below each episode's group.

    Attributes:
        path: path below the group.
        rows: rows of one episode.
        tail: shape of a row.
        dtype: stored type; for several episodes, a type that represents all of theirs.
    """

    path: str
    rows: int
    tail: tuple[int, ...]
    dtype: np.dtype[Any]

    @property
    def size(self) -> int:
        """Number of values of a row."""
        return math.prod(self.tail)

    @property
    def bytes(self) -> int:
        """Size of all rows in bytes."""
        return self.rows * self.size * self.dtype.itemsize

    def merge_type(self, other: "Leaf") -> "Leaf":
        """Return a copy with a type for both; a non-numeric type wins, so that checks report it."""
        if self.dtype == other.dtype or self.dtype.kind not in "biuf":
            return self
        if other.dtype.kind not in "biuf":
            return replace(self, dtype=other.dtype)
        return replace(self, dtype=np.result_type(self.dtype, other.dtype))


class EpisodeRows:
    """Field over all episodes (a `Source`).

    Args:
        file: the open file.
        leaves: data sets that are concatenated to the field.
        offsets: `[episodes + 1]` first row of each episode, then the number of rows.
        shift: 1 for the value after each step, else 0.
    """

    def __init__(
        self, file: h5py.File, leaves: list[Leaf], offsets: np.ndarray, shift: int
    ) -> None:
        self._file, self._leaves, self.offsets, self._shift = file, leaves, offsets, shift
        tail = leaves[0].tail
        # Fields of a Dict are unrolled; a single field must have the right shape already.
        if leaves[0].path.startswith("observations/"):
            tail = (sum(leaf.size for leaf in leaves),)
        self.shape = (int(offsets[-1]), *tail)
        kinds = [leaf.dtype for leaf in leaves if leaf.dtype.kind not in "biuf"]
        self.dtype = kinds[0] if kinds else np.result_type(*(leaf.dtype for leaf in leaves))

    def __getitem__(self, rows: slice) -> np.ndarray:
        first, last, _ = rows.indices(self.shape[0])
        out = np.empty((last - first, *self.shape[1:]), self.dtype)
        flat = out.reshape(len(out), math.prod(self.shape[1:]))
        episode = int(np.searchsorted(self.offsets, first, side="right")) - 1
        while self.offsets[episode] < last:
            start, end = int(self.offsets[episode]), int(self.offsets[episode + 1])
            begin, stop = max(first, start), min(last, end)
            column = 0
            for leaf in self._leaves:
                dataset = self._file[f"episode_{episode}/{leaf.path}"]
                values = dataset[begin - start + self._shift : stop - start + self._shift]
                flat[begin - first : stop - first, column : column + leaf.size] = values.reshape(
                    stop - begin, leaf.size
                )
                column += leaf.size
            episode += 1
            if episode == len(self.offsets) - 1:
                break
        return out


class Truncations:
    """Truncations with a mark at every unmarked end before the last episode (a `Source`).

    Args:
        truncations: truncations as stored.
        terminations: terminations as stored.
    """

    def __init__(self, truncations: EpisodeRows, terminations: EpisodeRows) -> None:
        self._truncations, self._terminations = truncations, terminations
        self.shape, self.dtype = truncations.shape, truncations.dtype
        self._last = truncations.offsets[1:-1] - 1

    def __getitem__(self, rows: slice) -> np.ndarray:
        first, last, _ = rows.indices(self.shape[0])
        values, terminal = self._truncations[rows], self._terminations[rows]
        inside = self._last[(self._last >= first) & (self._last < last)] - first
        unmarked = (values[inside] == 0) & (terminal[inside] == 0)
        values[inside] = np.where(unmarked, 1, values[inside])
        return values


# As in Minari's documentation, (namespace/)name-vN; namespaces can be nested. Without dots, an id
# cannot leave the store.
_ID = re.compile(r"(?:[-\w]+/)*[-\w]*\w-v\d+")


DATA, MAIN, METADATA = "data", "main_data.hdf5", "metadata.json"
"""Folder inside a data set's folder, and the two files in it."""


def is_minari_id(text: str) -> bool:
    """Return whether a text has the form of a data set's id."""
    return _ID.fullmatch(text) is not None


def minari_store() -> Path:
    """Return the folder of the local store, chosen as in Minari."""
    folder = os.environ.get("MINARI_DATASETS_PATH")
    return user_path(folder) if folder else Path.home() / ".minari" / "datasets"


def minari_folder(dataset_id: str) -> Path:
    """Return the folder of a data set, which need not exist.

    Raises:
        PgdiffError: if `dataset_id` does not have the form of an id.
    """
    if not is_minari_id(dataset_id):
        raise PgdiffError(
            f"`dataset_id` must be like 'namespace/name-v0' (Minari's ids). Got '{dataset_id}'."
        )
    return minari_store() / dataset_id
