"""`collect`, `check` and `info`."""

import json
from pathlib import Path

import h5py
import numpy as np
import pytest

from pgdiff.saving import FORMAT


def test_collect(pgdiff, tmp_path: Path) -> None:
    result = pgdiff("collect", "task=maze2d-umaze-v1", "steps=600")
    assert result.code == 0
    assert result.out.splitlines()[-1] == "data: data/maze2d-umaze-v1.hdf5"
    assert "600 steps in" in result.out and "score" in result.out
    assert {file.name for file in (tmp_path / "data").iterdir()} == {
        "maze2d-umaze-v1.hdf5",
        "maze2d-umaze-v1.png",
    }
    assert list(tmp_path.iterdir()) == [tmp_path / "data"]


def test_collect_keeps_what_is_there(pgdiff, tmp_path: Path) -> None:
    words = ["collect", "steps=200", "out=a.hdf5"]
    assert pgdiff(*words).code == 0
    before = (tmp_path / "a.hdf5").read_bytes()
    result = pgdiff(*words, "seed=1")
    assert result.code == 1
    assert "overwrite=true" in result.error
    assert (tmp_path / "a.hdf5").read_bytes() == before
    assert pgdiff(*words, "seed=1", "overwrite=true").code == 0
    assert (tmp_path / "a.hdf5").read_bytes() != before


def test_noise_changes_the_actions(pgdiff, tmp_path: Path) -> None:
    assert pgdiff("collect", "steps=200", "out=a.hdf5", "noise=0.0").code == 0
    assert pgdiff("collect", "steps=200", "out=b.hdf5", "noise=0.5").code == 0
    with h5py.File(tmp_path / "a.hdf5") as a, h5py.File(tmp_path / "b.hdf5") as b:
        assert not np.array_equal(a["actions"][:], b["actions"][:])


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("steps=0", "`steps`"),
        ("steps=many", "`steps`"),
        ("seed=-1", "`seed`"),
        ("noise=-0.5", "`noise`"),
        ("overwrite=yes", "`overwrite` must be true or false"),
        ("task.id=Nothing-v0", "Got 'Nothing-v0'"),
        ("task.id=CartPole-v1", "Got 'CartPole-v1', which has none"),
    ],
)
def test_collect_refuses(pgdiff, tmp_path: Path, word: str, message: str) -> None:
    result = pgdiff("collect", "steps=100", word)
    if word.startswith("overwrite"):
        (tmp_path / "data").mkdir()
        (tmp_path / "data" / "maze2d-umaze-v1.hdf5").touch()
        result = pgdiff("collect", "steps=100", word)
    assert result.code == 1
    assert message in result.error
    assert not list(tmp_path.rglob("*.png"))


def test_check(pgdiff, data: Path) -> None:
    result = pgdiff("check", data)
    assert result.code == 0
    assert result.out == f"{data}: no problems found\n"


def spoiled(data: Path, target: Path) -> Path:
    target.write_bytes(data.read_bytes())
    with h5py.File(target, "r+") as file:
        file["observations"][7, 1] = np.nan
        file["rewards"][9] = np.inf
    return target


def test_check_lists_field_row_and_mend(pgdiff, data: Path, tmp_path: Path) -> None:
    result = pgdiff("check", spoiled(data, tmp_path / "bad.hdf5"))
    assert result.code == 1
    first, second, last = result.out.splitlines()
    assert first.startswith("observations, row 7: is NaN") and "Repair" in first
    assert second.startswith("rewards, row 9: is infinite")
    assert last == f"{tmp_path / 'bad.hdf5'}: 2 problems found"


@pytest.mark.parametrize("name", ["absent.hdf5", "text.hdf5", "."])
def test_check_of_no_data(pgdiff, tmp_path: Path, name: str) -> None:
    (tmp_path / "text.hdf5").write_text("text")
    result = pgdiff("check", name)
    assert result.code == 1
    assert result.out.startswith("file: ")


def test_info_on_data_leaves_nothing_beside_it(pgdiff, data: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy.hdf5"
    copy.write_bytes(data.read_bytes())
    result = pgdiff("info", copy)
    assert result.code == 0
    assert "steps: 5000" in result.out
    assert "episodes: 1, of 5000 to 5000 steps" in result.out
    assert "observations [5000, 4]: " in result.out
    assert "infos/goal [5000, 2]: " in result.out
    assert list(tmp_path.iterdir()) == [copy]


def test_info_on_networks(pgdiff, run_folder: Path) -> None:
    result = pgdiff("info", run_folder / "model")
    assert result.code == 0
    assert "kind: trajectory_diffusion (TrajectoryDiffusion)" in result.out
    assert "tokens of observations [4]" in result.out
    assert "trained with these given: start" in result.out
    assert f"format: {FORMAT}, written by pgdiff" in result.out
    for stage in ("value", "inverse_dynamics"):
        assert pgdiff("info", run_folder / stage).code == 0


def test_info_on_a_run(pgdiff, run_folder: Path) -> None:
    result = pgdiff("info", run_folder)
    assert result.code == 0
    assert "task: maze2d-umaze-v1" in result.out
    assert "status: finished" in result.out
    assert "model (trajectory_diffusion): finished, 20 steps, loss" in result.out
    assert "by default value" in result.out


@pytest.mark.parametrize("name", ["absent", "empty", "text.hdf5"])
def test_info_on_nothing(pgdiff, tmp_path: Path, name: str) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "text.hdf5").write_text("text")
    result = pgdiff("info", name)
    assert result.code == 1
    assert name in result.error


def test_info_on_a_flipped_byte(pgdiff, own_run: Path) -> None:
    file = own_run / "model" / "model.safetensors"
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    result = pgdiff("info", own_run / "model")
    assert result.code == 1
    assert "model.safetensors' is damaged" in result.error


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda run: "{", "is damaged"),
        (lambda run: "[]", "is damaged"),
        (lambda run: json.dumps({**run, "format": 99}), "Install a newer pgdiff"),
        (lambda run: json.dumps({**run, "stages": [{"name": "model"}]}), "is damaged"),
        (lambda run: json.dumps({k: v for k, v in run.items() if k != "task"}), "is damaged"),
        (
            lambda run: json.dumps({**run, "stages": [{**run["stages"][0], "name": "../model"}]}),
            "is damaged",
        ),
    ],
)
def test_info_on_a_damaged_run(pgdiff, own_run: Path, change, message: str) -> None:
    file = own_run / "run.json"
    file.write_text(change(json.loads(file.read_text())))
    for command in (["info", own_run], ["plan", f"run={own_run}"]):
        result = pgdiff(*command)
        assert result.code == 1
        assert message in result.error
