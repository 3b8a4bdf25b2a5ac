"""SIGTERM and Ctrl-C: the step is finished, a checkpoint written, everything restored."""

import multiprocessing
import os
import signal
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from regression import Regression, make_episodes

from pgdiff.training import Callback, Trainer, TrainingInterrupted
from pgdiff.training.signals import StopSignals

BOTH = (signal.SIGTERM, signal.SIGINT)


class Send(Callback):
    """Sends signals to its own process, or to its whole group, at one step."""

    def __init__(self, step: int, *numbers: int) -> None:
        self.at, self.numbers = step, numbers
        self.seen = 0

    def on_step(self, step: int, metrics: dict[str, float]) -> None:
        self.seen = step
        if step == self.at:
            for number in self.numbers:
                signal.raise_signal(number)


def fit(folder: Path | None, **settings: Any) -> Regression:
    defaults = {"steps": 60, "batch_size": 8, "progress": False, "device": "cpu", "log_every": 20}
    run = Trainer(folder=folder, **defaults | settings)
    return run.fit(Regression(noise=0.2, dropout=0.1), make_episodes())


@pytest.fixture(autouse=True)
def _handlers_are_put_back(signals_as_in_a_terminal: None):
    before = [signal.getsignal(number) for number in BOTH]
    yield
    assert [signal.getsignal(number) for number in BOTH] == before


@pytest.mark.parametrize("at", [33, 40, 60])
def test_the_step_is_finished_and_resumed_exactly(at: int, tmp_path: Path) -> None:
    last = "checkpoints/step-00000060/manifest.json"
    fit(tmp_path / "whole", checkpoint_every=20)
    for number, every in ((signal.SIGTERM, None), (signal.SIGINT, 20)):
        cut, message = tmp_path / number.name, f"{number.name}.* after step {at} of 60"
        with pytest.raises(TrainingInterrupted, match=message) as stop:
            fit(cut, checkpoint_every=every, callbacks=[Send(at, number)])
        assert (stop.value.number, stop.value.step) == (number, at)
        checkpoint = cut / "checkpoints" / f"step-{at:08d}"
        assert stop.value.checkpoint == checkpoint and str(checkpoint) in str(stop.value)
        assert "resume=True" in str(stop.value)
        fit(cut, checkpoint_every=20, resume=True)
        assert (tmp_path / "whole" / last).read_bytes() == (cut / last).read_bytes()


def test_means_of_the_log_go_on_where_they_were(tmp_path: Path) -> None:
    """A record's mean covers the steps before the interruption as well."""

    def losses(folder: Path, **settings: Any) -> list[float]:
        run = Trainer(
            folder=folder, steps=60, log_every=20, progress=False, device="cpu", **settings
        )
        run.fit(Regression(noise=0.2), make_episodes())
        return [record["train/loss"] for record in run.history]

    with pytest.raises(TrainingInterrupted):
        losses(tmp_path / "cut", callbacks=[Send(33, signal.SIGTERM)])
    assert losses(tmp_path / "cut", resume=True) == losses(tmp_path / "whole")


def test_a_second_one_ends_at_once(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt) as stop:
        fit(tmp_path, callbacks=[Send(5, signal.SIGINT, signal.SIGINT)])
    assert not isinstance(stop.value, TrainingInterrupted)
    assert not (tmp_path / "checkpoints").exists()


def test_without_a_folder_it_says_that_nothing_was_saved() -> None:
    with pytest.raises(TrainingInterrupted, match="Nothing was saved"):
        fit(None, callbacks=[Send(5, signal.SIGTERM)])


def test_with_workers_the_whole_group_may_be_signalled(tmp_path: Path) -> None:
    """Ctrl-C in a terminal, and a batch system's SIGTERM, reach the workers too."""

    class Group(Send):
        def on_step(self, step: int, metrics: dict[str, float]) -> None:
            if step == self.at:
                for child in multiprocessing.active_children():
                    os.kill(child.pid, self.numbers[0])
                signal.raise_signal(self.numbers[0])

    with pytest.raises(TrainingInterrupted, match="after step 30"):
        fit(tmp_path, workers=1, callbacks=[Group(30, signal.SIGTERM)])
    with pytest.raises(TrainingInterrupted, match="after step 50"):
        fit(tmp_path, workers=1, resume=True, callbacks=[Group(50, signal.SIGINT)])


def test_what_is_ignored_stays_ignored() -> None:
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        watch = Send(5, signal.SIGINT)
        fit(None, callbacks=[watch])
        assert watch.seen == 60
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)


def test_in_another_thread_nothing_is_installed() -> None:
    handlers, expected = [], [signal.getsignal(number) for number in BOTH]

    class Look(Callback):
        def on_step(self, step: int, metrics: dict[str, float]) -> None:
            handlers.append([signal.getsignal(number) for number in BOTH])

    thread = threading.Thread(target=fit, args=(None,), kwargs={"callbacks": [Look()]})
    thread.start()
    thread.join()
    assert len(handlers) == 60 and all(seen == expected for seen in handlers)


def test_one_that_nobody_acted_upon_is_handed_on() -> None:
    with pytest.raises(KeyboardInterrupt), StopSignals() as stop:
        signal.raise_signal(signal.SIGINT)
        assert stop.received == signal.SIGINT


def test_the_outer_context_learns_of_it_too() -> None:
    with StopSignals() as outer, StopSignals() as inner:
        signal.raise_signal(signal.SIGTERM)
        assert inner.received == outer.received == signal.SIGTERM
        outer.received = None  # handled


def test_a_forked_child_is_left_alone() -> None:
    with StopSignals() as stop:
        reads, writes = os.pipe()
        child = os.fork()
        if child == 0:
            os.write(writes, b".")
            for _ in range(600):
                time.sleep(0.1)
            os._exit(0)
        os.read(reads, 1)  # a signal during the fork itself is dropped by Python
        os.kill(child, signal.SIGTERM)
        _, status = os.waitpid(child, 0)
    os.close(reads)
    os.close(writes)
    assert os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGTERM
    assert stop.received is None
