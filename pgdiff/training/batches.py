"""Batches of a training run in order, gathered in this process or ahead of time by workers."""

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

from pgdiff.core.processes import dumps, loads
from pgdiff.core.validation import PgdiffError
from pgdiff.training.learner import BatchSource
from pgdiff.training.learning_rate import TRAIN, numpy_generator

AHEAD = 4
"""Number of batches that each worker gathers ahead."""


class StepBatches(Dataset[Any]):
    """Map-style data set of batches; each depends only on (seed, step), not on the process.

    Args:
        source: the training examples.
        seed: seed of the drawn indices.
        batch_size: examples per batch, drawn with replacement; may exceed the size of the source.
    """

    def __init__(self, source: BatchSource, *, seed: int, batch_size: int) -> None:
        self.source = source
        self.seed = seed
        self.batch_size = batch_size

    def __getitem__(self, step: int) -> Any:
        """Return the batch of update number `step` (from 0)."""
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
    """Provide an iterator over the batches of the steps `first` to `last - 1`.

    Worker processes end with the context, and shortly after this process even if it is killed. A
    worker that is killed, or whose batch fails, raises one `PgdiffError` in this process.

    Args:
        batches: the batch of every step.
        first: first step.
        last: step after the last one.
        workers: number of processes that gather batches ahead; 0 gathers in this process.
    """
    if workers == 0 or first >= last:
        yield (batches[step] for step in range(first, last))
        return
    # The sampler assigns steps to workers; the loader has no state that must be saved.
    loader = DataLoader(
        _PickledBatches(batches),
        batch_size=None,
        sampler=range(first, last),
        num_workers=min(workers, last - first),
        prefetch_factor=AHEAD,
        collate_fn=_identity,
        worker_init_fn=_start_worker,
        generator=torch.Generator(),  # otherwise the loader draws from the global generator
    )
    with _restore_handler(signal.SIGCHLD):
        try:
            packed = iter(loader)
        except (AttributeError, TypeError, pickle.PicklingError) as error:
            raise PgdiffError(
                "`workers` must be 0 for these examples: they cannot be sent to another process "
                f"({error}). Pass workers=0."
            ) from error
    try:
        yield _unpickle(packed)
    finally:
        # The garbage collector would keep the workers as long as an error's traceback.
        iterator: Any = packed
        processes = iterator._workers
        iterator._shutdown_workers()
        for process in processes:
            if process.is_alive():
                process.kill()


@dataclass(frozen=True)
class _Failure:
    message: str


class _PickledBatches(Dataset[bytes]):
    """Batches as bytes, so that pickling errors reach the caller instead of a queue's thread."""

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
                f"`workers` must be 0 for these batches: a {type(content).__name__} cannot be sent "
                f"from another process ({error}). Pass workers=0."
            )
            return pickle.dumps(_Failure(message))


def _unpickle(packed: Iterator[bytes]) -> Iterator[Any]:
    while True:
        try:
            content = loads(next(packed))
        except StopIteration:
            return
        except RuntimeError as error:
            if "exited unexpectedly" not in str(error):
                raise
            raise PgdiffError(
                f"A worker process ended unexpectedly ({error}): it was killed, it ran out of "
                "memory, or the script lacks `if __name__ == '__main__':`. Continue with "
                "resume=True; workers=0 starts no process."
            ) from error
        if isinstance(content, _Failure):
            raise PgdiffError(content.message)
        yield content


def _identity(batch: Any) -> Any:
    return batch


def _start_worker(worker: int) -> None:
    """Ignore stop signals, which the parent handles, and exit when the parent exits."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    threading.Thread(target=_exit_with_parent, daemon=True).start()


def _exit_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


@contextmanager
def _restore_handler(number: int) -> Iterator[None]:
    """Restore a signal's handler after the block.

    When a worker dies, the SIGCHLD handler of PyTorch's loader raises an error at an arbitrary line
    of the training. Without that handler, the error is raised where the batch is missing.
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
            # Let the next loader of this process install its handler again.
            torch.utils.data._utils.signal_handling._SIGCHLD_handler_set = False
