"""What looks wrong in a sound recording: ends in the wrong place, rows twice, clipped actions."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, UInt

from pgdiff.data.boundaries import continuous_marks, one_step_moves, sample_rows
from pgdiff.data.episodes import Episodes

_BLOCK_ROWS = 65_536


@dataclass(frozen=True, kw_only=True)
class Quality:
    """A report on a recording; none of it makes the recording unusable.

    Attributes:
        jumps: rows inside an episode after which some feature leaps (see `jumps`): an episode's
            end may be missing there.
        continuing_ends: marked ends after which the recording simply goes on (see
            `join_continuous` of `load_episodes`). Without next observations these are guesses: ends
            near the row that follows.
        ends_known: whether the recording has next observations, which tell such ends from resets.
        other_successors: rows inside an episode whose next observation is not the observation of
            the next row: an episode's end may be missing there, or rows are not in order.
        ends: marked ends that another episode follows.
        repeated_rows: rows equal to the row before, in observation, action and reward.
        duplicate_rows: rows that are equal to any earlier row.
        actions_at_bounds: `[act]` share of the rows whose action is exactly the lowest or the
            highest that was recorded.
        reward_shift: k where `rewards[t]` judges `observations[t + k]`; None where the recording
            does not tell.
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
    """Look for what is suspicious; memory is about 20 bytes for each row."""
    marked = np.zeros(episodes.steps, np.bool_)
    marked[episodes.ends - 1] = True
    repeated, duplicates = _copies(episodes)
    observations, following = episodes.observations, episodes.next_observations
    return Quality(
        jumps=jumps(observations, marked),
        continuing_ends=len(continuous_marks(observations, marked, following)),
        ends_known=following is not None,
        other_successors=_other_successors(observations, following, marked),
        ends=int(marked[:-1].sum()),
        repeated_rows=repeated,
        duplicate_rows=duplicates,
        actions_at_bounds=_at_bounds(episodes.actions),
        reward_shift=reward_shift(episodes),
    )


def jumps(
    observations: Float[np.ndarray, "steps obs"], marked: Bool[np.ndarray, " steps"]
) -> np.ndarray:
    """Return the unmarked rows t where a feature leaps from row t to row t + 1.

    A leap is a move above three times the 99.9th percentile of the feature's moves inside episodes,
    or above ten times the 99th, whichever is less: the second still finds missing ends that are as
    frequent as one row in a hundred. A feature that hardly ever moves is judged by the first alone.
    """
    inside = sample_rows(np.flatnonzero(~marked[:-1]))
    if len(inside) == 0:
        return inside
    limits = np.array([_limit(moves) for moves in one_step_moves(observations, inside)])
    found = []
    for first in range(0, len(observations) - 1, _BLOCK_ROWS):
        block = observations[first : first + _BLOCK_ROWS + 1]
        leaps = np.any(np.abs(np.diff(block, axis=0)) > limits, axis=1)
        leaps &= ~marked[first : first + len(leaps)]
        found.append(first + np.flatnonzero(leaps))
    return np.concatenate(found)


def _other_successors(
    observations: Float[np.ndarray, "steps obs"],
    following: Float[np.ndarray, "steps obs"] | None,
    marked: Bool[np.ndarray, " steps"],
) -> np.ndarray:
    found = [np.zeros(0, np.int64)]
    for first in range(0, len(observations) - 1 if following is not None else 0, _BLOCK_ROWS):
        after = observations[first + 1 : first + _BLOCK_ROWS + 1]
        assert following is not None
        other = (following[first : first + len(after)] != after).any(axis=1)
        found.append(first + np.flatnonzero(other & ~marked[first : first + len(after)]))
    return np.concatenate(found)


def _limit(moves: np.ndarray) -> float:
    most, nearly_all = np.quantile(moves, [0.99, 0.999])
    return float(min(3.0 * nearly_all, 10.0 * most) if most > 0 else 3.0 * nearly_all) or np.inf


def _at_bounds(actions: Float[np.ndarray, "steps act"]) -> Float[np.ndarray, " act"]:
    low, high = actions.min(axis=0), actions.max(axis=0)
    count = np.zeros(actions.shape[1], np.int64)
    for first in range(0, len(actions), _BLOCK_ROWS):
        block = actions[first : first + _BLOCK_ROWS]
        count += ((block == low) | (block == high)).sum(axis=0)
    share: np.ndarray = count / len(actions)
    return share


def _copies(episodes: Episodes) -> tuple[int, int]:
    """Rows equal to the one before, and rows equal to any earlier one."""
    hashes = np.empty(episodes.steps, np.uint64)
    for first in range(0, episodes.steps, _BLOCK_ROWS):
        rows = slice(first, first + _BLOCK_ROWS)
        parts = (episodes.observations[rows], episodes.actions[rows], episodes.rewards[rows, None])
        hashes[rows] = _hash(np.concatenate(parts, axis=1))
    repeated = int((hashes[1:] == hashes[:-1]).sum())
    hashes.sort()
    return repeated, int((hashes[1:] == hashes[:-1]).sum())


def _hash(rows: Float[np.ndarray, "rows columns"]) -> UInt[np.ndarray, " rows"]:
    """64 bits of each row, by the finaliser of SplitMix64 (Steele et al. 2014, figure 13)."""
    bits = np.ascontiguousarray(rows).view(np.uint32).astype(np.uint64)
    state = np.zeros(len(rows), np.uint64)
    for column in bits.T:
        state = state * np.uint64(0x9E3779B97F4A7C15) + column + np.uint64(1)
        state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        state ^= state >> np.uint64(31)
    return state


def reward_shift(episodes: Episodes) -> int | None:
    """Return k where `rewards[t]` judges `observations[t + k]`, or None where it cannot be told.

    It can be told of a recording with goals whose reward has two values: the higher one must be
    given exactly where the place is closer to the goal than at all other rows. D4RL's maze2d has
    k = 0; an environment that judges where its step has led to has k = 1; k = -1 is one step late.
    The place is `ObservationLayout.position`, or the first features of an observation.
    """
    goal = episodes.infos.get("goal")
    low, high = float(episodes.rewards.min()), float(episodes.rewards.max())
    if goal is None or low == high or goal.shape[1] > episodes.observations.shape[1]:
        return None
    layout = episodes.observation_layout
    position = list(layout.position) if layout is not None else []
    place = position or list(range(goal.shape[1]))
    rows = sample_rows(_inner(episodes))
    rewards = episodes.rewards[rows]
    rewarded = rewards == high
    if not len(rows) or rewarded.all() or not ((rewards == low) | rewarded).all():
        return None
    if not rewarded.any():
        return None
    telling = []
    for shift in (-1, 0, 1):
        at = episodes.observations[rows + shift][:, place]
        # The goal in force at the step, or, where it moves along, the one pursued before it.
        for behind in (0, 1):
            distance = np.linalg.norm(at - goal[rows - behind], axis=1)
            if distance[rewarded].max() < distance[~rewarded].min():
                telling.append(shift)
    return telling[0] if len(set(telling)) == 1 else None


def _inner(episodes: Episodes) -> np.ndarray:
    """Rows that have a row before and one after them in their episode."""
    inner = np.ones(episodes.steps, np.bool_)
    inner[episodes.starts] = False
    inner[episodes.ends - 1] = False
    return np.flatnonzero(inner)
