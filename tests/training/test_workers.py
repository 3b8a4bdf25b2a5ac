"""Batches gathered by other processes: equal runs, one clear error, and no process left."""

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from regression import PairSource, Regression, make_episodes

import pgdiff.training
from pgdiff.core.processes import dumps, loads
from pgdiff.core.validation import PgdiffError
from pgdiff.training import Callback, Trainer
from pgdiff.training.batches import StepBatches

Children = Callable[[], list[Any]]


def trainer(**settings: Any) -> Trainer:
    return Trainer(**{"steps": 40, "batch_size": 16, "progress": False, "device": "cpu"} | settings)


def equal(one: torch.nn.Module, two: torch.nn.Module) -> bool:
    other = two.state_dict()
    return all(torch.equal(value, other[name]) for name, value in one.state_dict().items())


@pytest.fixture
def children() -> Children:
    """Return the processes that a run has started, without those of earlier tests."""
    before = {process.pid for process in multiprocessing.active_children()}
    return lambda: [p for p in multiprocessing.active_children() if p.pid not in before]


class At(Callback):
    """Calls a function at one step."""

    def __init__(self, step: int, act: Callable[[], None]) -> None:
        self.step, self.act = step, act

    def on_step(self, step: int, metrics: dict[str, float]) -> None:
        if step == self.step:
            self.act()


def test_any_number_of_workers_gives_the_same_run(tmp_path: Path, children: Children) -> None:
    learners = []
    for workers in (0, 1, 2):
        run = trainer(workers=workers, folder=tmp_path / str(workers), checkpoint_every=20)
        learners.append(run.fit(Regression(noise=0.2, dropout=0.1), make_episodes()))
        assert children() == []
    assert equal(learners[0], learners[1]) and equal(learners[0], learners[2])
    files = [tmp_path / str(n) / "checkpoints/step-00000040/manifest.json" for n in (0, 1, 2)]
    assert len({file.read_bytes() for file in files}) == 1


def test_resumed_with_another_number_of_workers(tmp_path: Path, children: Children) -> None:
    whole = trainer().fit(Regression(noise=0.2), make_episodes())

    def stop() -> None:
        raise KeyboardInterrupt

    cut = {"folder": tmp_path, "checkpoint_every": 10}
    with pytest.raises(KeyboardInterrupt):
        trainer(**cut, workers=2, callbacks=[At(27, stop)]).fit(
            Regression(noise=0.2), make_episodes()
        )
    assert children() == [], "an error ends them too"
    resumed = trainer(**cut, workers=1, resume=True).fit(Regression(noise=0.2), make_episodes())
    assert equal(whole, resumed)


SCRIPT = """
import multiprocessing, sys
sys.path.insert(0, sys.argv[1])
from regression import Regression, make_episodes
from pgdiff.training import Trainer

if __name__ == "__main__":
    multiprocessing.set_start_method(sys.argv[2])
    for workers in (0, 1):
        learner = Trainer(steps=10, workers=workers, progress=False, device="cpu").fit(
            Regression(noise=0.1), make_episodes()
        )
        print(learner.weight.tolist(), len(multiprocessing.active_children()))
"""


def _python(*words: str, **options: Any) -> Any:
    root = Path(pgdiff.training.__file__).parents[2]
    environment = {**os.environ, "PYTHONPATH": str(root), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen([sys.executable, *words], text=True, env=environment, **options)


@pytest.mark.slow
@pytest.mark.parametrize("method", ["spawn", "forkserver"])
def test_other_ways_of_starting_processes(method: str, tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    process = _python("-W", "error", str(script), str(Path(__file__).parent), method, **pipes)
    out, err = process.communicate(timeout=100)
    assert process.returncode == 0, err
    lines = out.splitlines()
    assert len(lines) == 2 and lines[0] == lines[1] and lines[0].endswith(" 0")


def test_a_killed_worker_is_one_clear_error(tmp_path: Path, children: Children) -> None:
    def kill() -> None:
        for process in children():
            os.kill(process.pid, signal.SIGKILL)

    run = trainer(steps=2000, workers=1, folder=tmp_path, callbacks=[At(30, kill)])
    with pytest.raises(PgdiffError, match=r"ended unexpectedly.*resume=True"):
        run.fit(Regression(), make_episodes())
    assert children() == []


ORPHANS = """
import multiprocessing, os, signal, sys
sys.path.insert(0, sys.argv[1])
from regression import Regression, make_episodes
from pgdiff.training import Callback, Trainer

class Die(Callback):
    def on_step(self, step, metrics):
        if step == 5:
            print(*(child.pid for child in multiprocessing.active_children()), flush=True)
            os.kill(os.getpid(), signal.SIGKILL)

Trainer(steps=10_000, workers=2, progress=False, device="cpu", callbacks=[Die()]).fit(
    Regression(), make_episodes()
)
"""


def test_workers_follow_a_killed_parent() -> None:
    process = _python("-c", ORPHANS, str(Path(__file__).parent), stdout=subprocess.PIPE)
    assert process.stdout is not None
    pids = [int(word) for word in process.stdout.readline().split()]
    assert process.wait(timeout=60) == -signal.SIGKILL and len(pids) == 2
    process.stdout.close()
    until = time.monotonic() + 20
    while any(map(_running, pids)):
        assert time.monotonic() < until, "a worker has outlived its parent"
        time.sleep(0.05)


def _running(pid: int) -> bool:
    status = Path(f"/proc/{pid}/stat")
    try:
        return status.read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


class Failing(Regression):
    """Its examples fail at some step, in another process."""

    def dataset(self, episodes: Any) -> PairSource:
        return FailingSource(episodes)


class FailingSource(PairSource):
    def batch(self, indices: np.ndarray) -> Any:
        if indices[0] % 5 == 0:
            raise PgdiffError("`rewards` must be sound. Got a hole.")
        return super().batch(indices)


def test_an_error_of_the_data_arrives_as_it_is(children: Children) -> None:
    for workers in (0, 1):
        with pytest.raises(PgdiffError, match=r"^`rewards` must be sound\. Got a hole\.$"):
            trainer(workers=workers).fit(Failing(), make_episodes())
    assert children() == []


def test_a_batch_that_cannot_be_sent() -> None:
    class Local(NamedTuple):
        inputs: Any
        targets: Any

    class LocalSource(PairSource):
        def batch(self, indices: np.ndarray) -> Any:
            return Local(*super().batch(indices))

    class Odd(Regression):
        def dataset(self, episodes: Any) -> PairSource:
            return LocalSource(episodes)

    trainer(steps=3).fit(Odd(), make_episodes())
    with pytest.raises(
        PgdiffError, match="`workers` must be 0 for these batches: a Local cannot be sent"
    ):
        trainer(steps=3, workers=1).fit(Odd(), make_episodes())


def test_nothing_global_is_changed() -> None:
    before = [signal.getsignal(n) for n in (signal.SIGCHLD, signal.SIGTERM, signal.SIGINT)]
    state = torch.get_rng_state()
    trainer(workers=1).fit(Regression(dropout=0.1), make_episodes())
    assert [signal.getsignal(n) for n in (signal.SIGCHLD, signal.SIGTERM, signal.SIGINT)] == before
    assert torch.equal(torch.get_rng_state(), state)


# ------------------------------------------------------------------------------------------ sharing


@pytest.fixture
def mapped(tmp_path: Path) -> np.ndarray:
    values = np.random.default_rng(0).normal(size=(50_000, 4)).astype(np.float32)
    np.save(tmp_path / "values.npy", values)
    return np.load(tmp_path / "values.npy", mmap_mode="r").view(np.ndarray)


VIEWS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "whole": lambda x: x,
    "rows": lambda x: x[1000:40_000],
    "strided": lambda x: x[::7, 1:3],
    "backwards": lambda x: x[::-1],
    "transposed": lambda x: x.T,
    "flat": lambda x: x.reshape(-1),
    "bytes": lambda x: x.view(np.uint8),
}


def test_mapped_arrays_are_sent_by_name(mapped: np.ndarray) -> None:
    for view, cut in VIEWS.items():
        array = cut(mapped)
        sent = dumps({"array": array, "more": [array, np.arange(3)]})
        assert len(sent) < 2000 < array.nbytes, view
        got = loads(sent)
        assert np.array_equal(got["array"], array) and got["array"].dtype == array.dtype, view
        assert got["more"][0] is got["array"] and not got["array"].flags.writeable, view
        assert np.array_equal(loads(dumps(got["array"])), array) and len(dumps(got)) < 2000, view


def test_what_cannot_be_opened_again_is_sent_by_value(mapped: np.ndarray, tmp_path: Path) -> None:
    file = tmp_path / "values.npy"
    writable = np.load(file, mmap_mode="c")
    writable[0] = 7.0  # no file holds it
    assert np.array_equal(loads(dumps(writable)), writable)
    other = tmp_path / "other.npy"
    np.save(other, np.asarray(mapped) + 1)
    other.replace(file)  # another file of that name: the mapping shows the old one
    assert np.array_equal(loads(dumps(mapped)), mapped)
    file.unlink()
    assert np.array_equal(loads(dumps(mapped)), mapped)


def test_a_file_that_changes_on_the_way_is_refused(mapped: np.ndarray, tmp_path: Path) -> None:
    sent = dumps(mapped)
    (tmp_path / "values.npy").unlink()
    with pytest.raises(PgdiffError, match=r"values\.npy' must not change"):
        loads(sent)


def test_step_batches_survive_the_way() -> None:
    batches = StepBatches(PairSource(make_episodes()), seed=3, batch_size=5)
    again = loads(dumps(batches))
    for step in (0, 17):
        for one, two in zip(batches[step], again[step], strict=True):
            assert np.array_equal(one, two)
