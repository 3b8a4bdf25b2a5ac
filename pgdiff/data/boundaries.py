"""Where episodes end: the marks of a recording, and marks that are none."""

from collections.abc import Iterator

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


def time_limits(
    terminals: Bool[np.ndarray, " steps"], episode_length: int
) -> Bool[np.ndarray, " steps"]:
    """Return the timeouts of a recording in which an episode was cut after so many rows.

    For files that leave `timeouts` out (older ones of D4RL's): rows are counted from each
    episode's first; a row that is a terminal needs no other mark.
    """
    starts, ends = episode_bounds(terminals, np.zeros_like(terminals))
    timeouts = np.zeros_like(terminals)
    for i in np.flatnonzero(ends - starts >= episode_length):
        timeouts[starts[i] + episode_length - 1 : ends[i] : episode_length] = True
    timeouts &= ~terminals
    return timeouts


def one_step_moves(
    observations: Float[np.ndarray, "steps obs"], rows: Int[np.ndarray, " rows"]
) -> Iterator[Float[np.ndarray, " rows"]]:
    """Yield, feature by feature, how far it moves from each of these rows to the next one."""
    for feature in range(observations.shape[1]):
        column = observations[:, feature]
        yield np.abs(column[rows + 1] - column[rows])


def sample_rows(rows: Int[np.ndarray, " rows"]) -> Int[np.ndarray, " sampled"]:
    """Return at most a million of the rows, evenly spread."""
    if len(rows) > _PAIRS:
        rows = rows[np.linspace(0, len(rows) - 1, _PAIRS).astype(np.int64)]
    return rows


def largest_moves(moves: Float[np.ndarray, "rows obs"]) -> Float[np.ndarray, " obs"]:
    """Return how far each feature can move in one step: three times the 99.9th percentile."""
    limits: np.ndarray = 3.0 * np.quantile(moves, 0.999, axis=0)
    return limits


def far_moves(
    moves: Float[np.ndarray, "rows obs"], limits: Float[np.ndarray, " obs"]
) -> Bool[np.ndarray, " rows"]:
    """Return where some feature moves further than its limit."""
    far: np.ndarray = np.any(moves > limits, axis=1)
    return far


def continuous_marks(
    observations: Float[np.ndarray, "steps obs"],
    marked: Bool[np.ndarray, " steps"],
    next_observations: Float[np.ndarray, "steps obs"] | None = None,
) -> Int[np.ndarray, " joined"]:
    """Return the marked rows after which the recording simply goes on.

    A mark at row t is none if every feature moves from row t to row t + 1 by at most three times
    the 99.9th percentile of that feature's one-step moves elsewhere, and if row t + 1 holds the
    next observation of row t, in a recording of next observations. A reset may be near as well, so
    without next observations this is a guess. D4RL's maze2d recorder draws a new goal at such rows
    and never resets the ball. Features are compared one by one since positions and velocities have
    different units and a reset may leave some of them alone.
    """
    rows = np.flatnonzero(marked[:-1])
    if len(rows) == 0:
        return rows
    inside = np.flatnonzero(~marked[:-1])
    if len(inside) == 0:
        return rows[:0]
    inside = sample_rows(inside)
    goes_on = np.ones(len(rows), np.bool_)
    # Feature by feature, so that memory stays small for wide observations too.
    moves = zip(
        one_step_moves(observations, inside), one_step_moves(observations, rows), strict=True
    )
    for usual, moved in moves:
        goes_on &= moved <= 3.0 * np.quantile(usual, 0.999)
    if next_observations is not None:
        for feature in range(observations.shape[1]):
            goes_on &= next_observations[rows, feature] == observations[rows + 1, feature]
    joined: np.ndarray = rows[goes_on]
    return joined
