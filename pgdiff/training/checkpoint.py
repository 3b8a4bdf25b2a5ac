"""Checkpoints: one folder per step that is either whole or absent, and exact resume from it.

`checkpoints/step-00001000/` holds `weights.safetensors`, `ema.safetensors`,
`optimizer.safetensors`, `trainer.json` and a manifest of SHA-256 sums that is written last; the
folder appears by one rename. There is no state of a shuffle or of a noise generator to store: both
follow from the seed and the step.
"""

import shutil
import warnings
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from pgdiff.saving import FORMAT, library_version, load_weights, read_folder, write_folder
from pgdiff.training.divergence import check_finite_state
from pgdiff.training.ema import AveragedLearner
from pgdiff.validation import PgdiffError

STATE = "trainer.json"
WEIGHTS, EMA, OPTIMIZER = "weights.safetensors", "ema.safetensors", "optimizer.safetensors"


@dataclass
class TrainingState:
    """What training changes: everything of a checkpoint but the settings.

    Attributes:
        learner: with its weights.
        ema: its average.
        optimizer: of its weights.
        step: updates done, those that were skipped included.
        skipped: updates that were skipped.
        skipped_in_a_row: those since the last one that was made.
        sums: of the metrics since the last record.
        counted: updates in these sums.
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
        TrainingDiverged: something of it is NaN or infinite (by name).
        PgdiffError: the disk is full (path and bytes); earlier checkpoints then stay as they are.
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
    """Add the format, and the version of the library that writes it."""
    return {"format": FORMAT, "version": library_version(), **content}


def restore_checkpoint(root: Path, state: TrainingState, settings: dict[str, Any]) -> bool:
    """Bring `state` to the newest sound checkpoint; return whether there was one.

    A damaged checkpoint is named in a warning, renamed to `step-….damaged`, and the one before it
    is used: training repeats some steps and loses nothing. What a killed process has left half
    written or half removed goes.

    Raises:
        PgdiffError: there are checkpoints, but all are damaged; or one was made with other
            settings (named), since going on would then be no resumption.
    """
    for left in root.glob(".step-*.partial"):
        shutil.rmtree(left, ignore_errors=True)
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
            counters = _checked(json_files[STATE], folder)
        except PgdiffError as error:
            failures.append((folder, error))
            continue
        _apply(state, counters, tensors, settings, folder)
        for damaged, reason in failures:
            set_aside(damaged)
            warnings.warn(
                f"{reason} Resuming from '{folder}', the one before.", UserWarning, stacklevel=3
            )
        return True
    if failures:
        raise PgdiffError(
            f"No sound checkpoint is left in '{root}'. The newest: {failures[0][1]} "
            "Remove that folder to start anew."
        )
    return False


def list_checkpoints(root: Path) -> list[Path]:
    """Return the checkpoint folders under `root`, oldest first, without verifying them."""
    if not root.is_dir():
        return []
    found = [
        entry
        for entry in root.iterdir()
        if entry.is_dir() and entry.name.startswith("step-") and entry.name[5:].isdecimal()
    ]
    return sorted(found, key=_step_of)


def _step_of(folder: Path) -> int:
    return int(folder.name[5:])


def _checked(found: Any, folder: Path) -> dict[str, Any]:
    """Return what `trainer.json` says, if it says it of this checkpoint."""
    fault = PgdiffError(f"'{folder / STATE}' is damaged: it is not what this library writes there.")
    if not isinstance(found, dict):
        raise fault
    # Earlier versions of the library counted less.
    content: dict[str, Any] = {
        "skipped": 0,
        "skipped_in_a_row": 0,
        "counted": 0,
        "sums": {},
    } | found
    for name in (*COUNTERS, "averaged"):
        if type(content.get(name)) is not int or content[name] < 0:
            raise fault
    if not isinstance(content["sums"], dict) or not isinstance(content.get("settings"), dict):
        raise fault
    if content["step"] != _step_of(folder):
        raise PgdiffError(
            f"'{folder}' holds the checkpoint of step {content['step']}: it has been renamed. "
            "Give it its name again."
        )
    return content


def check_settings(settings: dict[str, Any], recorded: dict[str, Any], folder: Path) -> None:
    """Raise an error if a training has other settings than those that a folder was made with."""
    for name in {**settings, **recorded}:
        if name in ADDED and name not in recorded:
            continue
        new, old = settings.get(name), recorded.get(name)
        if name == "arguments" and isinstance(new, dict) and isinstance(old, dict):
            # Arguments that only one version of the library knows are none of the user's choice.
            for key in (key for key in new if key in old and new[key] != old[key]):
                raise PgdiffError(
                    f"`{key}` of the learner must be {_short(old[key])}, as in '{folder}', to "
                    f"resume exactly. Got {_short(new[key])}."
                )
        elif new != old and name in DATA:
            raise PgdiffError(
                f"`episodes` must be the very rows that the training in '{folder}' began with, to "
                "resume exactly. Got others, or changed ones: pass the former data, or train in "
                "another folder."
            )
        elif new != old:
            raise PgdiffError(
                f"`{name}` must be {old!r}, as in '{folder}', to resume exactly. Got {new!r}."
            )


DATA = ("data", "first_batch")
"""Settings that are fingerprints of the data."""

ADDED = ("data", "arguments", "first_batch")
"""Settings that earlier versions of the library did not record."""


def _short(value: Any) -> str:
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
    """Load the optimiser's state, checked against the parameters that it has."""
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
                f"{tuple(value.shape)}. It was saved from another network."
            )
        states.setdefault(int(index), {})[key] = value
    groups = optimizer.state_dict()["param_groups"]
    optimizer.load_state_dict({"state": states, "param_groups": groups})


def _discard(folder: Path) -> None:
    # Renamed first, so that a process killed here leaves no half of a checkpoint under its name.
    hidden = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(hidden, ignore_errors=True)
    folder.rename(hidden)
    shutil.rmtree(hidden)


def set_aside(folder: Path) -> None:
    """Rename a damaged folder to `….damaged`, in place of an earlier one of that name."""
    aside = folder.with_name(f"{folder.name}.damaged")
    shutil.rmtree(aside, ignore_errors=True)
    folder.rename(aside)
