"""Runs that are killed with -9 at any point and resumed end with equal files."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

import pgdiff.training

COMMON = """
import hashlib, itertools, os, random, shutil, signal, sys, time
from pathlib import Path
import numpy as np
import pgdiff.workflows.train as workflow
from pgdiff.data import Episodes
from pgdiff.runs.run import read_run
from pgdiff.core.serialization import write_whole
from pgdiff.core.validation import PgdiffError
from pgdiff.runs.stages import Stage
from pgdiff.workflows.train import train_stages

# As a picture is written, without its second of drawing.
workflow.loss_picture = lambda history, path, **_: write_whole(path, repr(len(history)))

rng = np.random.default_rng(0)
actions = rng.uniform(-1, 1, (200, 1)).astype(np.float32)
ends = np.arange(1, 201) % 20 == 0
episodes = Episodes.from_arrays(
    observations=actions.cumsum(axis=0), actions=actions, rewards=rng.uniform(size=200),
    terminals=np.zeros(200), timeouts=ends,
)
TRAINER = {"steps": 9, "batch_size": 4, "validation": 0.2, "checkpoint_every": 2, "log_every": 3,
           "keep": 1, "best": "eval/loss", "validate_every": 2}

def stage(name, learner, **arguments):
    arguments = {"stride": 2, "width": 8, "depth": 1, **arguments}
    return Stage(name=name, learner=learner, arguments=arguments, trainer=TRAINER)

STAGES = [stage("inverse_dynamics", "inverse_dynamics"), stage("value", "transition_value")]
OTHER = stage("value", "transition_value", discount=0.5)

def train(folder, stages=STAGES, **options):
    task = {"name": "walk", "id": "Walk-v0"}
    return train_stages(episodes, stages, folder=folder, task=task, progress=False, **options)

def files(run):
    found = {}
    for path in sorted(run.rglob("*")):
        name = str(path.relative_to(run))
        if path.is_file() and "tensorboard" not in name and path.name != "metrics.jsonl":
            found[name] = hashlib.sha256(path.read_bytes()).hexdigest()
    return found

def differences(one, two):
    return [name for name in {**one, **two} if one.get(name) != two.get(name)]

def child(work):
    # True where it was killed.
    pid = os.fork()
    if pid == 0:
        try:
            work()
            os._exit(0)
        except BaseException:
            import traceback
            traceback.print_exc()
            os._exit(1)
    status = os.waitpid(pid, 0)[1]
    assert os.WIFSIGNALED(status) or os.WEXITSTATUS(status) == 0
    return os.WIFSIGNALED(status)

def dies_at(name, call):
    # Kills its own process with -9 just before the given call of one function of the writing.
    original, count = getattr(os, name), itertools.count(1)
    def dying(*arguments, **keywords):
        if next(count) == call:
            os.kill(os.getpid(), signal.SIGKILL)
        return original(*arguments, **keywords)
    setattr(os, name, dying)

root = Path(sys.argv[1])
train(root / "first")  # what is imported late is imported once
began = time.perf_counter()
train(root / "whole")
seconds = time.perf_counter() - began
whole = files(root / "whole")
kills = 0
"""

CALLS = """
CALLS = {"fsync": (1, 2, 9, 30), "rename": (1, 2, 9, 13), "replace": (1, 2, 3),
         "unlink": (1, 6), "rmdir": (1, 3, 5), "mkdir": (1, 2, 5)}
"""

FEW_CALLS = """
CALLS = {"rename": (2, 9)}
"""

TRAINED = """
for name, calls in CALLS.items():
    run = root / name
    for call in calls:
        kills += child(lambda: (dies_at(name, call), train(run, resume=True)))
    child(lambda: train(run, resume=True))
    assert files(run) == whole, (name, differences(files(run), whole))
    left = [path for path in run.rglob(".*") if path.name.startswith(".")]
    assert len(left) <= 1, left
print("kills", kills)
"""

RANDOM = """
draw = random.Random(0)
run = root / "random"
for delay in [draw.uniform(0.01, seconds) for _ in range(10)]:
    # The operating system kills it, wherever it is (SIGALRM has no handler).
    kills += child(lambda: (signal.setitimer(signal.ITIMER_REAL, delay), train(run, resume=True)))
    if run.joinpath("run.json").is_file() and read_run(run).finished:
        assert files(run) == whole, differences(files(run), whole)
        shutil.rmtree(run)
child(lambda: train(run, resume=True))
assert files(run) == whole, differences(files(run), whole)
print("kills", kills)
"""

REPLACED = """
train(root / "replaced")
train(root / "replaced", [OTHER], add=True, overwrite=True)
expected = files(root / "replaced")
assert expected != whole
for name, call in [("rename", 1), ("rename", 2), ("rename", 3), ("rename", 4), ("replace", 1),
                   ("rmdir", 1), ("rmdir", 4), ("unlink", 1), ("unlink", 20), ("fsync", 1),
                   ("fsync", 12)]:
    run = root / f"{name}{call}"
    shutil.copytree(root / "whole", run)
    replace = lambda: train(run, [OTHER], add=True, overwrite=True)
    kills += child(lambda: (dies_at(name, call), replace()))
    record = read_run(run).stage("value")
    if record.finished:  # all as it was, but for checkpoints that are done with
        changed = differences(files(run), whole)
        gone = ("logs/value/", "logs/.value.removed/", ".run.json.")
        assert all(path.startswith(gone) for path in changed), changed
        read_run(run).load("value", device="cpu")
        child(replace)
    else:
        child(lambda: train(run, [OTHER], add=True, resume=True))
    assert files(run) == expected, (name, call, differences(files(run), expected))
print("kills", kills)
"""


def _run(script: str, folder: Path) -> int:
    root = Path(pgdiff.training.__file__).parents[2]
    done = subprocess.run(
        [sys.executable, "-c", COMMON + script, str(folder)],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(root), "OMP_NUM_THREADS": "1"},
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return int(done.stdout.splitlines()[-1].split()[1])


def test_killed_within_a_write_a_run_resumes_to_the_same_end(tmp_path: Path) -> None:
    assert _run(FEW_CALLS + TRAINED, tmp_path) == 2


@pytest.mark.slow
def test_killed_anywhere_a_run_resumes_to_the_same_end(tmp_path: Path) -> None:
    """At writes of checkpoints, results and `run.json`, between stages, and at random moments."""
    assert _run(CALLS + TRAINED + RANDOM, tmp_path) > 15


@pytest.mark.slow
def test_killed_while_a_stage_is_replaced(tmp_path: Path) -> None:
    """Results of the old settings are never used as results of the new stage."""
    assert _run(REPLACED, tmp_path) > 8
