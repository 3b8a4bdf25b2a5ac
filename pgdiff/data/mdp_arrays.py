"""Rows as d3rlpy's `MDPDataset` takes them: arrays whose last rows are not lost."""

import numpy as np

from pgdiff.data.episodes import Episodes
from pgdiff.validation import PgdiffError


def to_mdp_arrays(episodes: Episodes) -> dict[str, np.ndarray]:
    """Return the arguments of `d3rlpy.dataset.MDPDataset`, so that it makes every transition.

    It has no column of next observations: a row's is the next row, and an episode of T rows that a
    timeout ends makes T - 1 transitions. Here such an episode gets one more row, which holds the
    last recorded next observation; its own action, the last one again, and reward, 0, are in no
    transition. Single transitions become episodes of two rows so. What a terminal ends makes T
    transitions as it is.

    Returns:
        `observations` and `actions` float32, `rewards` `[rows, 1]` float32, `terminals` and
        `timeouts` `[rows]` float32.

    Raises:
        PgdiffError: a recorded next observation that is not the next row's observation, within an
            episode; the row is named.
    """
    fields = episodes.fields()
    lengths = episodes.lengths
    ends = np.cumsum(lengths)
    last = ends - 1
    after = fields.get("next_observations")
    inside = np.setdiff1d(np.arange(len(fields["observations"])), last)
    if after is not None:
        wrong = inside[(after[inside] != fields["observations"][inside + 1]).any(axis=1)]
        if len(wrong):
            raise PgdiffError(
                "`next_observations` must be the next row's observation, which is all that d3rlpy "
                f"keeps. Got another in row {wrong[0]}. Split the episode there by a timeout."
            )
    added = last[~fields["terminals"][last]] if after is not None else np.zeros(0, np.int64)
    # Each of these rows stands twice: as it is, and as the row after it.
    counts = np.ones(ends[-1], np.int64)
    counts[added] = 2
    rows = np.repeat(np.arange(ends[-1]), counts)
    extra = np.zeros(len(rows), bool)
    extra[added + np.arange(1, len(added) + 1)] = True
    observations = np.array(fields["observations"][rows], np.float32)
    rewards = np.array(fields["rewards"][rows], np.float32)
    timeouts = np.zeros(len(rows), np.float32)
    if after is not None:
        observations[extra] = after[added]
        rewards[extra] = 0
        timeouts[extra] = 1
    else:
        timeouts[last] = ~fields["terminals"][last]
    return {
        "observations": observations,
        "actions": np.array(fields["actions"][rows], np.float32),
        "rewards": rewards[:, None],
        "terminals": np.array(fields["terminals"][rows], np.float32),
        "timeouts": timeouts,
    }
