"""What looks at a training without taking part in it.

Names of metrics are those of Stable-Baselines3's logger where it has one: `train/loss`,
`train/learning_rate`, `train/n_updates`, `time/fps` (updates per second here), `time/iterations`,
`time/time_elapsed`, and `eval/` for what is measured on held-out data or by acting.
"""

import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from tqdm import tqdm

from pgdiff.saving import write_whole
from pgdiff.validation import PgdiffError, require

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

    from pgdiff.training.learner import Learner
    from pgdiff.training.trainer import Trainer


class Callback:
    """Base class; every method may be overridden, and does nothing here.

    The order is `on_start`, then for every step `on_step`, then every `log_every` steps `on_log`
    and every `validate_every` steps `on_validation`, then `on_end`. `close` is always called last,
    after an error too.
    """

    def on_start(self, trainer: "Trainer", learner: "Learner") -> None:
        """Called before the first step, after a checkpoint has been restored."""

    def on_step(self, step: int, metrics: dict[str, float]) -> None:
        """Called after step number `step` (from 1) with that step's own losses."""

    def on_log(self, step: int, metrics: dict[str, float]) -> None:
        """Called with what is logged: means since the last time, validation, and `Trainer.log`."""

    def on_validation(self, step: int, metrics: dict[str, float]) -> None:
        """Called with the averaged weights' losses on held-out episodes."""

    def on_end(self, trainer: "Trainer", learner: "Learner") -> None:
        """Called when training is done and the learner holds the averaged weights."""

    def close(self) -> None:
        """Release files and the like; called after success and after an error."""


class ProgressBar(Callback):
    """A progress bar with the last losses."""

    def __init__(self) -> None:
        self._bar: Any = None

    def on_start(self, trainer: "Trainer", learner: "Learner") -> None:
        """Open the bar at the step that training starts from."""
        self._bar = tqdm(
            total=trainer.steps,
            initial=trainer.step,
            desc=type(learner).__name__,
            unit="step",
            dynamic_ncols=True,
            mininterval=0.5 if sys.stderr.isatty() else 15.0,  # a log file wants few lines
        )

    def on_step(self, step: int, metrics: dict[str, float]) -> None:
        """Move on by one."""
        self._bar.update(1)

    def on_log(self, step: int, metrics: dict[str, float]) -> None:
        """Show the losses."""
        shown = {
            label: f"{metrics[key]:.4g}"
            for key, label in (("train/loss", "loss"), ("eval/loss", "held-out"))
            if key in metrics
        }
        if shown:
            self._bar.set_postfix(shown, refresh=False)

    def close(self) -> None:
        """Close the bar."""
        if self._bar is not None:
            self._bar.close()


class MetricsFile(Callback):
    """Writes every logged record as one line of JSON.

    After a resumption, lines of steps that are going to be repeated are dropped.

    Args:
        path: the file, usually `metrics.jsonl`.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self._file: TextIO | None = None

    @property
    def in_use(self) -> bool:
        """Whether the file holds a record (a training that failed at once leaves it empty)."""
        return self.path.is_file() and self.path.stat().st_size > 0

    def read(self, until: int) -> list[dict[str, float]]:
        """Return the records of steps up to `until`; a line torn by a crash is left out."""
        records = []
        if self.path.is_file():
            for line in self.path.read_text().splitlines():
                try:
                    record = json.loads(line)
                    keep = record["step"] <= until
                except (ValueError, KeyError, TypeError):
                    continue
                if keep:
                    records.append(record)
        return records

    def on_start(self, trainer: "Trainer", learner: "Learner") -> None:
        """Keep what lies before the first step and open the file."""
        kept = [json.dumps(record) + "\n" for record in self.read(trainer.step)]
        try:
            write_whole(self.path, "".join(kept))
            self._file = open(self.path, "a")  # noqa: SIM115 (closed by `close`)
        except OSError as error:
            raise PgdiffError(f"Cannot write '{self.path}': {error}.") from error

    def on_log(self, step: int, metrics: dict[str, float]) -> None:
        """Write one line."""
        assert self._file is not None
        self._file.write(json.dumps({"step": step, **metrics}) + "\n")
        self._file.flush()

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            self._file.close()


class TensorBoard(Callback):
    """Writes every logged record for TensorBoard.

    Args:
        folder: where the event files go.

    Raises:
        PgdiffError: tensorboard is not installed (the extra is named).
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        require("tensorboard", extra="train")
        self.folder = Path(folder)
        self._writer: SummaryWriter | None = None

    def on_start(self, trainer: "Trainer", learner: "Learner") -> None:
        """Open an event file; steps that are going to be repeated are hidden by TensorBoard."""
        from torch.utils.tensorboard import SummaryWriter

        purge = trainer.step + 1 if trainer.step else None
        self._writer = SummaryWriter(str(self.folder), purge_step=purge)

    def on_log(self, step: int, metrics: dict[str, float]) -> None:
        """Write one point of every curve."""
        assert self._writer is not None
        for key, value in metrics.items():
            self._writer.add_scalar(key, value, step)

    def close(self) -> None:
        """Flush and close the event file."""
        if self._writer is not None:
            self._writer.close()
