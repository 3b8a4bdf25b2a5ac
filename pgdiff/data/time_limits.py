"""Time limits that were recorded as terminals."""

from collections.abc import Mapping

import numpy as np

from pgdiff.data.boundaries import episode_bounds
from pgdiff.data.checks import Source
from pgdiff.data.problems import Problem

_EPISODES = 3
"""From how many episodes of the greatest length on."""

_SPIKE = 3
"""How many times as frequent the greatest length is as each of the lengths just below it."""


def time_limit_hint(fields: Mapping[str, Source]) -> list[Problem]:
    """Return a hint where terminals look like a time limit, else an empty list.

    Tasks end after different numbers of steps, a time limit always after the same one: among the
    episodes that a terminal ends, many are exactly as long as the longest, and few nearly so. A
    terminal that is a timeout as well is not counted.

    Args:
        fields: a sound recording's, by their D4RL names.
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
            f"ends its episode after exactly {longest} rows, as {most} of the {len(lengths)} "
            "episodes with a terminal do and none goes on longer: it may be a time limit, after "
            "which values would be taken as 0.",
            "If it is one, write these marks to `timeouts` in place of `terminals`.",
            hint=True,
        )
    ]
