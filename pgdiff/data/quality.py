"""Quality report of a valid recording: misplaced ends, repeated rows, clipped actions."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, UInt

from pgdiff.data.episode_boundaries import continuous_marks, one_step_moves, sample_rows
from pgdiff.data.episodes import Episodes

_BLOCK_ROWS = 65_536


@dataclass(frozen=True, eq=False)
class FieldStatistics:
    """Statistics of one field, per feature.

    Attributes:
        shape: shape of the array.
        low: lowest value.
        high: highest value.
        mean: mean over all rows.
        std: standard deviation over all rows.
    """

    shape: tuple[int, ...]
    low: Float[np.ndarray, " features"]
    high: Float[np.ndarray, " features"]
    mean: Float[np.ndarray, " features"]
    std: Float[np.ndarray, " features"]

    @property
    def constant(self) -> list[int]:
        """Indices of the features with a single value."""
        return [int(feature) for feature in np.flatnonzero(self.low == self.high)]


def field_statistics(values: np.ndarray) -> FieldStatistics:
    """Return the statistics of a field; memory is independent of the number of rows.

    Args:
        values: `[steps]` or `[steps, features]`, with at least one row.
    """
    rows = values.reshape(len(values), -1)
    low, high = rows[0].astype(np.float64), rows[0].astype(np.float64)
    count, mean, square = 0, np.zeros(rows.shape[1]), np.zeros(rows.shape[1])
    for first in range(0, len(rows), _BLOCK_ROWS):
        block = rows[first : first + _BLOCK_ROWS].astype(np.float64)
        low, high = np.minimum(low, block.min(axis=0)), np.maximum(high, block.max(axis=0))
        # Chan, Golub and LeVeque 1979, eq. 1.5: merges mean and squared deviations of blocks.
        block_mean = block.mean(axis=0)
        step = block_mean - mean
        square += ((block - block_mean) ** 2).sum(axis=0)
        square += step**2 * (count * len(block) / (count + len(block)))
        mean = mean + step * (len(block) / (count + len(block)))
        count += len(block)
    return FieldStatistics(values.shape, low, high, mean, np.sqrt(square / count))


def episode_returns(episodes: Episodes) -> Float[np.ndarray, " episodes"]:
    """Return the undiscounted return of each episode."""
    bounds = zip(episodes.starts, episodes.ends, strict=True)
    return np.array([episodes.rewards[a:b].sum(dtype=np.float64) for a, b in bounds])


@dataclass(frozen=True, kw_only=True)
class Quality:
    """Report on a recording; none of the findings makes the recording unusable.

    Attributes:
        jumps: rows inside an episode after which some feature jumps (see `jumps`); an episode end
            may be missing there.
        continuing_ends: number of marked ends after which the recording continues without a reset
            (see `join_continuous` of `load_episodes`). Without next observations this is a guess.
        ends_known: if True, the recording has next observations, which distinguish continuing
            ends from resets.
        other_successors: rows inside an episode whose next observation differs from the observation
            of the next row; an episode end may be missing there, or rows are out of order.
        ends: number of marked ends before the last episode's end.
        repeated_rows: number of rows equal to the previous row in observation, action and reward.
        duplicate_rows: number of rows equal to any earlier row.
        actions_at_bounds: `[act]` share of the rows whose action equals the lowest or highest
            recorded action.
        reward_shift: k if `rewards[t]` rates `observations[t + k]`; None if unknown.
    """

    jumps: np.ndarray
    continuing_ends: int
    ends_known: bool
    other_successors: np.ndarray
    ends: int
    repeated_rows: int
    duplicate_rows: int
    actions_at_bounds: Float[np.ndarray, " act"]
    reward_shift: int | None


def quality(episodes: Episodes) -> Quality:
    """Return a report of suspicious properties; memory is about 20 bytes per row."""
    marked = np.zeros(episodes.steps, np.bool_)
    marked[episodes.ends - 1] = True
    repeated, duplicates = _count_copies(episodes)
    observations, following = episodes.observations, episodes.next_observations
    return Quality(
        jumps=jumps(observations, marked),
        continuing_ends=len(continuous_marks(observations, marked, following)),
        ends_known=following is not None,
        other_successors=_other_successors(observations, following, marked),
        ends=int(marked[:-1].sum()),
        repeated_rows=repeated,
        duplicate_rows=duplicates,
        actions_at_bounds=_share_at_bounds(episodes.actions),
        reward_shift=reward_shift(episodes),
    )


def jumps(
    observations: Float[np.ndarray, "steps obs"], marked: Bool[np.ndarray, " steps"]
) -> np.ndarray:
    """Return the unmarked rows t where a feature jumps from row t to row t + 1.

    A jump is a change above three times the 99.9th percentile of the feature's changes inside
    episodes or ten times the 99th percentile, whichever is smaller. The second limit finds missing
    ends that are as frequent as one row in a hundred; it is not used for features that rarely
    change.
    """
    inside = sample_rows(np.flatnonzero(~marked[:-1]))
    if len(inside) == 0:
        return inside
    limits = np.array([_limit(moves) for moves in one_step_moves(observations, inside)])
    rows = []
    for first in range(0, len(observations) - 1, _BLOCK_ROWS):
        block = observations[first : first + _BLOCK_ROWS + 1]
        jumping = np.any(np.abs(np.diff(block, axis=0)) > limits, axis=1)
        jumping &= ~marked[first : first + len(jumping)]
        rows.append(first + np.flatnonzero(jumping))
    return np.concatenate(rows)


def _other_successors(
    observations: Float[np.ndarray, "steps obs"],
    following: Float[np.ndarray, "steps obs"] | None,
    marked: Bool[np.ndarray, " steps"],
) -> np.ndarray:
    rows = [np.zeros(0, np.int64)]
    for first in range(0, len(observations) - 1 if following is not None else 0, _BLOCK_ROWS):
        after = observations[first + 1 : first + _BLOCK_ROWS + 1]
        assert following is not None
        other = (following[first : first + len(after)] != after).any(axis=1)
        rows.append(first + np.flatnonzero(other & ~marked[first : first + len(after)]))
    return np.concatenate(rows)


def _limit(moves: np.ndarray) -> float:
    most, nearly_all = np.quantile(moves, [0.99, 0.999])
    return float(min(3.0 * nearly_all, 10.0 * most) if most > 0 else 3.0 * nearly_all) or np.inf


def _share_at_bounds(actions: Float[np.ndarray, "steps act"]) -> Float[np.ndarray, " act"]:
    low, high = actions.min(axis=0), actions.max(axis=0)
    count = np.zeros(actions.shape[1], np.int64)
    for first in range(0, len(actions), _BLOCK_ROWS):
        block = actions[first : first + _BLOCK_ROWS]
        count += ((block == low) | (block == high)).sum(axis=0)
    share: np.ndarray = count / len(actions)
    return share


def _count_copies(episodes: Episodes) -> tuple[int, int]:
    """Return the numbers of rows equal to the previous row and to any earlier row."""
    hashes = np.empty(episodes.steps, np.uint64)
    for first in range(0, episodes.steps, _BLOCK_ROWS):
        rows = slice(first, first + _BLOCK_ROWS)
        parts = (episodes.observations[rows], episodes.actions[rows], episodes.rewards[rows, None])
        hashes[rows] = _hash(np.concatenate(parts, axis=1))
    repeated = int((hashes[1:] == hashes[:-1]).sum())
    hashes.sort()
    return repeated, int((hashes[1:] == hashes[:-1]).sum())


def _hash(rows: Float[np.ndarray, "rows columns"]) -> UInt[np.ndarray, " rows"]:
    """Return a 64-bit hash of each row (SplitMix64's finaliser: Steele et al. 2014, figure 13)."""
    bits = np.ascontiguousarray(rows).view(np.uint32).astype(np.uint64)
    state = np.zeros(len(rows), np.uint64)
    for column in bits.T:
        state = state * np.uint64(0x9E3779B97F4A7C15) + column + np.uint64(1)
        state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        state ^= state >> np.uint64(31)
    return state


def reward_shift(episodes: Episodes) -> int | None:
    """Return k if `rewards[t]` rates `observations[t + k]`, or None if k cannot be determined.

    k is determined for recordings with goals and a two-valued reward, if all rows with the higher
    reward are closer to their goal than all other rows. D4RL's maze2d has k = 0, an environment
    that rates the result of its step has k = 1, and k = -1 is a reward one step late. Distances are
    measured in the features `ObservationLayout.position`, or else in the first features.
    """
    goal = episodes.infos.get("goal")
    low, high = float(episodes.rewards.min()), float(episodes.rewards.max())
    if goal is None or low == high or goal.shape[1] > episodes.observations.shape[1]:
        return None
    layout = episodes.observation_layout
    position = list(layout.position) if layout is not None else []
    features = position or list(range(goal.shape[1]))
    rows = sample_rows(_inner_rows(episodes))
    rewards = episodes.rewards[rows]
    rewarded = rewards == high
    if not len(rows) or rewarded.all() or not ((rewards == low) | rewarded).all():
        return None
    if not rewarded.any():
        return None
    shifts = []
    for shift in (-1, 0, 1):
        positions = episodes.observations[rows + shift][:, features]
        # The goal of the step's row, or of the previous row if the reward still refers to that.
        for behind in (0, 1):
            distance = np.linalg.norm(positions - goal[rows - behind], axis=1)
            if distance[rewarded].max() < distance[~rewarded].min():
                shifts.append(shift)
    return shifts[0] if len(set(shifts)) == 1 else None


def _inner_rows(episodes: Episodes) -> np.ndarray:
    """Return the rows that are neither the first nor the last of their episode."""
    inner = np.ones(episodes.steps, np.bool_)
    inner[episodes.starts] = False
    inner[episodes.ends - 1] = False
    return np.flatnonzero(inner)
