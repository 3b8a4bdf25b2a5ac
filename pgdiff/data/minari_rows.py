"""Minari's episodes as one long field: rows that are read from the group of their episode."""

import math
from dataclasses import dataclass, replace
from typing import Any

import h5py
import numpy as np


@dataclass(frozen=True)
class Leaf:
    """A data set below each episode's group.

    Attributes:
        path: below the group.
        rows: of one episode.
        tail: shape of a row.
        dtype: stored type; over several episodes one that holds all of them.
    """

    path: str
    rows: int
    tail: tuple[int, ...]
    dtype: np.dtype[Any]

    @property
    def size(self) -> int:
        """Numbers of a row."""
        return math.prod(self.tail)

    @property
    def bytes(self) -> int:
        """Of all rows."""
        return self.rows * self.size * self.dtype.itemsize

    def joined(self, other: "Leaf") -> "Leaf":
        """The same with a type that holds both; what is no number wins, so that it is seen."""
        if self.dtype == other.dtype or self.dtype.kind not in "biuf":
            return self
        if other.dtype.kind not in "biuf":
            return replace(self, dtype=other.dtype)
        return replace(self, dtype=np.result_type(self.dtype, other.dtype))


class EpisodeRows:
    """A field over all episodes (a `Source`).

    Args:
        file: the open file.
        leaves: data sets that lie side by side in the field.
        offsets: `[episodes + 1]` first row of each episode, and the number of rows.
        shift: 1 for what comes after each step.
    """

    def __init__(
        self, file: h5py.File, leaves: list[Leaf], offsets: np.ndarray, shift: int
    ) -> None:
        self._file, self._leaves, self.offsets, self._shift = file, leaves, offsets, shift
        tail = leaves[0].tail
        # Fields of a Dict are unrolled; a field that stands alone must have its shape already.
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
    """Truncations in which an episode that another follows ends with a mark (a `Source`).

    Args:
        truncations: as stored.
        terminations: as stored.
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
