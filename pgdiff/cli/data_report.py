"""What `pgdiff info` says of recorded data: fields, episodes, and what looks wrong."""

import contextlib
import tempfile

import numpy as np

from pgdiff.data import Episodes, check, load_episodes
from pgdiff.data.checks import NO_END
from pgdiff.data.load import is_cached
from pgdiff.data.quality import Quality, quality
from pgdiff.data.statistics import episode_returns, field_statistics
from pgdiff.validation import PgdiffError

_MOST_FEATURES = 40
_MOST_ROWS = 5


def describe(source: str) -> list[str]:
    """The lines of the report on a data file or a Minari data set."""
    with contextlib.ExitStack() as stack:
        # Nothing is left beside a file that is only looked at.
        cache = None
        if not is_cached(source):
            cache = stack.enter_context(tempfile.TemporaryDirectory(prefix="pgdiff-"))
        lines = [f"data: {source}"]
        try:
            episodes = load_episodes(source, cache_dir=cache, repair=True)
        except PgdiffError as error:
            if NO_END.message not in str(error):
                raise
            lines.append(f"no end of an episode: {NO_END.mend}")
            episodes = load_episodes(source, cache_dir=cache, join_continuous=True, repair=True)
        else:
            lines += [f"{'hint' if p.hint else 'fault'}: {p}" for p in check(source)]
        if any(line.startswith("fault: ") for line in lines):
            lines.append("the rest is of the recording as repair=True reads it")
        return lines + _episodes(episodes) + _fields(episodes) + _quality(quality(episodes))


def _episodes(episodes: Episodes) -> list[str]:
    lengths, returns = episodes.lengths, episode_returns(episodes)
    ended = episodes.terminals | episodes.timeouts
    lines = [
        f"steps: {episodes.steps}",
        f"episodes: {len(episodes)}, of {lengths.min()} to {lengths.max()} steps, "
        f"mean {lengths.mean():.1f}",
        f"ends: {episodes.terminals.sum()} terminals, {episodes.timeouts.sum()} timeouts"
        f"{'' if ended[-1] else ', the last episode is unfinished'}",
        f"returns: {returns.min():.4g} to {returns.max():.4g}, mean {returns.mean():.4g}, "
        f"std {returns.std():.4g}",
    ]
    layout = episodes.observation_layout
    if layout is not None:
        fields = ", ".join(f"{name} [{size}]" for name, size in layout.fields)
        goal = "" if layout.goal is None else f"; goal {layout.goal[0]} [{layout.goal[1]}]"
        lines.append(f"observations of a Dict: {fields}{goal}")
    return lines


def _fields(episodes: Episodes) -> list[str]:
    lines = []
    for name, values in episodes.fields().items():
        if name in ("terminals", "timeouts"):
            continue
        found = field_statistics(values)
        lines.append(f"{name} {list(found.shape)}:")
        for i in range(min(len(found.low), _MOST_FEATURES)):
            feature = "" if values.ndim == 1 else f"{i}: "
            lines.append(
                f"  {feature}{found.low[i]:.4g} to {found.high[i]:.4g}, mean {found.mean[i]:.4g}, "
                f"std {found.std[i]:.4g}{', constant' if i in found.constant else ''}"
            )
        if len(found.low) > _MOST_FEATURES:
            lines.append(
                f"  and {len(found.low) - _MOST_FEATURES} more, {len(found.constant)} of all "
                "constant"
            )
    return lines


_JUDGED = {
    -1: "rewards[t] judges observations[t - 1]: one step late",
    0: "rewards[t] judges observations[t], as in D4RL's maze2d",
    1: "rewards[t] judges observations[t + 1], where the step has led to",
}


def _quality(found: Quality) -> list[str]:
    lines = ["quality:", _jumps(found.jumps)]
    if len(found.other_successors):
        lines.append(
            f"  next observations that are not the next row's: {_rows(found.other_successors)}"
        )
    if found.ends and found.ends_known:
        going_on = f"  ends after which the recording goes on: {found.continuing_ends}"
        line = f"{going_on} of {found.ends}"
        if found.continuing_ends:
            line += " (join_continuous=true drops them)"
        lines.append(line)
    elif found.ends:
        lines.append(
            f"  ends near the row that follows: {found.continuing_ends} of {found.ends}; without "
            "next_observations nothing tells whether these are resets"
        )
    lines += [
        f"  rows equal to the one before: {found.repeated_rows}; to any earlier one: "
        f"{found.duplicate_rows}",
        "  actions at the lowest or highest recorded: "
        + ", ".join(f"{100 * share:.2g} %" for share in found.actions_at_bounds),
    ]
    if found.reward_shift is not None:
        lines.append(f"  {_JUDGED[found.reward_shift]}")
    return lines


def _jumps(rows: np.ndarray) -> str:
    if not len(rows):
        return "  jumps inside episodes: none"
    return f"  jumps inside episodes: {_rows(rows)}; an episode may end there without a mark"


def _rows(rows: np.ndarray) -> str:
    shown = ", ".join(str(row) for row in rows[:_MOST_ROWS])
    more = ", …" if len(rows) > _MOST_ROWS else ""
    return f"{len(rows)}, after row{'s' * (len(rows) > 1)} {shown}{more}"
