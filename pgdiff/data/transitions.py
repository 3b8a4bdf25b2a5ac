"""Transitions of recorded episodes: observation, action, reward and next observation."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from pgdiff.core.validation import PgdiffError, check_positive_int, check_range
from pgdiff.data.episodes import Episodes
from pgdiff.data.returns import chunk_rewards


class TransitionBatch(NamedTuple):
    """Batch of transitions in raw units, different for every copy.

    Attributes:
        observation: `[batch, copies, obs]` float32.
        action: `[batch, copies, act]` float32.
        reward: `[batch, copies]` float32, discounted and summed over the transition's steps.
        next_observation: `[batch, copies, obs]` float32; arbitrary after a terminal.
        ongoing: `[batch, copies]` float32, 0 if the task ended within the transition, else 1.
        next_action: `[batch, copies, ...]` float32, the action at the next observation; None if it
            was not requested.
    """

    observation: Float[np.ndarray, "batch copies obs"]
    action: Float[np.ndarray, "batch copies act"]
    reward: Float[np.ndarray, "batch copies"]
    next_observation: Float[np.ndarray, "batch copies obs"]
    ongoing: Float[np.ndarray, "batch copies"]
    next_action: Float[np.ndarray, "batch copies ..."] | None


class TransitionDataset:
    """All transitions of some episodes, as batches of NumPy arrays.

    The next observation comes from `next_observations` if the recording has them, else from the
    next row of the episode. Transitions with a terminal are always kept; transitions that were cut
    off (by a timeout or the end of the recording) before their next observation was recorded are
    dropped.

    Args:
        episodes: the recording.
        copies: number of learners that are trained in parallel. For the same indices, copy c gets
            the transitions `c * len / copies` further on (a permutation), so that the minibatches
            of the copies have the same distribution and differ.
        steps: rows of a transition, at least 1.
        discount: discount of the rewards within a transition, in (0, 1].
        next_actions: `[rows, ...]` float32, the action at each row of `successors(episodes)`.

    Raises:
        PgdiffError: if an argument is out of range, or there are no transitions.

    Example:
        >>> from pgdiff.data.transitions import TransitionDataset
        >>> from pgdiff.testing import example_episodes
        >>> transitions = TransitionDataset(example_episodes(episodes=2, steps=10))
        >>> len(transitions), transitions.batch([0, 1]).reward.shape
        (20, (2, 1))
    """

    def __init__(
        self,
        episodes: Episodes,
        *,
        copies: int = 1,
        steps: int = 1,
        discount: float = 1.0,
        next_actions: Float[np.ndarray, "rows ..."] | None = None,
    ) -> None:
        self.episodes = episodes
        self.copies = check_positive_int("copies", copies)
        self.steps = check_positive_int("steps", steps)
        check_range("discount", discount, low=0.0, high=1.0, open_low=True)
        self._successors = successors(episodes)
        if next_actions is not None and len(next_actions) != len(self._successors):
            raise PgdiffError(
                f"`next_actions` must have {len(self._successors)} rows, one per observation. "
                f"Got {len(next_actions)}."
            )
        self._next_actions = next_actions
        # A recorded next observation is stored in the last row of the transition.
        self._ahead = steps if episodes.next_observations is None else steps - 1
        self._rows, self._ongoing = _find_transitions(episodes, steps=steps, ahead=self._ahead)
        if not len(self._rows):
            raise PgdiffError(
                f"The {len(episodes)} episodes hold no transition of {steps} steps: none is long "
                "enough or ends in a terminal. Record longer episodes or `next_observations`."
            )
        # The sums of rows outside the episodes are NaN; they are not in any transition.
        self._rewards = episodes.rewards if steps == 1 else chunk_rewards(episodes, steps, discount)

    def __len__(self) -> int:
        return len(self._rows)

    @property
    def episode_starts(self) -> Int[np.ndarray, " episodes"]:
        """First row of each episode that contains examples."""
        used = np.zeros(self.episodes.steps, np.bool_)
        used[self._rows] = True
        starts: np.ndarray = self.episodes.starts[used[self.episodes.starts]]
        return starts

    @property
    def ongoing(self) -> Bool[np.ndarray, " transitions"]:
        """Mask of the transitions after which the task continues."""
        return self._ongoing

    def changes(self) -> Float[np.ndarray, "ongoing obs"]:
        """Return the change of the observation in each transition with a continuing task."""
        rows = self._rows[self._ongoing]
        after = self._successors.take(rows + self._ahead, axis=0)
        change: np.ndarray = after - self.episodes.observations.take(rows, axis=0)
        return change

    def batch(self, indices: Int[np.ndarray, " batch"]) -> TransitionBatch:
        """Gather the transitions with these numbers.

        Raises:
            PgdiffError: if a number is out of range.
        """
        numbers = spread(indices, len(self), copies=self.copies)
        rows, ongoing = self._rows.take(numbers), self._ongoing.take(numbers)
        after = rows + ongoing * self._ahead
        actions = self._next_actions
        return TransitionBatch(
            self.episodes.observations.take(rows, axis=0),
            self.episodes.actions.take(rows, axis=0),
            self._rewards.take(rows),
            self._successors.take(after, axis=0),
            ongoing.astype(np.float32),
            None if actions is None else actions.take(after, axis=0),
        )


def successors(episodes: Episodes) -> Float[np.ndarray, "rows obs"]:
    """Return the array that next observations are read from: recorded ones, or the observations."""
    recorded = episodes.next_observations
    return episodes.observations if recorded is None else recorded


def spread(
    indices: Int[np.ndarray, " batch"], examples: int, *, copies: int
) -> Int[np.ndarray, "batch copies"]:
    """Return one number per copy for every index, shifted by a different bijection for each copy.

    Raises:
        PgdiffError: if an index is out of range.
    """
    indices = np.asarray(indices, dtype=np.int64)
    if len(indices) and not (indices.min() >= 0 and indices.max() < examples):
        bad = indices[(indices < 0) | (indices >= examples)][0]
        raise PgdiffError(f"`indices` must lie in [0, {examples}). Got {bad}.")
    shifts = np.arange(copies, dtype=np.int64) * examples // copies
    numbers: np.ndarray = (indices[:, None] + shifts) % examples
    return numbers


def rows_of(episodes: Episodes) -> Int[np.ndarray, " rows"]:
    """Return the numbers of all rows that belong to the episodes."""
    lengths = episodes.lengths
    before = np.cumsum(lengths) - lengths
    return np.repeat(episodes.starts - before, lengths) + np.arange(lengths.sum(), dtype=np.int64)


def _find_transitions(
    episodes: Episodes, *, steps: int, ahead: int
) -> tuple[Int[np.ndarray, " transitions"], Bool[np.ndarray, " transitions"]]:
    """Return the first row of every transition, and the mask of those with a continuing task."""
    rows = rows_of(episodes)
    last = np.repeat(episodes.ends - 1, episodes.lengths)
    ended = episodes.terminals[last]
    # Before a terminal, a row `steps` rows later must exist in the episode; else the episode must
    # contain the next observation.
    ongoing = rows + np.where(ended, steps, ahead) <= last
    kept = ongoing | ended
    return rows[kept], ongoing[kept]
