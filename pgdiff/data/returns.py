"""Discounted sums of rewards, for value learning."""

from collections.abc import Iterator
from itertools import pairwise

import numpy as np
from jaxtyping import Float

from pgdiff.core.validation import check_positive_int, check_range
from pgdiff.data.episodes import Episodes

_BLOCK_ROWS = 262_144


def discounted_returns(episodes: Episodes, discount: float) -> Float[np.ndarray, " steps"]:
    """Return `sum over k of discount**k * rewards[t + k]` up to the episode's end, for each row t.

    The sum stops at the end of the episode, whether terminal or timeout. Rows that do not belong to
    an episode (see `Episodes.split`) are NaN, so that an average cannot include them unnoticed.

    Args:
        episodes: the recording.
        discount: discount per row, in (0, 1]; larger values weight later rewards more.

    Raises:
        PgdiffError: if `discount` is out of range.

    Example:
        >>> from pgdiff.data import Episodes, discounted_returns
        >>> episodes = Episodes.from_arrays(
        ...     observations=[[0]] * 3, actions=[[0]] * 3, rewards=[1, 1, 1], terminals=[0, 0, 1]
        ... )
        >>> discounted_returns(episodes, 0.5).tolist()
        [1.75, 1.5, 1.0]
    """
    check_range("discount", discount, low=0.0, high=1.0, open_low=True)
    return _sums(episodes, discount, None)


def chunk_rewards(episodes: Episodes, stride: int, discount: float) -> Float[np.ndarray, " steps"]:
    """Return `sum over j < stride of discount**j * rewards[t + j]`, up to the episode's end.

    Rows that do not belong to an episode are NaN.
    """
    stride = check_positive_int("stride", stride)
    check_range("discount", discount, low=0.0, high=1.0, open_low=True)
    return _sums(episodes, discount, min(stride, int(episodes.lengths.max())))


def runs(episodes: Episodes) -> Iterator[tuple[int, int, int, int]]:
    """Yield (first episode, episode after the last, first row, row after the last) of each run.

    A run is a sequence of episodes without gaps between their rows.
    """
    starts, ends = episodes.starts, episodes.ends
    breaks = np.flatnonzero(starts[1:] != ends[:-1]) + 1
    for first, last in pairwise([0, *breaks.tolist(), len(starts)] if len(starts) else []):
        yield first, last, int(starts[first]), int(ends[last - 1])


def _sums(episodes: Episodes, discount: float, window: int | None) -> Float[np.ndarray, " steps"]:
    """Sum the rewards of `window` rows, or up to the episode's end if None."""
    result = np.full(episodes.steps, np.nan, np.float32)
    for first, last, begin, end in runs(episodes):
        # Adjacent episodes are processed together, in blocks: memory is independent of the number
        # of rows, and many short episodes need no loop.
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
    """Compute the returns of a run, from its last block to its first."""
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
    """Return the number of rows from each row (inclusive) to the end of its episode."""
    numbers = np.arange(rows.start, rows.stop)
    remaining: np.ndarray = ends[np.searchsorted(ends, numbers, side="right")] - numbers
    return remaining


def _window_sums(
    rewards: Float[np.ndarray, " rows"], remaining: np.ndarray, discount: float, window: int
) -> Float[np.ndarray, " rows"]:
    """Sum `window` discounted rewards starting at each row, over at most `remaining` rows.

    Sums over 1, 2, 4, ... rows are built by doubling, and the sums of the window's binary digits
    are added: log2(window) passes instead of one per row.
    """
    power = rewards.astype(np.float64)  # sums over `width` rows starting at each row
    total = np.zeros_like(power)  # sums over the first `done` rows
    width, done = 1, 0
    while True:
        if window & width:
            total += discount**done * _shift(power, remaining, done)
            done += width
        if done >= window:
            return total
        power = power + discount**width * _shift(power, remaining, width)
        width *= 2


def _shift(values: np.ndarray, remaining: np.ndarray, by: int) -> np.ndarray:
    """Return `values[t + by]`, or 0 where that row belongs to another episode."""
    moved = np.zeros_like(values)
    kept = max(len(values) - by, 0)
    np.copyto(moved[:kept], values[by:], where=remaining[:kept] > by)
    return moved
