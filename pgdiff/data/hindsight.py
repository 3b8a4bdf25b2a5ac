"""Hindsight relabelling: recorded pairs of tokens with goals from the same recording."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from pgdiff.core.validation import PgdiffError, check_positive_int, check_range
from pgdiff.data import Episodes
from pgdiff.data.segments import segments

EXAMPLES = 2**22
"""Least number of examples; a short recording gives many goals for each of its pairs."""


class HindsightBatch(NamedTuple):
    """Neighbouring tokens, a goal, and the reward between the two tokens; raw units.

    Attributes:
        observations: `[batch, 2, observation]` float32.
        goals: `[batch, goal]` float32.
        rewards: `[batch]` float32, discounted sum over `stride` rows, starting at the first token.
    """

    observations: Float[np.ndarray, "batch 2 obs"]
    goals: Float[np.ndarray, "batch goal"]
    rewards: Float[np.ndarray, " batch"]


class HindsightDataset:
    """Pairs of tokens with goals drawn in hindsight (Andrychowicz et al. 2017, section 3.2).

    A state is at a goal if its position (some features of the observation) is at most `tolerance`
    from the goal; the reward of row t is then 1, else 0. (As in `collect`, the reward of row t
    rates observation t.) Three kinds of goals are mixed:

    - future: the position k >= 1 rows later in the same episode. k has the geometric distribution
      of `discount`, truncated at the episode's end: the states that count in a discounted value.
      These goals are reached later.
    - near: a point at a uniformly drawn distance up to `2 tolerance`, in any direction, from one of
      the `stride` rows of the pair. Half of these goals are reached now. With a tolerance that is
      small against the world, few other goals are, and the reward is learned where it changes.
    - random: the position of any row. Most are far away or unreachable.

    An example depends only on its number: example `i` is the pair `i % pairs`, and a hash of `i`
    draws its goal. A batch is therefore the same at any time and in any process. No data is stored
    per row of the recording.

    Args:
        episodes: the recording.
        stride: rows between the two tokens.
        goal_features: indices of the features of an observation that a goal specifies.
        tolerance: largest distance at which a goal counts as reached, in raw units.
        discount: discount per row, in (0, 1).
        future: share of future goals.
        near: share of near goals; the remaining goals are random.

    Raises:
        PgdiffError: if an argument is out of range, or no episode has more than `stride` rows.

    Example:
        >>> from pgdiff.data.hindsight import HindsightDataset
        >>> from pgdiff.testing import example_episodes
        >>> batch = HindsightDataset(example_episodes(), stride=3).batch([0, 1])
        >>> batch.observations.shape, batch.goals.shape
        ((2, 2, 4), (2, 2))
    """

    def __init__(
        self,
        episodes: Episodes,
        *,
        stride: int,
        goal_features: Sequence[int] = (0, 1),
        tolerance: float = 0.5,
        discount: float = 0.99,
        future: float = 0.4,
        near: float = 0.2,
    ) -> None:
        self.episodes = episodes
        self.goal_features = check_goal_features(
            goal_features, features=episodes.observations.shape[1]
        )
        self.tolerance = check_range("tolerance", tolerance, low=0.0, open_low=True)
        self.discount = check_range(
            "discount", discount, low=0.0, high=1.0, open_low=True, open_high=True
        )
        self.future, self.near = check_shares(future, near)
        self._pairs = segments(episodes, 2, check_positive_int("stride", stride))
        self._goals_each = -(-EXAMPLES // len(self._pairs))
        self._before = np.cumsum(episodes.lengths)

    def __len__(self) -> int:
        return len(self._pairs) * self._goals_each

    @property
    def episode_starts(self) -> Int[np.ndarray, " episodes"]:
        """First row of each episode that contains examples."""
        return self._pairs.starts

    def batch(self, indices: Int[np.ndarray, " batch"]) -> HindsightBatch:
        """Gather the examples with these numbers.

        Raises:
            PgdiffError: if a number is out of range.
        """
        numbers = np.asarray(indices, dtype=np.int64)
        if len(numbers) and not (numbers.min() >= 0 and numbers.max() < len(self)):
            bad = numbers[(numbers < 0) | (numbers >= len(self))][0]
            raise PgdiffError(f"`indices` must lie in [0, {len(self)}). Got {bad}.")
        pairs = numbers % len(self._pairs)
        first = self._pairs.rows(pairs)[0][:, 0]
        stride = self._pairs.stride
        path = self.episodes.observations.take(first[:, None] + np.arange(stride + 1), axis=0)
        goals = self._goals(numbers, first, self._pairs.last_rows(pairs))
        # Squares in double precision: a distance equal to the tolerance counts as reached.
        offset = path[:, :-1, self.goal_features].astype(np.float64) - goals[:, None]
        reached = np.square(offset).sum(axis=-1) <= self.tolerance**2
        rewards = reached @ self.discount ** np.arange(stride)
        return HindsightBatch(path[:, [0, -1]], goals, rewards.astype(np.float32))

    def _goals(
        self, numbers: np.ndarray, first: np.ndarray, last: np.ndarray
    ) -> Float[np.ndarray, "batch goal"]:
        kind, choice = uniform(numbers, 0), uniform(numbers, 1)
        future, near = kind < self.future, kind < self.future + self.near
        row = self._random_rows(choice)
        row = np.where(near, first + (choice * self._pairs.stride).astype(np.int64), row)
        row = np.where(future, first + _geometric(choice, last - first, self.discount), row)
        goals = self.episodes.observations.take(row, axis=0)[:, self.goal_features]
        near &= ~future
        goals[near] += 2 * self.tolerance * self._displacements(numbers[near])
        return goals

    def _random_rows(self, choice: np.ndarray) -> np.ndarray:
        """Map numbers in [0, 1) to rows of the episodes, all equally likely."""
        drawn = (choice * self._before[-1]).astype(np.int64)
        episode = np.searchsorted(self._before, drawn, side="right")
        rows: np.ndarray = self.episodes.ends[episode] - (self._before[episode] - drawn)
        return rows

    def _displacements(self, numbers: np.ndarray) -> Float[np.ndarray, "batch goal"]:
        """Return vectors of random direction with lengths uniform in [0, 1)."""
        size = len(self.goal_features)
        pairs = [(uniform(numbers, 3 + 2 * k), uniform(numbers, 4 + 2 * k)) for k in range(size)]
        # Box & Muller (1958): vectors of normal numbers have a uniform direction.
        normal = np.stack(
            [np.sqrt(-2 * np.log1p(-u)) * np.cos(2 * math.pi * v) for u, v in pairs], axis=-1
        )
        length = np.sqrt(np.square(normal).sum(axis=-1, keepdims=True))
        scaled: np.ndarray = uniform(numbers, 2)[:, None] * normal / np.maximum(length, 1e-30)
        return scaled.astype(np.float32)


def check_goal_features(goal_features: Sequence[int], *, features: int) -> list[int]:
    """Return `goal_features` as a list; raise unless they are features of an observation."""
    numbers = [] if isinstance(goal_features, str) else list(goal_features)
    whole = all(hasattr(i, "__index__") and not isinstance(i, bool) for i in numbers)
    if not (
        numbers
        and whole
        and len(set(numbers)) == len(numbers)
        and all(0 <= int(i) < features for i in numbers)
    ):
        raise PgdiffError(
            "`goal_features` must be different features of an observation, from 0 to "
            f"{features - 1}. Got {goal_features!r}."
        )
    return [int(i) for i in numbers]


def check_shares(future: float, near: float) -> tuple[float, float]:
    """Return both shares, or raise if one of them or the remaining share is not in [0, 1]."""
    future = check_range("future", future, low=0.0, high=1.0)
    near = check_range("near", near, low=0.0, high=1.0)
    if future + near > 1 + 1e-9:
        raise PgdiffError(
            "`near` and `future` must sum to at most 1; random goals are the rest. "
            f"Got {near} and {future}."
        )
    return future, near


def uniform(numbers: Int[np.ndarray, " batch"], stream: int) -> Float[np.ndarray, " batch"]:
    """Return a deterministic pseudo-random number in [0, 1) for each integer.

    Args:
        numbers: non-negative integers.
        stream: number of the stream; different streams are independent.
    """
    step = np.uint64((stream + 1) * 0x9E3779B97F4A7C15 % 2**64)
    bits = _mix(_mix(numbers.astype(np.uint64)) + step)
    drawn: np.ndarray = (bits >> np.uint64(11)).astype(np.float64) * 2.0**-53
    return drawn


def _mix(x: np.ndarray) -> np.ndarray:
    """Scramble 64 bits (SplitMix64: Steele, Lea and Flood 2014, figure 15; Stafford's mix 13)."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    mixed: np.ndarray = x ^ (x >> np.uint64(31))
    return mixed


def _geometric(choice: np.ndarray, most: np.ndarray, discount: float) -> np.ndarray:
    """Draw k in 1 to `most` with odds `discount**k`, by the inverse distribution function."""
    share = choice * -np.expm1(most * math.log(discount))
    steps = 1 + np.floor(np.log1p(-share) / math.log(discount)).astype(np.int64)
    cut: np.ndarray = np.minimum(steps, most)
    return cut
