"""Detection of time limits that were recorded as terminals."""

from collections.abc import Mapping

import numpy as np

from pgdiff.data.checks import Source
from pgdiff.data.episode_boundaries import episode_bounds
from pgdiff.data.schema import Problem

_EPISODES = 3
"""Least number of episodes of the greatest length."""

_SPIKE = 3
"""Least ratio of the frequency of the greatest length to those of the lengths just below it."""


def time_limit_hint(fields: Mapping[str, Source]) -> list[Problem]:
    """Return a hint if terminals look like a time limit, else an empty list.

    Tasks end after varying numbers of steps, a time limit always after the same number: many of the
    episodes with a terminal are exactly as long as the longest, and few are nearly as long. A
    terminal that is also a timeout is not counted.

    Args:
        fields: fields of a valid recording, under their D4RL names.
    """
    terminals, timeouts = (
        np.asarray(fields[name][:]).reshape(-1) != 0
        if name in fields
        else np.zeros(fields["terminals"].shape[0], np.bool_)
        for name in ("terminals", "timeouts")
    )
    starts, ends = episode_bounds(terminals, timeouts)
    last = ends - 1
    ended = terminals[last] & ~timeouts[last]
    lengths = (ends - starts)[ended]
    if not len(lengths) or (longest := int(lengths.max())) == 1:
        return []
    counts = np.bincount(lengths, minlength=longest + 1)
    most, nearly = int(counts[longest]), int(counts[max(longest - 3, 0) : longest].max())
    if most < _EPISODES or most <= _SPIKE * nearly or longest < (ends - starts).max():
        return []
    return [
        Problem(
            "terminals",
            int(last[ended][lengths == longest][0]),
            f"ends its episode after exactly {longest} rows, like {most} of the {len(lengths)} "
            "episodes with a terminal, and no episode is longer. It may be a time limit, for which "
            "a value of 0 after the end would be wrong.",
            "If it is a time limit, write these marks to `timeouts` instead of `terminals`.",
            hint=True,
        )
    ]
