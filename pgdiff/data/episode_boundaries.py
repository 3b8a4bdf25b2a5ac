"""Episode boundaries, and marks of a recording that do not end an episode."""

from collections.abc import Iterator

import numpy as np
from jaxtyping import Bool, Float, Int

_PAIRS = 1_000_000


def episode_bounds(
    terminals: Bool[np.ndarray, " steps"], timeouts: Bool[np.ndarray, " steps"]
) -> tuple[Int[np.ndarray, " episodes"], Int[np.ndarray, " episodes"]]:
    """Return the first row of each episode and the row after its last.

    The row of a terminal or timeout is the last row of its episode. Rows after the last mark are
    kept as an unfinished episode.
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
    """Return the timeouts of a recording whose episodes were cut after `episode_length` rows.

    For files without `timeouts` (older ones of D4RL): rows are counted from the first row of each
    episode; terminal rows are not marked again.
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
    """Yield, for each feature, the size of its change from each of these rows to the next row."""
    for feature in range(observations.shape[1]):
        column = observations[:, feature]
        yield np.abs(column[rows + 1] - column[rows])


def sample_rows(rows: Int[np.ndarray, " rows"]) -> Int[np.ndarray, " sampled"]:
    """Return the rows, or a million evenly spread ones of them."""
    if len(rows) > _PAIRS:
        rows = rows[np.linspace(0, len(rows) - 1, _PAIRS).astype(np.int64)]
    return rows


def largest_moves(moves: Float[np.ndarray, "rows obs"]) -> Float[np.ndarray, " obs"]:
    """Return the largest plausible one-step change of each feature: 3 x the 99.9th percentile."""
    limits: np.ndarray = 3.0 * np.quantile(moves, 0.999, axis=0)
    return limits


def far_moves(
    moves: Float[np.ndarray, "rows obs"], limits: Float[np.ndarray, " obs"]
) -> Bool[np.ndarray, " rows"]:
    """Return the mask of rows where some feature changes by more than its limit."""
    far: np.ndarray = np.any(moves > limits, axis=1)
    return far


def continuous_marks(
    observations: Float[np.ndarray, "steps obs"],
    marked: Bool[np.ndarray, " steps"],
    next_observations: Float[np.ndarray, "steps obs"] | None = None,
) -> Int[np.ndarray, " joined"]:
    """Return the marked rows after which the recording continues without a reset.

    A mark at row t does not end an episode if every feature changes from row t to row t + 1 by at
    most three times the 99.9th percentile of its one-step changes elsewhere and, in a recording
    with next observations, row t + 1 is the next observation of row t. A reset can be near as well,
    so without next observations the result is a guess. D4RL's maze2d recorder draws a new goal at
    marked rows and never resets the ball. Features are compared one by one, because positions and
    velocities have different units and a reset may not change all of them.
    """
    rows = np.flatnonzero(marked[:-1])
    if len(rows) == 0:
        return rows
    inside = np.flatnonzero(~marked[:-1])
    if len(inside) == 0:
        return rows[:0]
    inside = sample_rows(inside)
    continues = np.ones(len(rows), np.bool_)
    # One feature at a time, so that memory stays small for wide observations.
    moves = zip(
        one_step_moves(observations, inside), one_step_moves(observations, rows), strict=True
    )
    for usual, moved in moves:
        continues &= moved <= 3.0 * np.quantile(usual, 0.999)
    if next_observations is not None:
        for feature in range(observations.shape[1]):
            continues &= next_observations[rows, feature] == observations[rows + 1, feature]
    joined: np.ndarray = rows[continues]
    return joined
