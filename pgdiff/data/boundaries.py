"""Where episodes end: the marks of a recording, and marks that are none."""

import numpy as np
from jaxtyping import Bool, Float, Int

_PAIRS = 1_000_000


def episode_bounds(
    terminals: Bool[np.ndarray, " steps"], timeouts: Bool[np.ndarray, " steps"]
) -> tuple[Int[np.ndarray, " episodes"], Int[np.ndarray, " episodes"]]:
    """Return the first row of each episode and the row after its last.

    A terminal or a timeout ends its episode with its own row included. Rows after the last mark
    are an unfinished episode and are kept.
    """
    steps = len(terminals)
    ends = np.flatnonzero(terminals | timeouts).astype(np.int64) + 1
    if len(ends) == 0 or ends[-1] != steps:
        ends = np.append(ends, np.int64(steps))
    starts = np.concatenate([np.zeros(1, np.int64), ends[:-1]])
    return starts, ends


def continuous_marks(
    observations: Float[np.ndarray, "steps obs"],
    marked: Bool[np.ndarray, " steps"],
) -> Int[np.ndarray, " joined"]:
    """Return the marked rows after which the recording simply goes on.

    A mark at row t is none if every feature moves from row t to row t + 1 by at most three times
    the 99.9th percentile of that feature's one-step moves elsewhere. D4RL's maze2d recorder draws
    a new goal at such rows and never resets the ball. Features are compared one by one since
    positions and velocities have different units and a reset may leave some of them alone.
    """
    rows = np.flatnonzero(marked[:-1])
    if len(rows) == 0:
        return rows
    inside = np.flatnonzero(~marked[:-1])
    if len(inside) == 0:
        return rows[:0]
    if len(inside) > _PAIRS:
        inside = inside[np.linspace(0, len(inside) - 1, _PAIRS).astype(np.int64)]
    usual = np.quantile(np.abs(observations[inside + 1] - observations[inside]), 0.999, axis=0)
    moved = np.abs(observations[rows + 1] - observations[rows])
    joined: np.ndarray = rows[(moved <= 3.0 * usual).all(axis=1)]
    return joined
