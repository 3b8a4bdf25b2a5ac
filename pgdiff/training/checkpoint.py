"""Checkpoints: one folder per step that is either whole or absent, and exact resume from it.

`checkpoints/step-00001000/` holds `weights.safetensors`, `ema.safetensors`,
`optimizer.safetensors`, `trainer.json` and a manifest of SHA-256 sums that is written last; the
folder appears by one rename. There is no state of a shuffle or of a noise generator to store: both
follow from the seed and the step.
"""

import shutil
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from pgdiff.saving import FORMAT, library_version, load_weights, read_folder, write_folder
from pgdiff.training.ema import AveragedLearner
from pgdiff.validation import PgdiffError

STATE = "trainer.json"
WEIGHTS, EMA, OPTIMIZER = "weights.safetensors", "ema.safetensors", "optimizer.safetensors"


@dataclass
class TrainingState:
    """What training changes: everything of a checkpoint but the settings."""

    learner: nn.Module
    ema: AveragedLearner
    optimizer: torch.optim.Optimizer
    step: int = 0


def save_checkpoint(
    root: Path, state: TrainingState, settings: dict[str, Any], *, keep: int
) -> Path:
    """Write the checkpoint of `state.step` under `root` and remove all but the newest `keep`.

    Raises:
        PgdiffError: a weight is NaN or infinite (by name), or the disk is full; earlier
            checkpoints then stay as they are.
    """
    folder = root / f"step-{state.step:08d}"
    write_folder(
        folder,
        json_files={
            STATE: {
                "format": FORMAT,
                "version": library_version(),
                "step": state.step,
                "averaged": int(state.ema.n_averaged),
                "settings": settings,
            }
        },
        tensor_files={
            WEIGHTS: state.learner.state_dict(),
            EMA: state.ema.module.state_dict(),
            OPTIMIZER: _flatten(state.optimizer),
        },
    )
    for old in list_checkpoints(root)[:-keep]:
        _discard(old)
    return folder


def restore_checkpoint(root: Path, state: TrainingState, settings: dict[str, Any]) -> bool:
    """Bring `state` to the newest sound checkpoint; return whether there was one.

    A damaged checkpoint is named in a warning, renamed to `step-….damaged`, and the one before it
    is used: training repeats some steps and loses nothing.

    Raises:
        PgdiffError: there are checkpoints, but all are damaged; or one was made with other
            settings (named), since going on would then be no resumption.
    """
    folders = list_checkpoints(root)
    failures = []
    device = next(state.learner.parameters()).device
    for folder in reversed(folders):
        try:
            json_files, tensors = read_folder(
                folder,
                json_names=[STATE],
                tensor_names=[WEIGHTS, EMA, OPTIMIZER],
                device=device,
            )
        except PgdiffError as error:
            failures.append((folder, error))
            continue
        for damaged, reason in failures:
            _set_aside(damaged)
            warnings.warn(
                f"{reason} Resuming from '{folder}', the one before.", UserWarning, stacklevel=3
            )
        _apply(state, json_files[STATE], tensors, settings, folder)
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
    return sorted(
        entry
        for entry in root.iterdir()
        if entry.is_dir() and entry.name.startswith("step-") and entry.name[5:].isdigit()
    )


def _apply(
    state: TrainingState,
    counters: dict[str, Any],
    tensors: dict[str, dict[str, Tensor]],
    settings: dict[str, Any],
    folder: Path,
) -> None:
    recorded = counters["settings"]
    for name in {**settings, **recorded}:
        if settings.get(name) != recorded.get(name):
            raise PgdiffError(
                f"`{name}` must be {recorded.get(name)!r}, as in '{folder}', to resume exactly. "
                f"Got {settings.get(name)!r}."
            )
    load_weights(state.learner, tensors[WEIGHTS])
    load_weights(state.ema.module, tensors[EMA])
    _unflatten(state.optimizer, tensors[OPTIMIZER])
    state.ema.n_averaged.fill_(counters["averaged"])
    state.step = counters["step"]


def _flatten(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    states = optimizer.state_dict()["state"]
    return {f"{i}.{key}": value for i, state in states.items() for key, value in state.items()}


def _unflatten(optimizer: torch.optim.Optimizer, tensors: dict[str, Tensor]) -> None:
    states: dict[int, dict[str, Tensor]] = {}
    for name, value in tensors.items():
        index, _, key = name.partition(".")
        states.setdefault(int(index), {})[key] = value
    groups = optimizer.state_dict()["param_groups"]
    optimizer.load_state_dict({"state": states, "param_groups": groups})


def _discard(folder: Path) -> None:
    # Renamed first, so that a process killed here leaves no half of a checkpoint under its name.
    hidden = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(hidden, ignore_errors=True)
    folder.rename(hidden)
    shutil.rmtree(hidden)


def _set_aside(folder: Path) -> None:
    aside = folder.with_name(f"{folder.name}.damaged")
    shutil.rmtree(aside, ignore_errors=True)
    folder.rename(aside)
