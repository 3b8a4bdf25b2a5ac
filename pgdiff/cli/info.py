"""`pgdiff info`: a report on a data file, a saved network or a run folder."""

import contextlib
import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from pgdiff.cli.train import stage_lines
from pgdiff.core.pretrained import load_learner
from pgdiff.core.registry import to_config
from pgdiff.core.serialization import CONFIG, load_folder
from pgdiff.core.validation import PgdiffError
from pgdiff.data import Episodes, check, load_episodes
from pgdiff.data.checks import NO_END
from pgdiff.data.loading import find_recording, is_cached
from pgdiff.data.quality import Quality, episode_returns, field_statistics, quality
from pgdiff.model import TrajectoryDiffusion
from pgdiff.runs.run import RUN, read_run

_MOST_FEATURES = 40
_MOST_ROWS = 5


def describe(source: str) -> list[str]:
    """Return the lines of a report on a data file or a Minari data set."""
    with contextlib.ExitStack() as stack:
        # A report must not leave a cache next to the file.
        cache = None
        if not is_cached(source):
            cache = stack.enter_context(tempfile.TemporaryDirectory(prefix="pgdiff-"))
        lines = [f"data: {source}"]
        try:
            episodes = load_episodes(source, cache_dir=cache, repair=True)
        except PgdiffError as error:
            if NO_END.message not in str(error):
                raise
            lines.append(f"no end of an episode: {NO_END.fix}")
            episodes = load_episodes(source, cache_dir=cache, join_continuous=True, repair=True)
        else:
            lines += [f"{'hint' if p.hint else 'problem'}: {p}" for p in check(source)]
        if any(line.startswith("problem: ") for line in lines):
            lines.append("the lines below describe the recording as read with repair=True")
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
        lines.append(f"Dict observations: {fields}{goal}")
    return lines


def _fields(episodes: Episodes) -> list[str]:
    lines = []
    for name, values in episodes.fields().items():
        if name in ("terminals", "timeouts"):
            continue
        stats = field_statistics(values)
        lines.append(f"{name} {list(stats.shape)}:")
        for i in range(min(len(stats.low), _MOST_FEATURES)):
            feature = "" if values.ndim == 1 else f"{i}: "
            lines.append(
                f"  {feature}{stats.low[i]:.4g} to {stats.high[i]:.4g}, mean {stats.mean[i]:.4g}, "
                f"std {stats.std[i]:.4g}{', constant' if i in stats.constant else ''}"
            )
        if len(stats.low) > _MOST_FEATURES:
            lines.append(
                f"  and {len(stats.low) - _MOST_FEATURES} more; {len(stats.constant)} features "
                "are constant"
            )
    return lines


_REWARD_SHIFTS = {
    -1: "rewards[t] belongs to observations[t - 1]: one step late",
    0: "rewards[t] belongs to observations[t], as in D4RL's maze2d",
    1: "rewards[t] belongs to observations[t + 1], the result of the step",
}


def _quality(report: Quality) -> list[str]:
    lines = ["quality:", _jumps(report.jumps)]
    if len(report.other_successors):
        lines.append(
            f"  next observations that differ from the next row: {_rows(report.other_successors)}"
        )
    if report.ends and report.ends_known:
        line = (
            f"  ends after which the recording continues: {report.continuing_ends} of {report.ends}"
        )
        if report.continuing_ends:
            line += " (join_continuous=true drops them)"
        lines.append(line)
    elif report.ends:
        lines.append(
            f"  ends close to the next row: {report.continuing_ends} of {report.ends}; without "
            "next_observations it is unknown whether they are resets"
        )
    lines += [
        f"  rows equal to the previous row: {report.repeated_rows}; to any earlier row: "
        f"{report.duplicate_rows}",
        "  actions at the lowest or highest recorded value: "
        + ", ".join(f"{100 * share:.2g} %" for share in report.actions_at_bounds),
    ]
    if report.reward_shift is not None:
        lines.append(f"  {_REWARD_SHIFTS[report.reward_shift]}")
    return lines


def _jumps(rows: np.ndarray) -> str:
    if not len(rows):
        return "  jumps inside episodes: none"
    return f"  jumps inside episodes: {_rows(rows)}; these may be ends of episodes without a mark"


def _rows(rows: np.ndarray) -> str:
    shown = ", ".join(str(row) for row in rows[:_MOST_ROWS])
    more = ", …" if len(rows) > _MOST_ROWS else ""
    return f"{len(rows)}, after row{'s' * (len(rows) > 1)} {shown}{more}"


def run(path: str) -> int:
    """Print a report on a path."""
    source = Path(path)
    if (source / RUN).is_file():
        lines = _run(source)
    elif (source / CONFIG).is_file():
        lines = _network(source)
    elif source.is_file() or find_recording(path).exists:
        lines = describe(path)
    elif source.is_dir():
        raise PgdiffError(
            "`pgdiff info` describes data files, Minari data sets, saved networks and run folders. "
            f"'{path}' contains neither {RUN} nor {CONFIG} nor data."
        )
    else:
        raise PgdiffError(f"The file or folder '{path}' does not exist.")
    print("\n".join(lines))
    return 0


def _network(path: Path) -> list[str]:
    config, _ = load_folder(path)
    learner = load_learner(path, device="cpu")
    settings = _without_kinds(to_config(learner))
    count = sum(parameter.numel() for parameter in learner.parameters())
    lines = [
        f"network: {path}",
        f"kind: {settings.pop('name')} ({type(learner).__name__})",
        f"parameters: {count}",
        f"format: {config['format']}, written by pgdiff {config['version']}",
    ]
    if isinstance(learner, TrajectoryDiffusion):
        layout = getattr(learner.codec, "layout", None)
        if layout is not None:
            fields = ", ".join(f"{name} [{size}]" for name, size in layout.fields)
            lines.append(
                f"layout: {layout.horizon} tokens of {fields}, {layout.stride} steps apart"
            )
        lines.append(f"in-painting patterns: {', '.join(learner.patterns) or 'none'}")
    return lines + [f"{key}: {json.dumps(value)}" for key, value in settings.items()]


def _without_kinds(value: Any) -> Any:
    """Return a configuration without the kinds of its parts, which the keys show already."""
    if isinstance(value, Mapping):
        return {key: _without_kinds(item) for key, item in value.items() if key != "kind"}
    return [_without_kinds(item) for item in value] if isinstance(value, list) else value


def _run(path: Path) -> list[str]:
    info = read_run(path)
    task = {key: value for key, value in info.task.items() if key not in ("name", "steps")}
    data = info.data
    return [
        f"run folder: {path}",
        f"task: {info.task.get('name')} ({', '.join(f'{k} {v}' for k, v in task.items())})",
        f"recipe: {info.recipe}, seed {info.seed}, written by pgdiff {info.version}",
        f"data: {data.get('path')}, {data.get('steps')} steps, {data.get('episodes')} episodes",
        f"status: {'finished' if info.finished else 'started'}",
        *stage_lines(info),
        f"planner: {json.dumps(info.planner)}",
        f"guides: {json.dumps(info.guides)}, by default {info.guide or 'none'}",
    ]
