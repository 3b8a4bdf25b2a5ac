"""`pgdiff info`: what a data file, a saved network or a run folder holds."""

import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

import pgdiff.critics
import pgdiff.dynamics
import pgdiff.model  # these three register the networks  # noqa: F401
from pgdiff.cli.train import stage_lines
from pgdiff.data import load_episodes
from pgdiff.planning.from_run import RUN, read_run
from pgdiff.pretrained import load_learner
from pgdiff.saving import CONFIG, load_folder
from pgdiff.validation import PgdiffError


def run(path: str) -> int:
    """Print it."""
    place = Path(path)
    if place.is_file():
        lines = _data(place)
    elif (place / RUN).is_file():
        lines = _run(place)
    elif (place / CONFIG).is_file():
        lines = _network(place)
    elif place.is_dir():
        raise PgdiffError(
            f"`pgdiff info` knows data files, saved networks and run folders. '{path}' holds "
            f"neither {RUN} nor {CONFIG}."
        )
    else:
        raise PgdiffError(f"There is no file or folder '{path}'.")
    print("\n".join(lines))
    return 0


def _data(path: Path) -> list[str]:
    # Nothing is left beside a file that is only looked at.
    with tempfile.TemporaryDirectory(prefix="pgdiff-") as cache:
        episodes = load_episodes(path, cache_dir=cache)
        lengths = episodes.lengths
        lines = [
            f"data file: {path}",
            f"steps: {episodes.steps}",
            f"episodes: {len(episodes)}, of {lengths.min()} to {lengths.max()} steps, "
            f"mean {lengths.mean():.1f}",
            f"mean reward: {episodes.rewards.mean(dtype=np.float64):.4g}",
        ]
        fields = {"observations": episodes.observations, "actions": episodes.actions}
        fields["rewards"] = episodes.rewards
        fields |= {f"infos/{name}": values for name, values in episodes.infos.items()}
        for name, values in fields.items():
            rows = np.asarray(values).reshape(len(values), -1)
            ranges = [
                f"{low:.4g} to {high:.4g}"
                for low, high in zip(rows.min(axis=0), rows.max(axis=0), strict=True)
            ]
            lines.append(f"{name} {list(values.shape)}: {', '.join(ranges)}")
        for name in ("terminals", "timeouts"):
            lines.append(f"{name} [{episodes.steps}]: {getattr(episodes, name).sum()} set")
    return lines


def _network(path: Path) -> list[str]:
    config, _ = load_folder(path)
    learner = load_learner(path, device="cpu")
    described: dict[str, Any] = dict(config["learner"])
    count = sum(parameter.numel() for parameter in learner.parameters())
    lines = [
        f"network: {path}",
        f"kind: {described.pop('name')} ({type(learner).__name__})",
        f"parameters: {count}",
        f"format: {config['format']}, written by pgdiff {config['version']}",
    ]
    layout = getattr(learner, "layout", None)
    if layout is not None:
        fields = ", ".join(f"{name} [{size}]" for name, size in layout.fields)
        lines.append(f"layout: {layout.horizon} tokens of {fields}, {layout.stride} steps apart")
        del described["layout"]
    if "known" in described:
        lines.append(f"trained with these given: {', '.join(described.pop('known'))}")
    return lines + [f"{key}: {json.dumps(value)}" for key, value in described.items()]


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
