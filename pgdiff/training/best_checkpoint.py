"""Averaged weights of the best record, by a logged metric."""

import math
import warnings
from pathlib import Path
from typing import Any

from torch import nn

from pgdiff.core.serialization import load_weights, read_folder, recover_folder, write_folder
from pgdiff.core.validation import PgdiffError, check_in
from pgdiff.training.checkpoint import EMA, STATE, check_settings, set_aside, stamp

SIGN = {"min": 1.0, "max": -1.0}


class Best:
    """Keeper of the folder `best/` with `ema.safetensors` and `trainer.json`.

    `best/` is written before the checkpoint of its step. A resumed run computes the values again
    and ends with an identical `best/`.

    Args:
        folder: path of `best/`.
        metric: name of a logged metric.
        mode: "min" or "max".
        settings: settings of the training run; an existing `best/` must have equal ones.

    Attributes:
        step: step of the best value; None before the first one.
        value: the best value.
    """

    def __init__(self, folder: Path, *, metric: str, mode: str, settings: dict[str, Any]) -> None:
        self.folder = folder
        self.metric = metric
        self._sign = SIGN[check_in("mode", mode, SIGN)]
        self._settings = settings
        self.step: int | None = None
        self.value = math.inf * self._sign

    def restore(self) -> None:
        """Read step and value from an existing folder; rename a damaged one and warn."""
        if not recover_folder(self.folder):
            return
        try:
            json_files, _ = read_folder(self.folder, json_names=[STATE], tensor_names=[EMA])
            content = json_files[STATE]
            step, value = int(content["step"]), float(content["value"])
        except (PgdiffError, KeyError, TypeError, ValueError) as error:
            warnings.warn(
                f"{error} The best weights so far are lost; the next best record replaces them.",
                UserWarning,
                stacklevel=3,
            )
            set_aside(self.folder)
            return
        check_settings(self._settings, content["settings"], self.folder)
        self.step, self.value = step, value

    def offer(self, step: int, record: dict[str, float], averaged: nn.Module) -> bool:
        """Save the averaged weights if the metric of this record is the best so far.

        Raises:
            PgdiffError: the weights are not finite, or the disk is full; the earlier best remains.
        """
        value = record.get(self.metric, math.nan)
        if not math.isfinite(value) or self._sign * (self.value - value) <= 0:
            return False
        content = {"step": step, "metric": self.metric, "value": value, "settings": self._settings}
        write_folder(
            self.folder,
            json_files={STATE: stamp(content)},
            tensor_files={EMA: averaged.state_dict()},
        )
        self.step, self.value = step, value
        return True

    def load(self, module: nn.Module) -> None:
        """Load the best weights into a module.

        Raises:
            PgdiffError: the metric was never logged, or `best/` is damaged.
        """
        if self.step is None:
            raise PgdiffError(
                f"`best` must be a logged metric. Got '{self.metric}', which was never logged. "
                "Choose a name that appears in metrics.jsonl."
            )
        _, tensors = read_folder(
            self.folder,
            json_names=[],
            tensor_names=[EMA],
            device=next(module.parameters()).device,
        )
        load_weights(module, tensors[EMA])
