"""The batches of a training, in order, gathered here or ahead of time by other processes."""

import multiprocessing
import os
import pickle
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset

from pgdiff.training.learner import BatchSource
from pgdiff.training.schedule import TRAIN, numpy_generator
from pgdiff.training.sharing import dumps, loads
from pgdiff.validation import PgdiffError

AHEAD = 4
"""Batches that each process gathers ahead."""


class StepBatches(Dataset[Any]):
    """The batch of every step; it follows from (seed, step) alone, whoever gathers it.

    Args:
        source: the examples.
        seed: of the draw.
        batch_size: examples of a batch, drawn with replacement: it may be larger than the source.
    """

    def __init__(self, source: BatchSource, *, seed: int, batch_size: int) -> None:
        self.source = source
        self.seed = seed
        self.batch_size = batch_size

    def __getitem__(self, step: int) -> Any:
        """Return the batch of the update number `step`, from 0."""
        random = numpy_generator(self.seed, step, TRAIN)
        return self.source.batch(random.integers(len(self.source), size=self.batch_size))

    def __getstate__(self) -> bytes:
        return dumps(self.__dict__)

    def __setstate__(self, state: bytes) -> None:
        self.__dict__.update(loads(state))


@contextmanager
def open_batches(
    batches: StepBatches, *, first: int, last: int, workers: int
) -> Iterator[Iterator[Any]]:
    """Within it, iterate over the batches of the steps `first` to `last`, the latter excluded.

    Processes that gather batches end with the context, at the latest a moment after this process
    (even a killed one). Those that are killed, or whose batch fails, lead to one error here.

    Args:
        batches: of every step.
        first: the first step.
        last: the one after the last.
        workers: processes that gather ahead; 0 gathers in this process.
    """
    if workers == 0 or first >= last:
        yield (batches[step] for step in range(first, last))
        return
    # Each process asks only for what it is told; no state of a loader is ever to be kept.
    loader = DataLoader(
        _Packed(batches),
        batch_size=None,
        sampler=range(first, last),
        num_workers=min(workers, last - first),
        prefetch_factor=AHEAD,
        collate_fn=_as_it_is,
        worker_init_fn=_begin,
        generator=torch.Generator(),  # else a number is drawn from the global one
    )
    with _handler_put_back(signal.SIGCHLD):
        try:
            packed = iter(loader)
        except (AttributeError, TypeError, pickle.PicklingError) as error:
            raise PgdiffError(
                "`workers` must be 0 here: the examples cannot be sent to another process "
                f"({error})."
            ) from error
    try:
        yield _unpacked(packed)
    finally:
        # Left to the garbage collector, they would live as long as an error's traceback.
        iterator: Any = packed
        processes = iterator._workers
        iterator._shutdown_workers()
        for process in processes:
            if process.is_alive():
                process.kill()


@dataclass(frozen=True)
class _Failure:
    message: str


class _Packed(Dataset[bytes]):
    """Batches as bytes: what cannot be pickled fails where it is reported, and not in a queue."""

    def __init__(self, batches: StepBatches) -> None:
        self.batches = batches

    def __getitem__(self, step: int) -> bytes:
        try:
            content = self.batches[step]
        except PgdiffError as error:
            content = _Failure(str(error))
        try:
            return pickle.dumps(content, protocol=pickle.HIGHEST_PROTOCOL)
        except (AttributeError, TypeError, pickle.PicklingError) as error:
            message = (
                f"`workers` must be 0 here: a {type(content).__name__} cannot be sent from another "
                f"process ({error})."
            )
            return pickle.dumps(_Failure(message))


def _unpacked(packed: Iterator[bytes]) -> Iterator[Any]:
    while True:
        try:
            content = loads(next(packed))
        except StopIteration:
            return
        except RuntimeError as error:
            if "exited unexpectedly" not in str(error):
                raise
            raise PgdiffError(
                f"A process that gathers batches has ended unexpectedly ({error}): it was killed, "
                "or ran out of memory, or the script lacks `if __name__ == '__main__':`. Go on "
                "with resume=True; workers=0 needs no process."
            ) from error
        if isinstance(content, _Failure):
            raise PgdiffError(content.message)
        yield content


def _as_it_is(batch: Any) -> Any:
    return batch


def _begin(worker: int) -> None:
    """Leave signals to the parent, which ends its workers when its step is done; end with it."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


@contextmanager
def _handler_put_back(number: int) -> Iterator[None]:
    """Undo a change of a signal's handler.

    PyTorch's loader raises an error from within a signal handler when a worker has died, in
    whatever line the training then is. Without it, the error comes where the batch is missing.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.getsignal(number)
    try:
        yield
    finally:
        if before is not None and signal.getsignal(number) is not before:
            signal.signal(number, before)
            # Another loader of this process is to have what it is used to.
            torch.utils.data._utils.signal_handling._SIGCHLD_handler_set = False
