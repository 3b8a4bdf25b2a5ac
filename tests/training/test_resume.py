"""Exact resume, and the effect of damaged or foreign checkpoints."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from regression import Regression, make_episodes
from stopping import Stop

import pgdiff.training
from pgdiff.core.validation import PgdiffError
from pgdiff.critics import TransitionValue
from pgdiff.data import Episodes
from pgdiff.training import Trainer, list_checkpoints
from pgdiff.training.checkpoint import check_settings


def learner() -> Regression:
    return Regression(noise=0.2, dropout=0.1)


def trainer(folder: Path, **settings: Any) -> Trainer:
    defaults = {
        "steps": 200,
        "batch_size": 8,
        "log_every": 50,
        "checkpoint_every": 50,
        "ema_decay": 0.95,
        "progress": False,
        "device": "cpu",
    }
    return Trainer(folder=folder, **defaults | settings)


def interrupted(folder: Path, at: int = 120, **settings: Any) -> None:
    with pytest.raises(KeyboardInterrupt):
        trainer(folder, callbacks=[Stop(at)], **settings).fit(learner(), make_episodes())


def names(folder: Path) -> list[str]:
    return [p.name for p in list_checkpoints(folder / "checkpoints")]


def flip(file: Path, position: int = -1) -> None:
    data = bytearray(file.read_bytes())
    data[position] ^= 4
    file.write_bytes(data)


def same_files(one: Path, two: Path) -> None:
    files = sorted(p.name for p in one.iterdir())
    assert len(files) == 5 and files == sorted(p.name for p in two.iterdir())
    for name in files:
        assert (one / name).read_bytes() == (two / name).read_bytes(), name


def test_resumed_run_equals_the_whole_one_bit_for_bit(tmp_path: Path) -> None:
    whole = trainer(tmp_path / "whole")
    reference = whole.fit(learner(), make_episodes())
    interrupted(tmp_path / "cut")
    assert names(tmp_path / "cut") == ["step-00000050", "step-00000100"]
    resumed = trainer(tmp_path / "cut", resume=True)
    other = Regression(seed=99, noise=0.2, dropout=0.1)  # its weights come from the checkpoint
    result = resumed.fit(other, make_episodes())
    for name, value in reference.state_dict().items():
        assert torch.equal(result.state_dict()[name], value), name
    # Weights, averages, optimiser and counters, byte for byte.
    assert (
        names(tmp_path / "cut") == names(tmp_path / "whole") == ["step-00000150", "step-00000200"]
    )
    for name in names(tmp_path / "whole"):
        same_files(*(tmp_path / run / "checkpoints" / name for run in ("whole", "cut")))
    timeless = [
        [{k: v for k, v in record.items() if not k.startswith("time/")} for record in run.history]
        for run in (whole, resumed)
    ]
    assert timeless[0] == timeless[1]
    lines = (tmp_path / "cut" / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines] == resumed.history


def test_tensorboard_shows_every_step_once(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    interrupted(tmp_path, at=170, log_every=10)
    (tmp_path / "checkpoints" / "step-00000150").rename(tmp_path / "gone")
    trainer(tmp_path, resume=True, log_every=10).fit(learner(), make_episodes())
    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    steps = [point.step for point in events.Scalars("train/loss")]
    assert steps == list(range(10, 201, 10))
    assert len(list((tmp_path / "tensorboard").iterdir())) == 2


def test_resuming_a_finished_run_changes_nothing(tmp_path: Path) -> None:
    first = trainer(tmp_path, steps=100).fit(learner(), make_episodes())
    again = trainer(tmp_path, steps=100, resume=True)
    second = again.fit(Regression(seed=5, noise=0.2, dropout=0.1), make_episodes())
    assert torch.equal(first.weight, second.weight) and again.step == 100
    assert not second.training


def test_resume_without_a_checkpoint_starts_from_nothing(tmp_path: Path) -> None:
    interrupted(tmp_path / "cut", at=30)
    resumed = trainer(tmp_path / "cut", resume=True).fit(learner(), make_episodes())
    whole = trainer(tmp_path / "whole").fit(learner(), make_episodes())
    assert torch.equal(whole.weight, resumed.weight)


def test_a_training_is_not_overwritten(tmp_path: Path) -> None:
    interrupted(tmp_path)
    with pytest.raises(PgdiffError, match="resume=True"):
        trainer(tmp_path).fit(learner(), make_episodes())


def test_a_damaged_checkpoint_is_named_and_the_one_before_is_used(tmp_path: Path) -> None:
    """For every file and bit of it, see `test_corruption`."""
    interrupted(tmp_path)
    file = "ema.safetensors"
    flip(tmp_path / "checkpoints" / "step-00000100" / file)
    resumed = trainer(tmp_path, resume=True)
    with pytest.warns(UserWarning, match=rf"step-00000100/{file}' is damaged.*step-00000050"):
        result = resumed.fit(learner(), make_episodes())
    whole = trainer(tmp_path / "whole").fit(learner(), make_episodes())
    assert torch.equal(result.weight, whole.weight)
    assert (tmp_path / "checkpoints" / "step-00000100.damaged").is_dir()
    assert names(tmp_path) == ["step-00000150", "step-00000200"]


def test_all_checkpoints_damaged_is_an_error(tmp_path: Path) -> None:
    interrupted(tmp_path)
    for name in names(tmp_path):
        (tmp_path / "checkpoints" / name / "manifest.json").unlink()
    with pytest.raises(PgdiffError, match=r"are damaged.*step-00000100' has no manifest"):
        trainer(tmp_path, resume=True).fit(learner(), make_episodes())


def test_other_settings_are_no_resumption(tmp_path: Path) -> None:
    interrupted(tmp_path)
    for settings, message in (
        ({"seed": 1}, "`seed` must be 0, as in .*Got 1"),
        ({"steps": 300}, "`steps` must be 200"),
        ({"learning_rate": 0.1}, "`learning_rate` must be 0.0003"),
    ):
        with pytest.raises(PgdiffError, match=message):
            trainer(tmp_path, resume=True, **settings).fit(learner(), make_episodes())


def test_other_data_or_another_network_is_no_resumption(tmp_path: Path) -> None:
    class Wider(Regression):
        def __init__(self) -> None:
            super().__init__(noise=0.2, dropout=0.1)
            self.more = torch.nn.Parameter(torch.zeros(2))

    interrupted(tmp_path)
    with pytest.raises(PgdiffError, match="`examples` must be"):
        trainer(tmp_path, resume=True).fit(learner(), make_episodes(count=13))
    with pytest.raises(PgdiffError, match="`learner` must be 'Regression'"):
        trainer(tmp_path, resume=True).fit(Wider(), make_episodes())
    Wider.__name__ = "Regression"
    with pytest.raises(PgdiffError, match=r"missing \['more'\]"):
        trainer(tmp_path, resume=True).fit(Wider(), make_episodes())


def test_changed_rows_and_other_episodes_are_no_resumption(tmp_path: Path) -> None:
    """This holds at any place, and with unchanged numbers of rows and episodes."""
    whole = make_episodes(count=53)
    used = whole.select(np.arange(50))
    with pytest.raises(KeyboardInterrupt):
        trainer(tmp_path, callbacks=[Stop(60)]).fit(learner(), used)

    def changed(name: str, rows: slice, value: Any = 7.0) -> Episodes:
        fields = {name: values.copy() for name, values in whole.fields().items()}
        fields[name][rows] = value
        return Episodes.from_arrays(**fields).select(np.arange(50))

    others = {
        "60 rows of observations": changed("observations", slice(1003, 1063)),
        "the last reward": changed("rewards", slice(1999, 2000)),
        "the first action": changed("actions", slice(0, 1)),
        "another cut": changed("timeouts", slice(38, 40), [True, False]),
        "other episodes": whole.select(np.arange(1, 51)),
        "another order": whole.select(np.arange(50)[::-1]),
    }
    for what, episodes in others.items():
        with pytest.raises(PgdiffError, match="`episodes` must be identical"):
            trainer(tmp_path, resume=True).fit(learner(), episodes)
            pytest.fail(what)
    # Rows that belong to none of its episodes do not count.
    unused = changed("observations", slice(2003, 2063))
    assert trainer(tmp_path, resume=True).fit(learner(), unused)


def test_other_arguments_of_the_learner_are_no_resumption(tmp_path: Path) -> None:
    def value(**arguments: Any) -> TransitionValue:
        return TransitionValue.from_episodes(episodes, stride=2, width=8, depth=1, **arguments)

    episodes = make_episodes()
    with pytest.raises(KeyboardInterrupt):
        trainer(tmp_path, callbacks=[Stop(60)]).fit(value(), episodes)
    with pytest.raises(PgdiffError, match=r"`expectile` of the learner must be 0\.9, as in .*0\.5"):
        trainer(tmp_path, resume=True).fit(value(expectile=0.5), episodes)
    assert trainer(tmp_path, resume=True).fit(value(), episodes)


def test_records_of_earlier_versions_are_compared_as_far_as_they_go() -> None:
    new = {"seed": 0, "data": "ab", "arguments": {"width": 8, "added": 1}, "first_batch": "cd"}
    folder = Path("step-00000050")
    check_settings(new, {"seed": 0, "first_batch": "cd"}, folder)
    check_settings(new, {"seed": 0}, folder)
    check_settings(new, new | {"arguments": {"width": 8, "removed": 2}}, folder)
    for old, message in (
        ({"first_batch": "ef"}, "`episodes` must be identical"),
        ({"data": "gh"}, "`episodes` must be identical"),
        ({"arguments": {"width": 9}}, "`width` of the learner must be 9"),
        ({"seed": 1}, "`seed` must be 1"),
    ):
        with pytest.raises(PgdiffError, match=message):
            check_settings(new, new | old, folder)


def test_only_the_newest_are_kept(tmp_path: Path) -> None:
    trainer(tmp_path, keep=1, checkpoint_every=30).fit(learner(), make_episodes())
    assert names(tmp_path) == ["step-00000200"]
    assert [p.name for p in (tmp_path / "checkpoints").iterdir()] == ["step-00000200"]


KILLED = """
import os, signal, sys
import torch.utils.tensorboard  # once, not in every child
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from regression import Regression, make_episodes
from pgdiff.core import serialization
from pgdiff.training import Trainer

folder, episodes = Path(sys.argv[2]), make_episodes()

def fit(**settings):
    Trainer(steps=30, batch_size=4, checkpoint_every=5, log_every=5, folder=folder, keep=1,
            progress=False, device="cpu", **settings).fit(Regression(noise=0.1), episodes)

def dies_at(name, call):
    # Kills its own process with -9 just before the given call of one function of the writing.
    original, count = getattr(os, name), 0
    def dying(*arguments, **keywords):
        nonlocal count
        count += 1
        if count == call:
            os.kill(os.getpid(), signal.SIGKILL)
        return original(*arguments, **keywords)
    setattr(os, name, dying)

fit()  # what PyTorch imports late, imported once
serialization._remove(folder)
kills = 0
for name in sys.argv[3].split(","):
    for call in (1, 2, 4, 8, 13):
        child = os.fork()
        if child == 0:
            dies_at(name, call)
            fit(resume=True)
            os._exit(0)
        kills += os.WIFSIGNALED(os.waitpid(child, 0)[1])
        if call == 13:
            fit(resume=True)
            whole = (folder / "checkpoints/step-00000030/manifest.json").read_bytes()
            serialization._remove(folder)
            print(name, hash(whole), flush=True)
print(kills)
"""


@pytest.mark.parametrize(
    "functions",
    ["rename", pytest.param("fsync,rename,unlink,rmdir", marks=pytest.mark.slow)],
)
def test_killed_within_a_checkpoint_resumes_to_the_same_end(functions: str, tmp_path: Path) -> None:
    """It is killed with -9 at fsyncs, renames and removals, and resumed each time."""
    root = Path(pgdiff.training.__file__).parents[2]
    environment = {
        **os.environ,
        "PYTHONPATH": str(root),
        "OMP_NUM_THREADS": "1",
        "PYTHONHASHSEED": "0",
    }
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            KILLED,
            str(Path(__file__).parent),
            str(tmp_path / "run"),
            functions,
        ],
        capture_output=True,
        text=True,
        env=environment,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    *ends, kills = done.stdout.split("\n")[:-1]
    assert len({end.split()[1] for end in ends}) == 1, "every run ends with the same weights"
    assert int(kills) > 2 * len(functions.split(","))
