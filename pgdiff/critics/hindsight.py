"""Hindsight: recorded pairs of tokens, relabelled with goals that the recording itself holds."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from pgdiff.data import Episodes
from pgdiff.data.segments import segments
from pgdiff.validation import PgdiffError, check_positive_int, check_range

EXAMPLES = 2**22
"""Least number of pairs with a goal; a short recording has many goals for each of its pairs."""


class HindsightBatch(NamedTuple):
    """Neighbouring tokens, a goal and the reward on the way from one to the other; raw units.

    Attributes:
        observations: `[batch, 2, observation]` float32.
        goals: `[batch, goal]` float32.
        rewards: `[batch]` float32, discounted sum over the `stride` rows from the first token on.
    """

    observations: Float[np.ndarray, "batch 2 obs"]
    goals: Float[np.ndarray, "batch goal"]
    rewards: Float[np.ndarray, " batch"]


class HindsightDataset:
    """Pairs of tokens with goals drawn in hindsight (Andrychowicz et al. 2017, section 3.2).

    A state is at a goal where its position, some features of its observation, is at most
    `tolerance` from it; row t is then worth 1, else 0. (As in `collect`, row t's reward judges
    observation t.) Three kinds of goals are mixed:

    - future: the position a number of rows later in the same episode, 1 or more, drawn from the
      geometric distribution of `discount`, cut off at the episode's end: the states that count in
      a discounted value. These goals are reached, later.
    - near: a point at a distance up to `2 tolerance`, uniformly drawn, in any direction from one of
      the `stride` rows of the pair: half of them are reached now. Few others would be where the
      tolerance is small against the world, and the reward is learned where it changes.
    - random: the position of any row. Most are far, or cannot be reached from here at all.

    Everything about an example follows from its number alone: example `i` is the pair
    `i % pairs`, and its goal is drawn by a hash of `i`. So a batch is the same whenever, and in
    whichever process, it is gathered. Nothing is kept for each row of the recording.

    Args:
        episodes: the recording.
        stride: rows between the two tokens.
        position: features of an observation that a goal gives.
        tolerance: largest distance at which a goal counts as reached, raw units.
        discount: per row, in (0, 1).
        future: share of future goals.
        near: share of near goals; the rest is random.

    Raises:
        PgdiffError: an argument out of its range, or no episode of more than `stride` rows.
    """

    def __init__(
        self,
        episodes: Episodes,
        *,
        stride: int,
        position: Sequence[int] = (0, 1),
        tolerance: float = 0.5,
        discount: float = 0.99,
        future: float = 0.4,
        near: float = 0.2,
    ) -> None:
        self.episodes = episodes
        self.position = check_position(position, features=episodes.observations.shape[1])
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
        """First rows of the episodes that examples come from."""
        return self._pairs.starts

    def batch(self, indices: Int[np.ndarray, " batch"]) -> HindsightBatch:
        """Gather the examples of these numbers.

        Raises:
            PgdiffError: a number is out of range.
        """
        numbers = np.asarray(indices, dtype=np.int64)
        if len(numbers) and not (numbers.min() >= 0 and numbers.max() < len(self)):
            bad = numbers[(numbers < 0) | (numbers >= len(self))][0]
            raise PgdiffError(f"`indices` must lie in [0, {len(self)}). Got {bad}.")
        pairs = numbers % len(self._pairs)
        first = self._pairs.rows(pairs)[0][:, 0]
        stride = self._pairs.stride
        way = self.episodes.observations.take(first[:, None] + np.arange(stride + 1), axis=0)
        goals = self._goals(numbers, first, self._pairs.last_rows(pairs))
        # Squares in double precision: a distance at the tolerance is on the side where it is.
        off = way[:, :-1, self.position].astype(np.float64) - goals[:, None]
        reached = np.square(off).sum(axis=-1) <= self.tolerance**2
        rewards = reached @ self.discount ** np.arange(stride)
        return HindsightBatch(way[:, [0, -1]], goals, rewards.astype(np.float32))

    def _goals(
        self, numbers: np.ndarray, first: np.ndarray, last: np.ndarray
    ) -> Float[np.ndarray, "batch goal"]:
        kind, where = uniform(numbers, 0), uniform(numbers, 1)
        future, near = kind < self.future, kind < self.future + self.near
        row = self._random_rows(where)
        row = np.where(near, first + (where * self._pairs.stride).astype(np.int64), row)
        row = np.where(future, first + _geometric(where, last - first, self.discount), row)
        goals = self.episodes.observations.take(row, axis=0)[:, self.position]
        near &= ~future
        goals[near] += 2 * self.tolerance * self._displacements(numbers[near])
        return goals

    def _random_rows(self, where: np.ndarray) -> np.ndarray:
        """Rows of the episodes, each as likely as another."""
        drawn = (where * self._before[-1]).astype(np.int64)
        episode = np.searchsorted(self._before, drawn, side="right")
        rows: np.ndarray = self.episodes.ends[episode] - (self._before[episode] - drawn)
        return rows

    def _displacements(self, numbers: np.ndarray) -> Float[np.ndarray, "batch goal"]:
        """Random directions times distances that are uniform in [0, 1)."""
        size = len(self.position)
        pairs = [(uniform(numbers, 3 + 2 * k), uniform(numbers, 4 + 2 * k)) for k in range(size)]
        # Box & Muller (1958): normal numbers, whose direction is uniform.
        normal = np.stack(
            [np.sqrt(-2 * np.log1p(-u)) * np.cos(2 * math.pi * v) for u, v in pairs], axis=-1
        )
        length = np.sqrt(np.square(normal).sum(axis=-1, keepdims=True))
        scaled: np.ndarray = uniform(numbers, 2)[:, None] * normal / np.maximum(length, 1e-30)
        return scaled.astype(np.float32)


def check_position(position: Sequence[int], *, features: int) -> list[int]:
    """Return `position` as a list if it names features of an observation, each once."""
    numbers = [] if isinstance(position, str) else list(position)
    whole = all(hasattr(i, "__index__") and not isinstance(i, bool) for i in numbers)
    if not (
        numbers
        and whole
        and len(set(numbers)) == len(numbers)
        and all(0 <= int(i) < features for i in numbers)
    ):
        raise PgdiffError(
            f"`position` must be different features of an observation, in 0 to {features - 1}. "
            f"Got {position!r}."
        )
    return [int(i) for i in numbers]


def check_shares(future: float, near: float) -> tuple[float, float]:
    """Return both shares if each, and what they leave, is a share."""
    future = check_range("future", future, low=0.0, high=1.0)
    near = check_range("near", near, low=0.0, high=1.0)
    if future + near > 1 + 1e-9:
        raise PgdiffError(
            "`near` must leave, together with `future`, a share of 0 or more for random goals. "
            f"Got {near} with {future}."
        )
    return future, near


def uniform(numbers: Int[np.ndarray, " batch"], stream: int) -> Float[np.ndarray, " batch"]:
    """Return a number in [0, 1) for each integer, the same one at every call.

    Args:
        numbers: from 0 up.
        stream: numbers of different streams are independent.
    """
    step = np.uint64((stream + 1) * 0x9E3779B97F4A7C15 % 2**64)
    bits = _mixed(_mixed(numbers.astype(np.uint64)) + step)
    drawn: np.ndarray = (bits >> np.uint64(11)).astype(np.float64) * 2.0**-53
    return drawn


def _mixed(x: np.ndarray) -> np.ndarray:
    """Scramble 64 bits (SplitMix64: Steele, Lea and Flood 2014, figure 15; Stafford's mix 13)."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    mixed: np.ndarray = x ^ (x >> np.uint64(31))
    return mixed


def _geometric(where: np.ndarray, most: np.ndarray, discount: float) -> np.ndarray:
    """Numbers k in 1 to `most` with odds `discount**k`, by the inverse of their distribution."""
    share = where * -np.expm1(most * math.log(discount))
    steps = 1 + np.floor(np.log1p(-share) / math.log(discount)).astype(np.int64)
    cut: np.ndarray = np.minimum(steps, most)
    return cut
