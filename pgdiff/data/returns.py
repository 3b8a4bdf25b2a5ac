"""Discounted sums of rewards, for value learning."""

from collections.abc import Iterator
from itertools import pairwise

import numpy as np
from jaxtyping import Float

from pgdiff.data.episodes import Episodes
from pgdiff.validation import check_positive_int, check_range

_BLOCK_ROWS = 262_144


def discounted_returns(episodes: Episodes, discount: float) -> Float[np.ndarray, " steps"]:
    """Return `sum over k of discount**k * rewards[t + k]` up to the episode's end, for each row t.

    Nothing is added beyond an episode's end, be it a terminal or a timeout. Rows that belong to
    none of the episodes (see `Episodes.split`) are NaN, so that no average takes them in unseen.

    Args:
        episodes: the recording.
        discount: in (0, 1].

    Raises:
        PgdiffError: if `discount` is out of range.
    """
    check_range("discount", discount, low=0.0, high=1.0, open_low=True)
    return _sums(episodes, discount, None)


def chunk_rewards(episodes: Episodes, stride: int, discount: float) -> Float[np.ndarray, " steps"]:
    """Return `sum over j < stride of discount**j * rewards[t + j]`, cut at the episode's end.

    Rows that belong to none of the episodes are NaN.
    """
    stride = check_positive_int("stride", stride)
    check_range("discount", discount, low=0.0, high=1.0, open_low=True)
    return _sums(episodes, discount, min(stride, int(episodes.lengths.max())))


def runs(episodes: Episodes) -> Iterator[tuple[int, int, int, int]]:
    """Yield (first episode, episode after the last, first row, row after the last) of each run.

    A run is of episodes that lie one after the other without a gap.
    """
    starts, ends = episodes.starts, episodes.ends
    breaks = np.flatnonzero(starts[1:] != ends[:-1]) + 1
    for first, last in pairwise([0, *breaks.tolist(), len(starts)] if len(starts) else []):
        yield first, last, int(starts[first]), int(ends[last - 1])


def _sums(episodes: Episodes, discount: float, window: int | None) -> Float[np.ndarray, " steps"]:
    """Sum the rewards of `window` rows, of all to the episode's end if None."""
    result = np.full(episodes.steps, np.nan, np.float32)
    for first, last, begin, end in runs(episodes):
        # Neighbouring episodes are taken together, in blocks: memory stays bounded however many
        # rows there are, and many short episodes cost no loop of their own.
        ends = episodes.ends[first:last]
        if window is None:
            _returns(result, episodes.rewards, ends, begin, end, discount)
            continue
        step = max(_BLOCK_ROWS, window)
        for low in range(begin, end, step):
            high = min(low + step, end)
            rows = slice(low, min(high + window - 1, end))
            sums = _window_sums(episodes.rewards[rows], _remaining(ends, rows), discount, window)
            result[low:high] = sums[: high - low]
    return result


def _returns(
    result: np.ndarray,
    rewards: np.ndarray,
    ends: np.ndarray,
    begin: int,
    end: int,
    discount: float,
) -> None:
    """Fill a run of returns from its last block to its first."""
    following = 0.0  # the return of the row after the block
    for high in range(end, begin, -_BLOCK_ROWS):
        rows = slice(max(high - _BLOCK_ROWS, begin), high)
        remaining = _remaining(ends, rows)
        to_block_end = high - np.arange(rows.start, high)
        sums = _window_sums(
            rewards[rows], np.minimum(remaining, to_block_end), discount, high - rows.start
        )
        sums += np.where(remaining > to_block_end, discount**to_block_end * following, 0.0)
        result[rows] = sums
        following = float(sums[0])


def _remaining(ends: np.ndarray, rows: slice) -> np.ndarray:
    """Rows to the end of its episode, from each row on and with it."""
    numbers = np.arange(rows.start, rows.stop)
    remaining: np.ndarray = ends[np.searchsorted(ends, numbers, side="right")] - numbers
    return remaining


def _window_sums(
    rewards: Float[np.ndarray, " rows"], remaining: np.ndarray, discount: float, window: int
) -> Float[np.ndarray, " rows"]:
    """Sum `window` discounted rewards from each row on, never past `remaining` rows.

    Sums over 1, 2, 4, ... rows are doubled, and those of the window's binary digits are joined:
    log2(window) passes instead of one per row.
    """
    power = rewards.astype(np.float64)  # sums over `width` rows from each row on
    total = np.zeros_like(power)  # sums over the first `done` rows
    width, done = 1, 0
    while True:
        if window & width:
            total += discount**done * _shifted(power, remaining, done)
            done += width
        if done >= window:
            return total
        power = power + discount**width * _shifted(power, remaining, width)
        width *= 2


def _shifted(values: np.ndarray, remaining: np.ndarray, by: int) -> np.ndarray:
    """Return `values[t + by]`, or 0 where that row is of another episode."""
    moved = np.zeros_like(values)
    kept = max(len(values) - by, 0)
    np.copyto(moved[:kept], values[by:], where=remaining[:kept] > by)
    return moved
