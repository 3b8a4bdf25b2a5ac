"""Segments: windows of tokens over recorded episodes, gathered from memory-mapped arrays."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from pgdiff.core.registry import registered
from pgdiff.core.validation import PgdiffError, check_in, check_positive_int, check_range
from pgdiff.data.episodes import Episodes
from pgdiff.data.fields import Windows, token_field

PADDINGS = ("none", "repeat", "terminal")


class SegmentBatch(NamedTuple):
    """Batch of segments in raw units; fields that were not requested have zero width.

    Fields of own classes (`pgdiff.data.fields`) are attributes too.

    Attributes:
        observations: `[batch, tokens, obs]` float32.
        actions: `[batch, tokens, act]` float32, the action taken at each token's row.
        rewards: `[batch, tokens]` float32, see `SegmentDataset`; `[batch, 0]` if not requested.
        mask: `[batch, tokens]` bool, False at padded tokens.
        action_chunks: `[batch, tokens, stride * act]` float32, the concatenated actions from each
            token's row up to the next token; past the episode's end its last action is repeated.
        terminals: `[batch, tokens]` float32, 1 if the task ended after the token's row, else 0;
            `[batch, 0]` if not requested.
        next_observations: `[batch, tokens, obs]` float32, the observation after the token's row. If
            they were not recorded, a terminal row is its own successor, and the last row of a
            cut-off episode counts as padding.
        previous_actions: `[batch, tokens, stride * act]` float32, the action chunk of the previous
            token; 0 at the first token of a segment.
        condition: `[batch, width]` float32, the raw values of the joint conditions, concatenated;
            None without conditions.
        hints: `[batch, ...]` float32, the raw values of each hint by name; None without hints.
        further: fields of own classes by name; None without any.

    Example:
        >>> from pgdiff.data import SegmentDataset
        >>> from pgdiff.testing import example_episodes
        >>> batch = SegmentDataset(example_episodes(), horizon=4, stride=2).batch([0, 1])
        >>> batch.observations.shape, batch.actions.shape
        ((2, 4, 4), (2, 4, 0))
    """

    observations: Float[np.ndarray, "batch tokens obs"]
    actions: Float[np.ndarray, "batch tokens act"]
    rewards: Float[np.ndarray, "batch tokens"]
    mask: Bool[np.ndarray, "batch tokens"]
    action_chunks: Float[np.ndarray, "batch tokens chunk"]
    terminals: Float[np.ndarray, "batch ends"]
    next_observations: Float[np.ndarray, "batch tokens next"]
    previous_actions: Float[np.ndarray, "batch tokens chunk"]
    condition: Float[np.ndarray, "batch width"] | None = None
    hints: Mapping[str, Float[np.ndarray, "batch ..."]] | None = None
    further: Mapping[str, Float[np.ndarray, "batch tokens ..."]] | None = None

    def __getattr__(self, name: str) -> Any:
        """Return an own field by its name."""
        if self.further is not None and name in self.further:
            return self.further[name]
        raise AttributeError(f"A batch has no field '{name}'.")


_NAMED = {name for name in SegmentBatch._fields if name in registered("token_field")}


@dataclass(frozen=True, eq=False)
class SegmentIndex:
    """Numbering of all windows of `horizon` tokens at `stride` in some episodes.

    A window covers the rows `start + k * stride`, k < horizon, of one episode.

    Attributes:
        starts: `[episodes]` first row of each episode that contains a window.
        ends: `[episodes]` the row after the last row of each of these episodes.
        offsets: `[episodes + 1]` number of the first window of each episode; the last entry is the
            number of windows.
        horizon: tokens of a window.
        stride: steps between tokens.
        absorbing: if True, tokens past an episode's end are real and repeat the end.

    Example:
        >>> from pgdiff.data import segments
        >>> from pgdiff.testing import example_episodes
        >>> index = segments(example_episodes(episodes=1, steps=10), horizon=4, stride=2)
        >>> rows, mask = index.rows([0, 3])
        >>> rows.tolist()
        [[0, 2, 4, 6], [3, 5, 7, 9]]
    """

    starts: Int[np.ndarray, " episodes"]
    ends: Int[np.ndarray, " episodes"]
    offsets: Int[np.ndarray, " bounds"]
    horizon: int
    stride: int
    absorbing: bool = False

    def __len__(self) -> int:
        return int(self.offsets[-1])

    def rows(
        self, indices: Int[np.ndarray, " batch"]
    ) -> tuple[Int[np.ndarray, "batch tokens"], Bool[np.ndarray, "batch tokens"]]:
        """Return the row of every token, and the mask of real (not padded) tokens."""
        rows, last = self._unbounded(indices)
        return np.minimum(rows, last), (rows <= last) | self.absorbing

    def windows(self, indices: Int[np.ndarray, " batch"]) -> Windows:
        """Return the rows of these windows, and the ends of their episodes."""
        rows, last = self._unbounded(indices)
        past = rows > last
        return Windows(
            rows=np.minimum(rows, last),
            mask=~past | self.absorbing,
            past=past,
            last=last,
            stride=self.stride,
            absorbing=self.absorbing,
        )

    def last_rows(self, indices: Int[np.ndarray, " batch"]) -> Int[np.ndarray, " batch"]:
        """Return the last row of the episode of each window."""
        last: np.ndarray = self.ends[self._episode(np.asarray(indices, dtype=np.int64))] - 1
        return last

    def _unbounded(self, indices: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        indices = np.asarray(indices, dtype=np.int64)
        episode = self._episode(indices)
        first = self.starts[episode] + indices - self.offsets[episode]
        rows = first[:, None] + np.arange(self.horizon, dtype=np.int64) * self.stride
        return rows, self.ends[episode, None] - 1

    def _episode(self, indices: np.ndarray) -> np.ndarray:
        if len(indices) and not (indices.min() >= 0 and indices.max() < len(self)):
            bad = indices[(indices < 0) | (indices >= len(self))][0]
            raise PgdiffError(f"`indices` must lie in [0, {len(self)}). Got {bad}.")
        return np.searchsorted(self.offsets, indices, side="right") - 1


def segments(
    episodes: Episodes,
    horizon: int,
    stride: int,
    *,
    padding: str = "none",
    min_tokens: int | None = None,
    ahead: int = 0,
) -> SegmentIndex:
    """Number all windows that stay inside one episode.

    A window can start at any row from which at least `min_tokens` tokens fit into the episode.

    - `padding="none"`: all `horizon` tokens must fit; nothing is padded.
    - `padding="repeat"`: missing tokens repeat the last row. `min_tokens` is 1 by default.
    - `padding="terminal"`: windows start at every row of an episode that ends in a terminal.
      Missing tokens repeat its end (the final next observation, if recorded) and count as real,
      because nothing changes after the task has ended. Other episodes are not padded.

    Args:
        episodes: the recording.
        horizon: tokens of a window, at least 1.
        stride: steps between tokens, at least 1.
        padding: "none", "repeat" or "terminal".
        min_tokens: least number of real tokens; only with `padding="repeat"`.
        ahead: rows that must follow a window in an episode without a terminal.

    Raises:
        PgdiffError: if an argument is out of range, or no episode is long enough.

    Example:
        >>> from pgdiff.data import segments
        >>> from pgdiff.testing import example_episodes
        >>> len(segments(example_episodes(episodes=2, steps=10), horizon=4, stride=2))
        8
    """
    horizon = check_positive_int("horizon", horizon)
    stride = check_positive_int("stride", stride)
    check_in("padding", padding, PADDINGS)
    if padding != "repeat":
        if min_tokens not in (None, horizon):
            raise PgdiffError(
                f"`min_tokens` must equal `horizon` without padding. Got {min_tokens}; "
                "pass padding='repeat' for shorter windows."
            )
        min_tokens = horizon
    elif min_tokens is None:
        min_tokens = 1
    elif check_positive_int("min_tokens", min_tokens) > horizon:
        raise PgdiffError(f"`min_tokens` must be at most `horizon` {horizon}. Got {min_tokens}.")
    needed = (min_tokens - 1) * stride + 1
    ended = episodes.terminals[episodes.ends - 1]
    spared = needed + np.where(ended, 0, ahead)
    if padding == "terminal":
        spared = np.where(ended, 1, spared)
    counts = np.maximum(episodes.lengths - spared + 1, 0)
    kept = counts > 0
    if not kept.any():
        longest = int(episodes.lengths.max())
        raise PgdiffError(
            f"`horizon` {horizon} at `stride` {stride} needs {needed + ahead} rows of one episode. "
            f"The longest of the {len(episodes)} episodes has {longest} rows, enough for a "
            f"horizon of {max(longest - 1 - ahead, 0) // stride + 1}."
        )
    offsets = np.concatenate([np.zeros(1, np.int64), np.cumsum(counts[kept])])
    return SegmentIndex(
        episodes.starts[kept], episodes.ends[kept], offsets, horizon, stride, padding == "terminal"
    )


class SegmentDataset:
    """Segments of recorded episodes, as batches of NumPy arrays.

    Args:
        episodes: the recording.
        horizon: tokens of a segment.
        stride: steps between tokens.
        fields: names of the fields to gather (see `pgdiff.data.fields`).
        discount: discount of the rewards within a token's stride, in (0, 1].
        padding: see `segments`.
        min_tokens: see `segments`.

    Attributes:
        episodes: the recording.
        index: the windows; `index.rows(indices)` returns the rows of a batch.

    Example:
        >>> from pgdiff.data import SegmentDataset
        >>> from pgdiff.testing import example_episodes
        >>> dataset = SegmentDataset(example_episodes(episodes=2, steps=10), horizon=4, stride=2)
        >>> len(dataset), dataset.batch([0]).observations.shape
        (8, (1, 4, 4))
    """

    def __init__(
        self,
        episodes: Episodes,
        horizon: int,
        stride: int,
        *,
        fields: tuple[str, ...] = ("observations",),
        discount: float = 1.0,
        padding: str = "none",
        min_tokens: int | None = None,
    ) -> None:
        parts = {name: token_field(name) for name in fields}
        check_range("discount", discount, low=0.0, high=1.0, open_low=True)
        self.episodes = episodes
        self._needs_successor = any(part.needs_successor(episodes) for part in parts.values())
        self.index = segments(
            episodes,
            horizon,
            stride,
            padding=padding,
            min_tokens=min_tokens,
            ahead=int(self._needs_successor),
        )
        self.fields = tuple(fields)
        self._readers = {
            name: part.gather(episodes, stride=self.index.stride, discount=discount)
            for name, part in parts.items()
        }

    def __len__(self) -> int:
        return len(self.index)

    @property
    def episode_starts(self) -> Int[np.ndarray, " episodes"]:
        """First row of each episode that contains examples."""
        return self.index.starts

    def batch(self, indices: Int[np.ndarray, " batch"]) -> SegmentBatch:
        """Gather the segments with these numbers.

        Raises:
            PgdiffError: if a number is out of range.
        """
        windows = self.index.windows(indices)
        mask = windows.mask
        if self._needs_successor:
            # The successor of the last row of a cut-off episode is unknown.
            mask = mask & ~((windows.rows == windows.last) & ~self.episodes.terminals[windows.rows])
            windows = replace(windows, mask=mask)
        values: dict[str, Any] = {n: read(windows) for n, read in self._readers.items()}
        further = {name: values.pop(name) for name in self._readers if name not in _NAMED}
        for name in _NAMED - values.keys():
            axes = mask.shape[:1] if token_field(name).scalar else mask.shape
            values[name] = np.zeros((*axes, 0), np.float32)
        return SegmentBatch(mask=mask, further=further or None, **values)


def token_fields(
    episodes: Episodes, fields: Sequence[str], *, stride: int
) -> list[tuple[str, Float[np.ndarray, "rows size"], int]]:
    """Return name, recorded values and copies in a token of each field, for fitting a normaliser.

    Only rows of these episodes are returned (see `TokenField.recorded`).

    Raises:
        PgdiffError: if a field is unknown.
    """
    return [(name, *token_field(name).recorded(episodes, stride=stride)) for name in fields]
