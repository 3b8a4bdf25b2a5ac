"""Atomic checkpoints, one folder per step, for an exact resume.

`checkpoints/step-00001000/` holds `weights.safetensors`, `ema.safetensors`,
`optimizer.safetensors`, `trainer.json` and a manifest of SHA-256 sums that is written last; the
folder appears by one rename. Random generators need no stored state: batches and noise follow from
the seed and the step.
"""

import shutil
import warnings
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from pgdiff.core.serialization import (
    FORMAT,
    library_version,
    load_weights,
    read_folder,
    write_folder,
)
from pgdiff.core.validation import PgdiffError
from pgdiff.training.divergence import check_finite_state
from pgdiff.training.ema import AveragedLearner

STATE = "trainer.json"
WEIGHTS, EMA, OPTIMIZER = "weights.safetensors", "ema.safetensors", "optimizer.safetensors"


@dataclass
class TrainingState:
    """Mutable state of a training run: the content of a checkpoint except the settings.

    Attributes:
        learner: the trained module.
        ema: moving average of its weights.
        optimizer: optimiser of its weights.
        step: number of updates, including skipped ones.
        skipped: number of skipped updates.
        skipped_in_a_row: skipped updates since the last applied one.
        sums: sums of the metrics since the last record.
        counted: number of updates in `sums`.
    """

    learner: nn.Module
    ema: AveragedLearner
    optimizer: torch.optim.Optimizer
    step: int = 0
    skipped: int = 0
    skipped_in_a_row: int = 0
    sums: dict[str, float] = field(default_factory=dict)
    counted: int = 0


COUNTERS = ("step", "skipped", "skipped_in_a_row", "counted")


def save_checkpoint(
    root: Path, state: TrainingState, settings: dict[str, Any], *, keep: int
) -> Path:
    """Write the checkpoint of `state.step` under `root` and remove all but the newest `keep`.

    Raises:
        TrainingDiverged: a value is NaN or infinite; the message names it.
        PgdiffError: the disk is full (path and bytes); earlier checkpoints are not changed.
    """
    check_finite_state(state.step, state.learner, state.ema.module, state.optimizer)
    folder = root / f"step-{state.step:08d}"
    write_folder(
        folder,
        json_files={
            STATE: stamp(
                {
                    **{name: getattr(state, name) for name in COUNTERS},
                    "sums": state.sums,
                    "averaged": int(state.ema.n_averaged),
                    "settings": settings,
                }
            )
        },
        tensor_files={
            WEIGHTS: state.learner.state_dict(),
            EMA: state.ema.module.state_dict(),
            OPTIMIZER: _flatten(state.optimizer),
        },
    )
    prune(root, keep=keep)
    return folder


def prune(root: Path, *, keep: int) -> None:
    """Remove all checkpoints but the newest `keep`."""
    for old in list_checkpoints(root)[:-keep]:
        _discard(old)


def stamp(content: dict[str, Any]) -> dict[str, Any]:
    """Return `content` with the file format and the library version added."""
    return {"format": FORMAT, "version": library_version(), **content}


def restore_checkpoint(root: Path, state: TrainingState, settings: dict[str, Any]) -> bool:
    """Load the newest intact checkpoint into `state`; return False if no checkpoint exists.

    A damaged checkpoint is named in a warning and renamed to `step-….damaged`, and the previous one
    is loaded; training then repeats some steps. Partial folders of a killed process are removed.

    Raises:
        PgdiffError: all checkpoints are damaged, or a checkpoint was made with other settings (the
            message names them), so that an exact resume is impossible.
    """
    for partial in root.glob(".step-*.partial"):
        shutil.rmtree(partial, ignore_errors=True)
    failures = []
    device = next(state.learner.parameters()).device
    for folder in reversed(list_checkpoints(root)):
        try:
            json_files, tensors = read_folder(
                folder,
                json_names=[STATE],
                tensor_names=[WEIGHTS, EMA, OPTIMIZER],
                device=device,
            )
            counters = _check_content(json_files[STATE], folder)
        except PgdiffError as error:
            failures.append((folder, error))
            continue
        _apply(state, counters, tensors, settings, folder)
        for damaged, reason in failures:
            set_aside(damaged)
            warnings.warn(
                f"{reason} Resuming from the previous one, '{folder}'.", UserWarning, stacklevel=3
            )
        return True
    if failures:
        raise PgdiffError(
            f"All checkpoints in '{root}' are damaged. The newest: {failures[0][1]} "
            "Remove the folder to start from step 0."
        )
    return False


def list_checkpoints(root: Path) -> list[Path]:
    """Return the checkpoint folders under `root`, oldest first, without verifying them.

    Example:
        >>> from pathlib import Path
        >>> from pgdiff.training import list_checkpoints
        >>> list_checkpoints(Path("a-folder-without-checkpoints"))
        []
    """
    if not root.is_dir():
        return []
    folders = [
        entry
        for entry in root.iterdir()
        if entry.is_dir() and entry.name.startswith("step-") and entry.name[5:].isdecimal()
    ]
    return sorted(folders, key=_step_of)


def _step_of(folder: Path) -> int:
    return int(folder.name[5:])


def _check_content(loaded: Any, folder: Path) -> dict[str, Any]:
    """Return the content of `trainer.json`, checked to belong to this checkpoint."""
    fault = PgdiffError(f"'{folder / STATE}' is damaged: it does not hold a training state.")
    if not isinstance(loaded, dict):
        raise fault
    # Checkpoints of the first format lack these counters.
    content: dict[str, Any] = {
        "skipped": 0,
        "skipped_in_a_row": 0,
        "counted": 0,
        "sums": {},
    } | loaded
    for name in (*COUNTERS, "averaged"):
        if type(content.get(name)) is not int or content[name] < 0:
            raise fault
    if not isinstance(content["sums"], dict) or not isinstance(content.get("settings"), dict):
        raise fault
    if content["step"] != _step_of(folder):
        raise PgdiffError(
            f"'{folder}' holds the checkpoint of step {content['step']}: it has been renamed. "
            f"Rename it to 'step-{content['step']:08d}'."
        )
    return content


def check_settings(settings: dict[str, Any], recorded: dict[str, Any], folder: Path) -> None:
    """Raise if `settings` differ from those recorded in a folder, naming the first difference."""
    for name in {**settings, **recorded}:
        if name in ADDED and name not in recorded:
            continue
        new, old = settings.get(name), recorded.get(name)
        if name == "arguments" and isinstance(new, dict) and isinstance(old, dict):
            # Arguments that exist in one version of the library only are not compared.
            for key in (key for key in new if key in old and new[key] != old[key]):
                raise PgdiffError(
                    f"`{key}` of the learner must be {_shorten(old[key])}, as in '{folder}', to "
                    f"resume exactly. Got {_shorten(new[key])}."
                )
        elif new != old and name in DATA:
            raise PgdiffError(
                f"`episodes` must be identical to the data of the training in '{folder}' to resume "
                "exactly. Got different rows. Pass the original data, or train in another folder."
            )
        elif new != old:
            raise PgdiffError(
                f"`{name}` must be {old!r}, as in '{folder}', to resume exactly. Got {new!r}."
            )


DATA = ("data", "first_batch")
"""Settings that hold fingerprints of the data."""

ADDED = ("data", "arguments", "first_batch")
"""Settings that some checkpoints do not record; they are then not compared."""


def _shorten(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 200 else f"{text[:200]}..."


def _apply(
    state: TrainingState,
    counters: dict[str, Any],
    tensors: dict[str, dict[str, Tensor]],
    settings: dict[str, Any],
    folder: Path,
) -> None:
    check_settings(settings, counters["settings"], folder)
    load_weights(state.learner, tensors[WEIGHTS])
    load_weights(state.ema.module, tensors[EMA])
    _unflatten(state.optimizer, tensors[OPTIMIZER], folder / OPTIMIZER)
    state.ema.n_averaged.fill_(counters["averaged"])
    for name in (*COUNTERS, "sums"):
        setattr(state, name, counters[name])


def _flatten(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    states = optimizer.state_dict()["state"]
    return {f"{i}.{key}": value for i, state in states.items() for key, value in state.items()}


def _unflatten(optimizer: torch.optim.Optimizer, tensors: dict[str, Tensor], file: Path) -> None:
    """Load the optimiser's state after checking it against the parameters."""
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    states: dict[int, dict[str, Tensor]] = {}
    for name, value in tensors.items():
        index, _, key = name.partition(".")
        shapes: tuple[torch.Size, ...] = ()
        if index.isdecimal() and int(index) < len(parameters) and key:
            shapes = (parameters[int(index)].shape, torch.Size([]))
        if value.shape not in shapes:
            raise PgdiffError(
                f"'{file}' does not fit the parameters: it holds '{name}' of shape "
                f"{tuple(value.shape)}. It was saved from another network. Train in another folder."
            )
        states.setdefault(int(index), {})[key] = value
    groups = optimizer.state_dict()["param_groups"]
    optimizer.load_state_dict({"state": states, "param_groups": groups})


def _discard(folder: Path) -> None:
    # Renamed first: a process killed here leaves no partial folder under a checkpoint's name.
    hidden = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(hidden, ignore_errors=True)
    folder.rename(hidden)
    shutil.rmtree(hidden)


def set_aside(folder: Path) -> None:
    """Rename a damaged folder to `….damaged`, replacing an earlier folder of that name."""
    aside = folder.with_name(f"{folder.name}.damaged")
    shutil.rmtree(aside, ignore_errors=True)
    folder.rename(aside)
