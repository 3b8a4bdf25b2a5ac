"""Report of episodes that are too short to give a training example."""

from collections.abc import Iterable
from typing import TYPE_CHECKING

import numpy as np

from pgdiff.training.learner import BatchSource, Learner

if TYPE_CHECKING:
    from pgdiff.data import Episodes


def unused_episodes(
    learner: Learner, episodes: "Episodes", sources: Iterable[BatchSource | None]
) -> str | None:
    """Return a message if some episodes are too short to give an example; else None.

    Args:
        learner: the learner of the examples.
        episodes: the recording, including the held-out episodes.
        sources: training and held-out examples. None is returned if a source has no
            `episode_starts`.
    """
    starts = [getattr(source, "episode_starts", None) for source in sources if source is not None]
    present = [rows for rows in starts if rows is not None]
    if len(present) < len(starts) or not present:
        return None
    used = np.zeros(len(episodes), np.bool_)
    order = np.argsort(episodes.starts, kind="stable")
    rows = np.concatenate(present)
    used[order[np.searchsorted(episodes.starts[order], rows, side="right") - 1]] = True
    if used.all():
        return None
    lengths = episodes.lengths
    return (
        f"{type(learner).__name__} learns from {used.sum()} of {len(used)} episodes "
        f"({lengths[used].sum()} of {lengths.sum()} rows). The other episodes are too short: "
        f"the longest of them has {lengths[~used].max()} rows. Use a shorter horizon or stride to "
        "train on more episodes."
    )
