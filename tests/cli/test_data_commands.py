"""`collect`, `check`, `convert` and `info`."""

import json
from pathlib import Path

import h5py
import numpy as np
import pytest

from pgdiff.core.serialization import FORMAT
from pgdiff.data import load_episodes, write_hdf5


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


def test_collect_refuses(pgdiff, tmp_path: Path) -> None:
    for word, message in (
        ("steps=many", "`steps`"),
        ("seed=-1", "`seed`"),
        ("noise=-0.5", "`noise`"),
        ("overwrite=yes", "`overwrite` must be true or false"),
        ("task.id=Nothing-v0", "Got 'Nothing-v0'"),
        ("task.id=CartPole-v1", "Got 'CartPole-v1', which has none"),
    ):
        result = pgdiff("collect", "steps=100", word)
        assert result.code == 1, word
        assert message in result.error
    assert not list(tmp_path.iterdir())


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


def test_check_of_no_data(pgdiff, tmp_path: Path) -> None:
    (tmp_path / "text.hdf5").write_text("text")
    for name in ("absent.hdf5", "text.hdf5", "."):
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
    assert "ends: 0 terminals, 1 timeouts\n" in result.out
    assert "observations [5000, 4]:\n  0: " in result.out
    assert "infos/goal [5000, 2]:\n" in result.out
    assert "jumps inside episodes: none" in result.out
    assert list(tmp_path.iterdir()) == [copy]


def recorded(path: Path, **changes) -> Path:
    """Two episodes of a slow walk that begin far apart."""
    rng = np.random.default_rng(0)
    fields = {
        "observations": rng.normal(0, 0.01, size=(800, 2)).cumsum(axis=0)
        + np.repeat([[0], [9]], 400, 0),
        "actions": rng.uniform(-1, 1, size=(800, 1)),
        "rewards": np.ones(800),
        "terminals": np.zeros(800, bool),
        "timeouts": np.arange(800) % 400 == 399,
    }
    fields |= changes
    return write_hdf5(path, {name: x for name, x in fields.items() if x is not None})


def test_info_reports_what_looks_wrong(pgdiff, tmp_path: Path) -> None:
    sound = pgdiff("info", recorded(tmp_path / "a.hdf5"))
    assert "jumps inside episodes: none" in sound.out
    assert "ends close to the next row: 0 of 1" in sound.out
    assert "rewards [800]:\n  1 to 1, mean 1, std 0, constant" in sound.out
    assert "returns: 400 to 400" in sound.out
    late = recorded(tmp_path / "b.hdf5", timeouts=np.arange(800) % 401 == 400)
    found = pgdiff("info", late)
    assert found.code == 0
    assert "jumps inside episodes: 1, after row 399; these may be ends" in found.out
    assert "close to the next row: 1 of 1; without next_observations it is unknown" in found.out
    assert "join_continuous" not in found.out
    assert "the last episode is unfinished" in found.out


def test_advice_to_join_follows_the_recorded_next_observations(pgdiff, tmp_path: Path) -> None:
    """A mark where the walk goes on is none; a reset nearby is one."""
    walk = np.random.default_rng(0).normal(0, 0.01, size=(801, 2)).cumsum(axis=0)
    goes_on = recorded(
        tmp_path / "a.hdf5", observations=walk[:-1], next_observations=walk[1:].copy()
    )
    assert "continues: 1 of 1 (join_continuous=true drops them)" in pgdiff("info", goes_on).out
    after = walk[1:].copy()
    after[399] += 0.005
    reset = recorded(tmp_path / "b.hdf5", observations=walk[:-1], next_observations=after)
    assert "ends after which the recording continues: 0 of 1\n" in pgdiff("info", reset).out
    assert len(load_episodes(reset, join_continuous=True)) == 2


def test_faults_of_successors_and_hints_are_shown_and_repaired(pgdiff, tmp_path: Path) -> None:
    walk = np.random.default_rng(0).normal(0, 0.01, size=(801, 2)).cumsum(axis=0)
    walk[400:] += 9
    path = recorded(
        tmp_path / "a.hdf5",
        observations=walk[:-1],
        next_observations=walk[1:].copy(),  # of the reset, at row 399
        timeouts=np.arange(800) % 400 == 399,
    )
    checked, found = pgdiff("check", path), pgdiff("info", path)
    assert checked.code == 1 and "next_observations, row 399: is the first" in checked.out
    assert found.code == 0 and "problem: `next_observations`, row 399: is the first" in found.out
    assert "(join_continuous" not in found.out and "next_observations [" not in found.out
    assert "repair=True" in pgdiff("convert", f"data={path}", "out=b.hdf5").error
    assert pgdiff("convert", f"data={path}", "out=b.hdf5", "repair=true").code == 0
    assert "no problems" in pgdiff("check", "b.hdf5").out
    limited = recorded(tmp_path / "c.hdf5", timeouts=None, terminals=np.arange(800) % 50 == 49)
    for command in ("check", "info"):
        result = pgdiff(command, limited)
        assert result.code == 0 and "ends its episode after exactly 50 rows" in result.out
    assert "hint: terminals, row 49" in pgdiff("check", limited).out


def test_info_on_a_file_without_any_end(pgdiff, tmp_path: Path) -> None:
    result = pgdiff("info", recorded(tmp_path / "a.hdf5", timeouts=None))
    assert result.code == 0
    assert "no end of an episode: Write `timeouts`" in result.out
    assert "jumps inside episodes: 1, after row 399" in result.out


def test_info_shows_no_more_than_forty_features(pgdiff, tmp_path: Path) -> None:
    wide = recorded(tmp_path / "a.hdf5", observations=np.zeros((800, 1000)))
    result = pgdiff("info", wide)
    assert "and 960 more; 1000 features are constant" in result.out
    assert len(result.out.splitlines()) < 70


def test_info_uses_the_cache_that_is_there(pgdiff, tmp_path: Path, monkeypatch) -> None:
    path = recorded(tmp_path / "a.hdf5")
    load_episodes(path)
    monkeypatch.setattr("tempfile.TemporaryDirectory", None)
    assert pgdiff("info", path).code == 0


@pytest.fixture
def store(tmp_path: Path, monkeypatch) -> Path:
    folder = tmp_path / "store"
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(folder))
    return folder


def test_convert_to_minari_and_back(pgdiff, data: Path, tmp_path: Path, store: Path) -> None:
    words = ["convert", f"data={data}", "to=minari", "out=maze/walk-v0"]
    result = pgdiff(*words)
    assert result.code == 0
    assert result.out.splitlines()[-2:] == [
        "5000 steps, 1 episodes",
        f"data: {store / 'maze' / 'walk-v0'}",
    ]
    assert "overwrite=" in pgdiff(*words).error
    assert pgdiff(*words, "overwrite=true").code == 0
    assert pgdiff("check", "maze/walk-v0").out == "maze/walk-v0: no problems found\n"
    for place in ("maze/walk-v0", store / "maze" / "walk-v0"):
        assert "observations [5000, 4]:" in pgdiff("info", place).out
    back = ["convert", "data=maze/walk-v0", "out=back.hdf5"]
    assert pgdiff(*back).code == 0
    with h5py.File(data) as a, h5py.File(tmp_path / "back.hdf5") as b:
        for name in ("observations", "actions", "rewards", "terminals", "timeouts", "infos/goal"):
            assert np.array_equal(a[name][:], b[name][:]), name
    assert "'back.hdf5' exists already. Set overwrite=true" in pgdiff(*back).error


def test_convert_can_cut_episodes(pgdiff, tmp_path: Path) -> None:
    source = recorded(tmp_path / "a.hdf5", timeouts=None)
    words = ["convert", f"data={source}", "out=b.hdf5"]
    assert "marks the end" in pgdiff(*words).error
    assert pgdiff(*words, "episode_length=200").code == 0
    with h5py.File(tmp_path / "b.hdf5") as file:
        assert np.flatnonzero(file["timeouts"][:]).tolist() == [199, 399, 599, 799]


def test_convert_draws_a_share_and_joins(pgdiff, tmp_path: Path) -> None:
    recorded(tmp_path / "a.hdf5", timeouts=np.arange(800) % 40 == 39)
    for seed in (0, 1):
        words = [f"out={seed}.hdf5", "share=0.25", f"seed={seed}"]
        assert "200 steps, 5 episodes" in pgdiff("convert", "data=a.hdf5", *words).out
    assert "400 steps, 10 episodes" in pgdiff("convert", "data=[0.hdf5,1.hdf5]", "out=c.hdf5").out
    with h5py.File(tmp_path / "a.hdf5") as a, h5py.File(tmp_path / "c.hdf5") as c:
        whole = {row.tobytes() for row in a["observations"][:].astype(np.float32)}
        drawn = [row.tobytes() for row in c["observations"][:].astype(np.float32)]
    assert set(drawn) <= whole and len(set(drawn)) > 200
    assert set(drawn[:200]) != set(drawn[200:])


def test_convert_refuses(pgdiff, tmp_path: Path, store: Path) -> None:
    recorded(tmp_path / "a.hdf5", timeouts=None, terminals=np.arange(800) % 400 == 399)
    for words, message in (
        (["data=a.hdf5", "out=b.hdf5", "share=0"], "`share` must be"),
        (["out=b.hdf5"], "`data` must be given. Got null. Set data=PATH"),
        (["data=a.hdf5"], "`out` must be given. Got null. Set out=PATH"),
        (["data=a.hdf5", "out=b", "to=minary"], "`to` must be one of {hdf5, minari}"),
        (["data=a.hdf5", "out=b", "to=minari"], "`dataset_id` must be like 'namespace/name-v0'"),
        (["data=none-v0", "out=b.hdf5"], "minari download none-v0"),
        (["data=a.hdf5", "out=b.hdf5", "episode_length=0"], "`episode_length` must be"),
    ):
        result = pgdiff("convert", *words)
        assert result.code == 1, words
        assert message in result.error
    assert not (tmp_path / "b.hdf5").exists() and not (tmp_path / "b").exists()


def test_check_and_info_of_an_id_that_is_not_there(pgdiff, store: Path) -> None:
    for command in ("check", "info"):
        result = pgdiff(command, "D4RL/door/human-v2")
        assert result.code == 1
        assert "minari download D4RL/door/human-v2" in result.error


def test_info_on_networks(pgdiff, run_folder: Path) -> None:
    result = pgdiff("info", run_folder / "model")
    assert result.code == 0
    assert "kind: trajectory_diffusion (TrajectoryDiffusion)" in result.out
    assert "tokens of observations [4]" in result.out
    assert "in-painting patterns: start\n" in result.out
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


def test_info_on_nothing(pgdiff, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "text.hdf5").write_text("text")
    for name in ("absent", "empty", "text.hdf5"):
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


def test_info_on_a_damaged_run(pgdiff, own_run: Path) -> None:
    file = own_run / "run.json"
    run = json.loads(file.read_text())
    for text, message in (
        ("{", "is damaged"),
        ("[]", "is damaged"),
        (json.dumps({**run, "format": 99}), "Install a newer pgdiff"),
        (json.dumps({**run, "stages": [{"name": "model"}]}), "is damaged"),
        (json.dumps({k: v for k, v in run.items() if k != "task"}), "is damaged"),
        (json.dumps({**run, "stages": [{**run["stages"][0], "name": "../model"}]}), "is damaged"),
    ):
        file.write_text(text)
        for command in (["info", own_run], ["plan", f"run={own_run}"]):
            result = pgdiff(*command)
            assert result.code == 1
            assert message in result.error
