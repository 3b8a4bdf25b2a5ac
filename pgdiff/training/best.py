"""The best averaged weights so far, by a logged metric."""

import math
import warnings
from pathlib import Path
from typing import Any

from torch import nn

from pgdiff.saving import load_weights, read_folder, recover_folder, write_folder
from pgdiff.training.checkpoint import EMA, STATE, check_settings, set_aside, stamp
from pgdiff.validation import PgdiffError, check_in

SIGN = {"min": 1.0, "max": -1.0}


class Best:
    """Keeps `best/`: `ema.safetensors` and `trainer.json` with step, metric and value.

    It is written before the checkpoint of the same step. A run that goes on from an earlier one
    meets the same values again, and ends with the same `best/`.

    Args:
        folder: `best/`.
        metric: name of a logged metric.
        mode: "min" or "max".
        settings: of the training; those of `best/` must be the same.

    Attributes:
        step: at which the best value was logged; None where there is none yet.
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
        """Read what there is; what is damaged is set aside with a warning."""
        if not recover_folder(self.folder):
            return
        try:
            json_files, _ = read_folder(self.folder, json_names=[STATE], tensor_names=[EMA])
            content = json_files[STATE]
            step, value = int(content["step"]), float(content["value"])
        except (PgdiffError, KeyError, TypeError, ValueError) as error:
            warnings.warn(
                f"{error} The best weights so far are lost; later ones take their place.",
                UserWarning,
                stacklevel=3,
            )
            set_aside(self.folder)
            return
        check_settings(self._settings, content["settings"], self.folder)
        self.step, self.value = step, value

    def offer(self, step: int, record: dict[str, float], averaged: nn.Module) -> bool:
        """Save the averaged weights if this record's metric is the best so far.

        Raises:
            PgdiffError: the weights are not finite, or the disk is full; the best before stays.
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
        """Give a module the best weights.

        Raises:
            PgdiffError: the metric was never logged, or `best/` is damaged.
        """
        if self.step is None:
            raise PgdiffError(
                f"`best` must be a metric that is logged. '{self.metric}' never was: there are no "
                "best weights to use."
            )
        _, tensors = read_folder(
            self.folder,
            json_names=[],
            tensor_names=[EMA],
            device=next(module.parameters()).device,
        )
        load_weights(module, tensors[EMA])
