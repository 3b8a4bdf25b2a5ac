"""Discounted sums of rewards, for value learning."""

import numpy as np
from jaxtyping import Float

from pgdiff.data.episodes import Episodes
from pgdiff.validation import check_positive_int, check_range


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
    return _sums(episodes, discount, int(episodes.lengths.max()))


def chunk_rewards(episodes: Episodes, stride: int, discount: float) -> Float[np.ndarray, " steps"]:
    """Return `sum over j < stride of discount**j * rewards[t + j]`, cut at the episode's end.

    Rows that belong to none of the episodes are NaN.
    """
    check_positive_int("stride", stride)
    check_range("discount", discount, low=0.0, high=1.0, open_low=True)
    return _sums(episodes, discount, stride)


def _sums(episodes: Episodes, discount: float, window: int) -> Float[np.ndarray, " steps"]:
    result = np.full(episodes.steps, np.nan, np.float32)
    # Neighbouring episodes are taken together: one vectorised pass over many short ones.
    starts, ends = episodes.starts, episodes.ends
    first = 0
    for last in range(len(starts)):
        if last + 1 < len(starts) and starts[last + 1] == ends[last]:
            continue
        begin, end = int(starts[first]), int(ends[last])
        lengths = ends[first : last + 1] - starts[first : last + 1]
        remaining = np.repeat(ends[first : last + 1] - begin, lengths) - np.arange(end - begin)
        result[begin:end] = _window_sums(
            episodes.rewards[begin:end], remaining, discount, min(window, int(lengths.max()))
        )
        first = last + 1
    return result


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
