"""Windows of tokens over recorded episodes, gathered straight from the memory-mapped arrays."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from pgdiff.data.episodes import Episodes
from pgdiff.data.returns import chunk_rewards
from pgdiff.data.selection import selected
from pgdiff.validation import PgdiffError, check_in, check_positive_int, check_range

FIELDS = (
    "observations",
    "actions",
    "rewards",
    "action_chunks",
    "terminals",
    "next_observations",
    "previous_actions",
)
PADDINGS = ("none", "repeat", "terminal")


class SegmentBatch(NamedTuple):
    """A batch of segments in raw units; a field that was not asked for has zero width.

    Attributes:
        observations: `[batch, tokens, obs]` float32.
        actions: `[batch, tokens, act]` float32, the action taken at each token's row.
        rewards: `[batch, tokens]` float32, see `SegmentDataset`; `[batch, 0]` if not asked for.
        mask: `[batch, tokens]` bool, False at padded tokens.
        action_chunks: `[batch, tokens, stride * act]` float32, the actions of the steps from each
            token's row up to the next token's, one after the other; past the episode's end its last
            action is repeated.
        terminals: `[batch, tokens]` float32, 1 where the task itself ended after the token's row,
            else 0; `[batch, 0]` if not asked for.
        next_observations: `[batch, tokens, obs]` float32, what followed the token's row; after a
            terminal of a recording without them the row itself. There the last row of a cut episode
            counts as padding.
        previous_actions: `[batch, tokens, stride * act]` float32, the action chunk of the token
            before; 0 at the first token of a segment.
    """

    observations: Float[np.ndarray, "batch tokens obs"]
    actions: Float[np.ndarray, "batch tokens act"]
    rewards: Float[np.ndarray, "batch tokens"]
    mask: Bool[np.ndarray, "batch tokens"]
    action_chunks: Float[np.ndarray, "batch tokens chunk"]
    terminals: Float[np.ndarray, "batch ends"]
    next_observations: Float[np.ndarray, "batch tokens next"]
    previous_actions: Float[np.ndarray, "batch tokens chunk"]


@dataclass(frozen=True, eq=False)
class SegmentIndex:
    """All windows of `horizon` tokens at `stride` in some episodes, by number.

    Window w covers the rows `start + k * stride`, k < horizon, of one episode.

    Attributes:
        starts: `[episodes]` first row of each episode that holds a window.
        ends: `[episodes]` the row after its last.
        offsets: `[episodes + 1]` number of the first window of each episode; the last entry is the
            number of windows.
        horizon: tokens of a window.
        stride: steps between tokens.
        absorbing: whether tokens past an episode's end are real: its end repeated.
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
        """Return the row of every token, and whether the token is real (not padded)."""
        rows, last = self._unbounded(indices)
        return np.minimum(rows, last), (rows <= last) | self.absorbing

    def past(self, indices: Int[np.ndarray, " batch"]) -> Bool[np.ndarray, "batch tokens"]:
        """Return which tokens lie past their episode's end."""
        rows, last = self._unbounded(indices)
        past: np.ndarray = rows > last
        return past

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

    Padding rule: a window may start at any row from which the episode still holds `min_tokens`
    tokens. With `padding="none"` that is `horizon`, so nothing is padded. With `padding="repeat"`
    (by default from one token on) the missing tokens repeat the episode's last row. With
    `padding="terminal"` so do those of an episode that a terminal ended, from its every row on, and
    they count as real: where the task has ended nothing changes any more. Other episodes are not
    padded. Where a recording has next observations, the observation that is then repeated is the
    one in which the task ended.

    Args:
        episodes: the recording.
        horizon: tokens of a window, at least 1.
        stride: steps between tokens, at least 1.
        padding: "none", "repeat" or "terminal".
        min_tokens: tokens that must be real; only with `padding="repeat"`.
        ahead: rows that an episode without a terminal must hold after a window.

    Raises:
        PgdiffError: if an argument is out of range or no episode is long enough.
    """
    horizon = check_positive_int("horizon", horizon)
    stride = check_positive_int("stride", stride)
    check_in("padding", padding, PADDINGS)
    if padding != "repeat":
        if min_tokens not in (None, horizon):
            raise PgdiffError(
                f"`min_tokens` must be `horizon` without padding. Got {min_tokens}; "
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
    """Segments of recorded episodes as batches of NumPy arrays.

    `rewards` of a token at row r is the discounted reward of the steps up to the next token,
    `sum over j < stride of discount**j * rewards[r + j]`, cut at the episode's end; it is 0 at
    tokens past the episode's end, also where `padding="terminal"` counts them as real.

    Args:
        episodes: the recording.
        horizon: tokens of a segment.
        stride: steps between tokens.
        fields: which to gather: "observations", "actions", "rewards", "action_chunks",
            "terminals", "next_observations", "previous_actions".
        discount: of the rewards within a token's stride, in (0, 1].
        padding: see `segments`.
        min_tokens: see `segments`.

    Attributes:
        episodes: the recording.
        index: the windows; `index.rows(indices)` gives the rows behind a batch.
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
        for name in fields:
            check_in("fields", name, FIELDS)
        check_range("discount", discount, low=0.0, high=1.0, open_low=True)
        self.episodes = episodes
        # The last row of an episode that was cut has no successor but a recorded one.
        self._follows = "next_observations" in fields and episodes.next_observations is None
        self.index = segments(
            episodes,
            horizon,
            stride,
            padding=padding,
            min_tokens=min_tokens,
            ahead=int(self._follows),
        )
        self.fields = tuple(fields)
        self._rewards = (
            chunk_rewards(episodes, self.index.stride, discount) if "rewards" in fields else None
        )

    def __len__(self) -> int:
        return len(self.index)

    @property
    def episode_starts(self) -> Int[np.ndarray, " episodes"]:
        """First rows of the episodes that examples come from."""
        return self.index.starts

    def batch(self, indices: Int[np.ndarray, " batch"]) -> SegmentBatch:
        """Gather the segments of these numbers.

        Raises:
            PgdiffError: if a number is out of range.
        """
        rows, mask = self.index.rows(indices)
        if self._follows:
            # Nobody knows what follows the last row of an episode that was cut.
            last = rows == self.index.last_rows(indices)[:, None]
            mask = mask & ~(last & ~self.episodes.terminals[rows])
        rewards = np.zeros((len(rows), 0), np.float32)
        if self._rewards is not None:
            # Past a terminal tokens count as real, but nothing more is earned there.
            earning = mask & ~self.index.past(indices)
            rewards = np.where(earning, self._rewards[rows], np.float32(0))
        return SegmentBatch(
            self._observations(indices, rows),
            self._gather("actions", rows),
            rewards,
            mask,
            self._chunks(indices, rows),
            self._terminals(rows),
            self._next(indices, rows),
            self._previous_actions(indices, rows),
        )

    def _gather(self, name: str, rows: np.ndarray) -> np.ndarray:
        if name not in self.fields:
            return np.zeros((*rows.shape, 0), np.float32)
        values: np.ndarray = getattr(self.episodes, name)
        return values.take(rows, axis=0)

    def _observations(self, indices: np.ndarray, rows: np.ndarray) -> np.ndarray:
        values = self._gather("observations", rows)
        recorded = self.episodes.next_observations
        if self.index.absorbing and recorded is not None and values.shape[-1]:
            past = self.index.past(indices)
            values[past] = recorded.take(rows[past], axis=0)
        return values

    def _terminals(self, rows: np.ndarray) -> np.ndarray:
        if "terminals" not in self.fields:
            return np.zeros((len(rows), 0), np.float32)
        return self.episodes.terminals.take(rows).astype(np.float32)

    def _next(self, indices: np.ndarray, rows: np.ndarray) -> np.ndarray:
        if "next_observations" not in self.fields:
            return np.zeros((*rows.shape, 0), np.float32)
        recorded = self.episodes.next_observations
        if recorded is not None:
            return recorded.take(rows, axis=0)
        after = np.minimum(rows + 1, self.index.last_rows(indices)[:, None])
        values: np.ndarray = self.episodes.observations.take(after, axis=0)
        return values

    def _chunks(self, indices: np.ndarray, rows: np.ndarray) -> np.ndarray:
        if "action_chunks" not in self.fields:
            return np.zeros((*rows.shape, 0), np.float32)
        return self._actions_from(indices, rows)

    def _previous_actions(self, indices: np.ndarray, rows: np.ndarray) -> np.ndarray:
        if "previous_actions" not in self.fields:
            return np.zeros((*rows.shape, 0), np.float32)
        chunks = self._actions_from(indices, rows)
        return np.concatenate([np.zeros_like(chunks[:, :1]), chunks[:, :-1]], axis=1)

    def _actions_from(self, indices: np.ndarray, rows: np.ndarray) -> np.ndarray:
        """Return the actions of the `stride` steps from each row on."""
        last = self.index.last_rows(indices)[:, None, None]
        steps = np.minimum(rows[..., None] + np.arange(self.index.stride), last)
        values: np.ndarray = self.episodes.actions.take(steps, axis=0)
        return values.reshape(*rows.shape, -1)


def token_fields(
    episodes: Episodes, fields: Sequence[str], *, stride: int
) -> list[tuple[str, Float[np.ndarray, "rows size"], int]]:
    """Return name, recorded values and repeats in a token of each field, of these episodes alone.

    What a normaliser is fitted to: rewards are summed over the stride, actions of a chunk stand in
    a token `stride` times, next observations are normalised as observations are.

    Raises:
        PgdiffError: an unknown field.
    """
    found = []
    for name in fields:
        check_in("fields", name, FIELDS)
        if name == "rewards":
            sums = chunk_rewards(episodes, stride, 1.0)
            found.append((name, sums[~np.isnan(sums), None], 1))  # NaN is of no episode
        elif name in ("action_chunks", "previous_actions"):
            found.append((name, selected(episodes, "actions"), stride))
        elif name == "terminals":
            found.append((name, selected(episodes, "terminals")[:, None], 1))
        elif name == "next_observations":
            found.append((name, selected(episodes, "observations"), 1))
        else:
            found.append((name, selected(episodes, name), 1))
    return found
