"""Export to d3rlpy's `MDPDataset` without losing the last transition of an episode."""

import numpy as np

from pgdiff.core.validation import PgdiffError
from pgdiff.data.episodes import Episodes


def to_mdp_arrays(episodes: Episodes) -> dict[str, np.ndarray]:
    """Return arguments of `d3rlpy.dataset.MDPDataset` that preserve every transition.

    `MDPDataset` stores no next observations: it uses the next row, so an episode of T rows that
    ends in a timeout yields T - 1 transitions. Such an episode gets one more row here, with the
    last recorded next observation, the last action and reward 0; action and reward of that row are
    not part of a transition. An episode that ends in a terminal yields T transitions unchanged.

    Returns:
        `observations` and `actions` float32, `rewards` `[rows, 1]` float32, `terminals` and
        `timeouts` `[rows]` float32.

    Raises:
        PgdiffError: if a recorded next observation within an episode is not the observation of the
            next row.

    Example:
        >>> from pgdiff.data import to_mdp_arrays
        >>> from pgdiff.testing import example_episodes
        >>> arrays = to_mdp_arrays(example_episodes(episodes=2, steps=10))
        >>> arrays["observations"].shape, arrays["rewards"].shape
        ((22, 4), (22, 1))
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
                "`next_observations` must equal the observation of the next row, because d3rlpy "
                f"stores no others. Got another in row {wrong[0]}. Set a timeout in that row."
            )
    added = last[~fields["terminals"][last]] if after is not None else np.zeros(0, np.int64)
    # These rows occur twice: unchanged, and as the added row after them.
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
