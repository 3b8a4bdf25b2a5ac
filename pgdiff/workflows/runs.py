"""Run folders: what `run.json` says, who may write where, and what remains to be done."""

import json
import shutil
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from pgdiff.planning.from_run import RUN, RUN_FORMAT, RunInfo, StageRecord, read_run
from pgdiff.validation import PgdiffError
from pgdiff.workflows.files import write_json

# Settings of a trainer that do not change what comes out; the last two where there is no `best`.
_FREE = {"checkpoint_every", "keep", "compile", "workers", "threads", "on_nan", "max_skips"}
_RECORDS = {"validate_every", "log_every"}


def write_run(info: RunInfo) -> Path:
    """Write `run.json`, whole or not at all."""
    content = asdict(info) | {
        "format": RUN_FORMAT,
        "status": "finished" if info.finished else "started",
    }
    del content["path"]
    return write_json(info.path / RUN, content)


def logs(info: RunInfo, stage: str) -> Path:
    """Return the folder of a stage's metrics and checkpoints."""
    return info.path / "logs" / stage


def last_metrics(info: RunInfo, stage: str) -> dict[str, Any]:
    """Return the last record of a stage's `metrics.jsonl`; empty where there is none."""
    try:
        for line in reversed((logs(info, stage) / "metrics.jsonl").read_text().splitlines()):
            try:
                record: dict[str, Any] = json.loads(line)
                return record
            except ValueError:  # torn by a crash
                continue
    except OSError:
        pass
    return {}


def claim(info: RunInfo, *, add: bool, resume: bool, overwrite: bool) -> RunInfo:
    """Decide what of a run remains to be done; nothing is written or removed here.

    Args:
        info: the run that is asked for, none of its stages finished.
        add: whether its stages are added to the run that is there.
        resume: whether to go on with what is there.
        overwrite: whether what is there may be replaced.

    Returns:
        The run with the stages that are there, finished or not, and those that are new.

    Raises:
        PgdiffError: the folder is taken, and neither `resume` nor `overwrite` says what to do; or
            it is no run folder; or a stage that is there has other settings.
    """
    if resume and overwrite:
        raise PgdiffError("`resume` and `overwrite` must not both be true.")
    folder = info.path
    if add:
        return _added(read_run(folder), info, resume=resume, overwrite=overwrite)
    if folder.exists() and not folder.is_dir():
        raise PgdiffError(f"`out` must be a folder. '{folder}' is a file.")
    if not folder.exists() or all(entry.name.startswith(".") for entry in folder.iterdir()):
        return info
    if not (folder / RUN).is_file():
        raise PgdiffError(
            f"`out` must be free. '{folder}' holds other things and no {RUN}: name another folder."
        )
    if overwrite:
        return info
    previous = read_run(folder)
    if resume:
        return _resumed(previous, info)
    if previous.finished:
        raise PgdiffError(
            f"The run '{folder}' is finished. overwrite=true starts anew, out=FOLDER names "
            "another (resume=true is for a run that was cut off)."
        )
    begun = ", ".join(stage.name for stage in previous.stages if not stage.finished)
    raise PgdiffError(
        f"The run '{folder}' was cut off; unfinished: {begun}. resume=true goes on with it, "
        "overwrite=true starts anew."
    )


def _resumed(previous: RunInfo, info: RunInfo) -> RunInfo:
    if previous.task.get("name") != info.task.get("name"):
        raise PgdiffError(
            f"`task` must be '{previous.task.get('name')}', as in '{previous.path}', to resume. "
            f"Got '{info.task.get('name')}'."
        )
    for key in ("steps", "episodes"):
        if previous.data.get(key) != info.data[key]:
            raise PgdiffError(
                f"`data` must be of {previous.data.get(key)} {key}, as in '{previous.path}', to "
                f"resume. Got {info.data[key]}."
            )
    if previous.data.get("sha256", info.data["sha256"]) != info.data["sha256"]:
        raise PgdiffError(
            f"`data` must hold the very rows that '{previous.path}' was begun with, to resume. "
            "Some have changed: give the former data, or train another run with out=FOLDER."
        )
    for stage in info.stages:
        present = previous.stage(stage.name)
        if present is not None:
            _check_same(present, stage, previous.path)
    known = {stage.name for stage in previous.stages}
    new = tuple(stage for stage in info.stages if stage.name not in known)
    return replace(previous, stages=(*previous.stages, *new))


def _added(previous: RunInfo, info: RunInfo, *, resume: bool, overwrite: bool) -> RunInfo:
    if previous.task.get("name") != info.task.get("name"):
        raise PgdiffError(
            f"`task` must be that of the run '{previous.path}', '{previous.task.get('name')}'. "
            f"Got '{info.task.get('name')}'."
        )
    stages = list(previous.stages)
    for stage in info.stages:
        present = previous.stage(stage.name)
        if present is None:
            stages.append(stage)
        elif overwrite:
            stages[stages.index(present)] = stage
        elif resume:
            _check_same(present, stage, previous.path)
        else:
            raise PgdiffError(
                f"The run '{previous.path}' has a stage '{stage.name}' already. overwrite=true "
                "trains it anew, resume=true goes on with it where it was cut off."
            )
    known = [data["least_reward"] for data in (previous.data, info.data) if "least_reward" in data]
    return replace(
        previous,
        data={**previous.data, "least_reward": min(known)} if known else previous.data,
        stages=tuple(stages),
        guides={**previous.guides, **info.guides},
        guide=previous.guide or info.guide,
    )


def _check_same(present: StageRecord, stage: StageRecord, folder: Path) -> None:
    """Raise an error if a stage that is there was begun with other settings."""
    for key, (old, new) in _differences(present, stage):
        raise PgdiffError(
            f"`{key}` of the stage '{stage.name}' must be {old!r}, as in '{folder}', to go on with "
            f"it. Got {new!r}. overwrite=true starts anew."
        )


def _differences(present: StageRecord, stage: StageRecord) -> Sequence[tuple[str, tuple[Any, Any]]]:
    # Through JSON, as what is there has come: tuples are lists there.
    old, new = (json.loads(json.dumps(asdict(record))) for record in (present, stage))
    pairs = [(key, (old[key], new[key])) for key in ("learner", "seed", "synthetic")]
    of_trainer = _FREE if new["trainer"].get("best") else _FREE | _RECORDS
    for part, free in (("arguments", set()), ("trainer", of_trainer)):
        keys = {**old[part], **new[part]}
        pairs += [(k, (old[part].get(k), new[part].get(k))) for k in keys if k not in free]
    return [(key, values) for key, values in pairs if values[0] != values[1]]


def remove(path: Path) -> None:
    """Remove a folder if it is there; under its name it vanishes at once.

    What a killed removal has left goes as well.
    """
    hidden = path.with_name(f".{path.name}.removed")
    shutil.rmtree(hidden, ignore_errors=True)
    if path.exists():
        path.rename(hidden)
        shutil.rmtree(hidden)
