"""Writing of run folders: `run.json`, checks of existing folders, and removal."""

import json
import shutil
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from pgdiff.core.serialization import write_json
from pgdiff.core.validation import PgdiffError
from pgdiff.runs.run import RUN, RUN_FORMAT, RunInfo, StageRecord, read_run

# Settings of a trainer that do not change its result; those in `_RECORDS` change it with `best`.
_FREE = {"checkpoint_every", "keep", "compile", "workers", "threads", "on_nan", "max_skips"}
_RECORDS = {"validate_every", "log_every"}


def write_run(info: RunInfo) -> Path:
    """Write `run.json` in one step, so that it is never incomplete."""
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
    """Return the last record of a stage's `metrics.jsonl`; an empty dict without one."""
    try:
        for line in reversed((logs(info, stage) / "metrics.jsonl").read_text().splitlines()):
            try:
                record: dict[str, Any] = json.loads(line)
                return record
            except ValueError:  # incomplete after a crash
                continue
    except OSError:
        pass
    return {}


def claim(info: RunInfo, *, add: bool, resume: bool, overwrite: bool) -> RunInfo:
    """Return a requested run merged with the content of its folder; write nothing.

    Args:
        info: requested run, without finished stages.
        add: whether its stages are added to an existing run.
        resume: whether an existing run is continued.
        overwrite: whether an existing run may be replaced.

    Returns:
        The run with the existing stages, finished or not, and the new stages.

    Raises:
        PgdiffError: the folder is not free, and neither `resume` nor `overwrite` is true; it is not
            a run folder; or an existing stage has other settings.
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
            f"`out` must be a new folder or a run folder. '{folder}' contains other files and no "
            f"{RUN}. Choose another folder."
        )
    if overwrite:
        return info
    previous = read_run(folder)
    if resume:
        return _resumed(previous, info)
    if previous.finished:
        raise PgdiffError(
            f"The run '{folder}' is finished. Set overwrite=true to replace it, or out=FOLDER to "
            "train another (resume=true is for an interrupted run)."
        )
    unfinished = ", ".join(stage.name for stage in previous.stages if not stage.finished)
    raise PgdiffError(
        f"The run '{folder}' was interrupted; unfinished: {unfinished}. Set resume=true to "
        "continue it, or overwrite=true to replace it."
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
                f"`data` must have {previous.data.get(key)} {key}, as in '{previous.path}', to "
                f"resume. Got {info.data[key]}."
            )
    if previous.data.get("sha256", info.data["sha256"]) != info.data["sha256"]:
        raise PgdiffError(
            f"`data` must hold the rows with which '{previous.path}' was started, to resume. Some "
            "rows differ. Pass the original data, or train another run with out=FOLDER."
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
            f"`task` must be '{previous.task.get('name')}', as in '{previous.path}', to add "
            f"stages. Got '{info.task.get('name')}'."
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
                f"The run '{previous.path}' already has a stage '{stage.name}'. Set overwrite=true "
                "to train it again, or resume=true to continue its training."
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
    """Raise if an existing stage was started with other settings."""
    for key, (old, new) in _differences(present, stage):
        raise PgdiffError(
            f"`{key}` of the stage '{stage.name}' must be {old!r}, as in '{folder}', to resume. "
            f"Got {new!r}. Set overwrite=true to train the stage again."
        )


def _differences(present: StageRecord, stage: StageRecord) -> Sequence[tuple[str, tuple[Any, Any]]]:
    # Converted to JSON and back, as the existing record was: tuples become lists.
    old, new = (json.loads(json.dumps(asdict(record))) for record in (present, stage))
    pairs = [(key, (old[key], new[key])) for key in ("learner", "seed", "synthetic")]
    of_trainer = _FREE if new["trainer"].get("best") else _FREE | _RECORDS
    for part, free in (("arguments", set()), ("trainer", of_trainer)):
        keys = {**old[part], **new[part]}
        pairs += [(k, (old[part].get(k), new[part].get(k))) for k in keys if k not in free]
    return [(key, values) for key, values in pairs if values[0] != values[1]]


def remove(path: Path) -> None:
    """Remove a folder if it exists; it is renamed first, so that it is never incomplete.

    The remains of an interrupted removal are removed too.
    """
    hidden = path.with_name(f".{path.name}.removed")
    shutil.rmtree(hidden, ignore_errors=True)
    if path.exists():
        path.rename(hidden)
        shutil.rmtree(hidden)
