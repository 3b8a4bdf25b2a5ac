"""Files of what was logged: `metrics.jsonl`, and TensorBoard's.

Neither is needed to go on: where the disk is full, a warning says so and training continues (see
`AppendingFile`); a checkpoint that cannot be written does stop it.
"""

import json
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pgdiff.saving import write_whole
from pgdiff.training.appending import AppendingFile
from pgdiff.training.callbacks import Callback
from pgdiff.validation import PgdiffError, require

if TYPE_CHECKING:
    from pgdiff.training.learner import Learner
    from pgdiff.training.trainer import Trainer


class MetricsFile(Callback):
    """Writes every logged record as one line of JSON.

    After a resumption, lines of steps that are going to be repeated are dropped.

    Args:
        path: the file, usually `metrics.jsonl`.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self._file: AppendingFile | None = None

    @property
    def in_use(self) -> bool:
        """Whether the file holds a record (a training that failed at once leaves it empty)."""
        return self.path.is_file() and self.path.stat().st_size > 0

    def read(self, until: int) -> list[dict[str, float]]:
        """Return the records of steps up to `until`; a line torn by a crash is left out."""
        records = []
        if self.path.is_file():
            for line in self.path.read_bytes().splitlines():
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
            self._file = AppendingFile(self.path)
        except OSError as error:
            raise PgdiffError(f"Cannot write '{self.path}': {error}.") from error

    def on_log(self, step: int, metrics: dict[str, float]) -> None:
        """Write one line."""
        assert self._file is not None
        self._file.write((json.dumps({"step": step, **metrics}) + "\n").encode())

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            self._file.close()


class TensorBoard(Callback):
    """Writes every logged record for TensorBoard, in this thread.

    (`torch.utils.tensorboard` writes in a thread of its own, which a full disk ends with a
    traceback, and which is in the way of forked processes.)

    Args:
        folder: where the event files go; every training and every resumption opens one.

    Raises:
        PgdiffError: tensorboard is not installed (the extra is named).
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        require("tensorboard", extra="train")
        self.folder = Path(folder)
        self._file: AppendingFile | None = None

    def on_start(self, trainer: "Trainer", learner: "Learner") -> None:
        """Open an event file; steps that are going to be repeated are hidden by TensorBoard."""
        now = time.time_ns()  # in the name: TensorBoard reads the files of a folder in its order
        name = f"events.out.tfevents.{now // 10**9:010d}.{now % 10**9:09d}.pgdiff"
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._file = AppendingFile(self.folder / name)
        except OSError as error:
            raise PgdiffError(f"Cannot write '{self.folder / name}': {error}.") from error
        self._write(file_version="brain.Event:2")
        if trainer.step:
            log = _tensorboard("compat.proto.event_pb2").SessionLog
            self._write(step=trainer.step + 1, session_log=log(status=log.START))

    def on_log(self, step: int, metrics: dict[str, float]) -> None:
        """Write one point of every curve."""
        summary = _tensorboard("compat.proto.summary_pb2").Summary
        values = [summary.Value(tag=key, simple_value=value) for key, value in metrics.items()]
        self._write(step=step, summary=summary(value=values))

    def _write(self, **content: object) -> None:
        assert self._file is not None
        event = _tensorboard("compat.proto.event_pb2").Event(wall_time=time.time(), **content)
        writer = _tensorboard("summary.writer.record_writer").RecordWriter(self._file)
        writer.write(event.SerializeToString())

    def close(self) -> None:
        """Close the event file."""
        if self._file is not None:
            self._file.close()


def _tensorboard(module: str) -> Any:
    return require(f"tensorboard.{module}", extra="train")
