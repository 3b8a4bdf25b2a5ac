"""Log files of metrics: `metrics.jsonl` and TensorBoard's event files.

Training does not depend on them: when the disk is full, they warn and training continues (see
`AppendingFile`), whereas a checkpoint that cannot be written stops the training.
"""

import json
import os
import time
import warnings
from pathlib import Path
from typing import Any

from pgdiff.core.serialization import write_whole
from pgdiff.core.validation import PgdiffError, require
from pgdiff.training.callbacks import Callback, TrainingView
from pgdiff.training.learner import Learner


class AppendingFile:
    """Append-only file of whole records; records that cannot be written are kept and retried.

    A partly written record is truncated, so that the file holds whole records only. Kept records
    are retried with the next record and at the end. The first failure warns with path and bytes.

    Args:
        path: the file, in an existing folder.

    Raises:
        OSError: the file cannot be opened.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self._file = open(self.path, "ab", buffering=0)  # noqa: SIM115 (closed by `close`)
        self._size = self._file.seek(0, os.SEEK_END)
        self._waiting = b""
        self._warned = False

    def write(self, record: bytes) -> None:
        """Append the kept records and then this one."""
        self._waiting += record
        try:
            written = 0
            while written < len(self._waiting):  # a raw file may write a part only
                written += self._file.write(self._waiting[written:])
        except OSError as error:
            self._file.truncate(self._size)
            if not self._warned:
                self._warned = True
                warnings.warn(
                    f"Cannot write '{self.path}' ({len(self._waiting)} bytes): {error}. Training "
                    "continues, and the missing records are retried with every new one.",
                    UserWarning,
                    stacklevel=2,
                )
            return
        self._size += written
        self._waiting = b""

    def flush(self) -> None:
        """Do nothing: the file is not buffered. TensorBoard's writer calls this method."""

    def close(self) -> None:
        """Retry the kept records and close the file."""
        if not self._file.closed:
            if self._waiting:
                self.write(b"")
            self._file.close()


class MetricsFile(Callback):
    """Log file with one line of JSON per record.

    A resumed run removes the lines of the steps that it repeats.

    Args:
        path: the file, usually `metrics.jsonl`.

    Example:
        >>> from pgdiff.training import MetricsFile, Trainer
        >>> trainer = Trainer(steps=100, callbacks=[MetricsFile("metrics.jsonl")])
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self._file: AppendingFile | None = None

    @property
    def in_use(self) -> bool:
        """True if the file holds a record."""
        return self.path.is_file() and self.path.stat().st_size > 0

    def read(self, until: int) -> list[dict[str, float]]:
        """Return the records up to step `until`, without lines that a crash has cut off."""
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

    def on_start(self, trainer: TrainingView, learner: Learner) -> None:
        """Keep the records up to the first step of this run and open the file."""
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
    """TensorBoard log, written in the training thread.

    (`torch.utils.tensorboard` starts another thread, which ends with a traceback when the disk is
    full and does not work together with forked processes.)

    Args:
        folder: folder of the event files; each run and each resumed run adds one.

    Raises:
        PgdiffError: tensorboard is not installed; the message names the extra.

    Example:
        >>> from pgdiff.training import TensorBoard, Trainer
        >>> trainer = Trainer(steps=100, callbacks=[TensorBoard("runs/tensorboard")])
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        require("tensorboard", extra="train")
        self.folder = Path(folder)
        self._file: AppendingFile | None = None

    def on_start(self, trainer: TrainingView, learner: Learner) -> None:
        """Open an event file; TensorBoard hides the earlier points of repeated steps."""
        now = time.time_ns()  # TensorBoard reads the files of a folder in the order of their names
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
        """Write one point of each curve."""
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
