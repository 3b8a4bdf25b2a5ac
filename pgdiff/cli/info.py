"""`pgdiff info`: what a data file, a saved network or a run folder holds."""

import json
from pathlib import Path
from typing import Any

import pgdiff.critics
import pgdiff.dynamics
import pgdiff.model  # these three register the networks  # noqa: F401
from pgdiff.cli.data_report import describe
from pgdiff.cli.train import stage_lines
from pgdiff.data.places import find_place
from pgdiff.planning.from_run import RUN, read_run
from pgdiff.pretrained import load_learner
from pgdiff.saving import CONFIG, load_folder
from pgdiff.validation import PgdiffError


def run(path: str) -> int:
    """Print it."""
    place = Path(path)
    if (place / RUN).is_file():
        lines = _run(place)
    elif (place / CONFIG).is_file():
        lines = _network(place)
    elif place.is_file() or find_place(path).exists:
        lines = describe(path)
    elif place.is_dir():
        raise PgdiffError(
            f"`pgdiff info` knows data files, Minari data sets, saved networks and run folders. "
            f"'{path}' holds neither {RUN} nor {CONFIG} nor data."
        )
    else:
        raise PgdiffError(f"There is no file or folder '{path}'.")
    print("\n".join(lines))
    return 0


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
