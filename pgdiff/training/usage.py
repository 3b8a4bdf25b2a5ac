"""How many of the recorded episodes give an example to learn from."""

from collections.abc import Iterable
from typing import TYPE_CHECKING

import numpy as np

from pgdiff.training.learner import BatchSource, Learner

if TYPE_CHECKING:
    from pgdiff.data import Episodes


def unused_episodes(
    learner: Learner, episodes: "Episodes", sources: Iterable[BatchSource | None]
) -> str | None:
    """Return a message where some episodes are too short to give an example; else None.

    Args:
        learner: whose examples they are.
        episodes: the recording, before a part is held out.
        sources: the examples of all its parts; sources without `episode_starts` are not counted.
    """
    starts = [getattr(source, "episode_starts", None) for source in sources if source is not None]
    known = [rows for rows in starts if rows is not None]
    if len(known) < len(starts) or not known:
        return None
    used = np.zeros(len(episodes), np.bool_)
    order = np.argsort(episodes.starts, kind="stable")
    rows = np.concatenate(known)
    used[order[np.searchsorted(episodes.starts[order], rows, side="right") - 1]] = True
    if used.all():
        return None
    lengths = episodes.lengths
    return (
        f"{type(learner).__name__} learns from {used.sum()} of {len(used)} episodes "
        f"({lengths[used].sum()} of {lengths.sum()} rows). The others are too short for an "
        f"example: the longest of them has {lengths[~used].max()} rows. A shorter horizon or "
        "stride uses more of them."
    )
