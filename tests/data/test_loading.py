"""Loading of files: values, cache, bytes."""

import hashlib
import os
import resource
from pathlib import Path

import h5py
import numpy as np
import pytest

from pgdiff.core.processes import dumps, loads
from pgdiff.core.validation import PgdiffError
from pgdiff.data import (
    Episodes,
    ObservationLayout,
    check,
    join_episodes,
    load_episodes,
    write_hdf5,
)


def test_values_come_back(tmp_path: Path, recording) -> None:
    fields = recording()
    fields["infos/qpos"] = fields["observations"].astype(np.float64)
    fields["next_observations"] = fields["observations"] + 1
    fields["unknown"] = np.array([b"left alone"])
    episodes = load_episodes(write_hdf5(tmp_path / "a.hdf5", fields))
    for name in ("observations", "actions", "rewards", "terminals", "timeouts"):
        values = getattr(episodes, name)
        assert values.dtype == fields[name].dtype
        np.testing.assert_array_equal(values, fields[name])
        assert isinstance(values.base, np.memmap)
        with pytest.raises(ValueError, match="read-only"):
            values[0] = 0
    assert list(episodes.infos) == ["qpos"]
    assert episodes.infos["qpos"].dtype == np.float32
    np.testing.assert_array_equal(episodes.next_observations, fields["next_observations"])
    np.testing.assert_array_equal(episodes.lengths, [20, 7, 33])
    assert (len(episodes), episodes.steps) == (3, 60)


def test_d4rl_forms(tmp_path: Path, recording) -> None:
    """Integer flags, float64, [steps, 1] columns and gzip are accepted."""
    fields = recording()
    path = tmp_path / "a.hdf5"
    with h5py.File(path, "w") as file:
        for name, values in fields.items():
            form = values.astype(np.uint8 if values.dtype == bool else np.float64)
            form = form[:, None] if form.ndim == 1 else form
            file.create_dataset(name, data=form, compression="gzip", shuffle=True)
    loaded, direct = load_episodes(path), Episodes.from_arrays(**fields)
    np.testing.assert_array_equal(loaded.rewards, direct.rewards)
    np.testing.assert_array_equal(loaded.timeouts, direct.timeouts)
    np.testing.assert_array_equal(loaded.ends, direct.ends)


def test_many_blocks(tmp_path: Path, recording) -> None:
    fields = recording((100_000, 50_001))
    episodes = load_episodes(write_hdf5(tmp_path / "a.hdf5", fields))
    np.testing.assert_array_equal(episodes.observations, fields["observations"])
    np.testing.assert_array_equal(episodes.ends, [100_000, 150_001])


def test_cache_is_used_and_renewed(tmp_path: Path, recording) -> None:
    path = write_hdf5(tmp_path / "a.hdf5", recording())
    load_episodes(path)
    [folder] = (tmp_path / "a.hdf5.cache").iterdir()
    before = {item.name: item.stat().st_mtime_ns for item in folder.iterdir()}
    old = load_episodes(path)
    assert {item.name: item.stat().st_mtime_ns for item in folder.iterdir()} == before

    changed = recording(seed=1)
    write_hdf5(path, changed)
    np.testing.assert_array_equal(load_episodes(path).rewards, changed["rewards"])
    assert len(list((tmp_path / "a.hdf5.cache").iterdir())) == 1
    np.testing.assert_array_equal(old.rewards, recording()["rewards"])  # still mapped


def test_damaged_cache_is_rebuilt(tmp_path: Path, recording) -> None:
    fields = recording()
    path = write_hdf5(tmp_path / "a.hdf5", fields)
    load_episodes(path)
    [folder] = (tmp_path / "a.hdf5.cache").iterdir()
    os.truncate(folder / "rewards.npy", 150)
    np.testing.assert_array_equal(load_episodes(path).rewards, fields["rewards"])


def test_cache_elsewhere(tmp_path: Path, recording) -> None:
    path = write_hdf5(tmp_path / "data" / "a.hdf5", recording())
    load_episodes(path, cache_dir=tmp_path / "cache")
    assert [item.name for item in path.parent.iterdir()] == ["a.hdf5"]
    assert (tmp_path / "cache" / "a.hdf5").is_dir()


def test_without_a_place_for_the_cache(tmp_path: Path, recording, monkeypatch) -> None:
    fields = recording()
    path = write_hdf5(tmp_path / "data" / "a.hdf5", fields)
    (tmp_path / "data" / "a.hdf5.cache").write_text("a file is in the way")
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(temporary))
    episodes = load_episodes(path)
    np.testing.assert_array_equal(episodes.observations, fields["observations"])
    assert list(temporary.iterdir()) == []


def test_full_disk(tmp_path: Path, recording, monkeypatch) -> None:
    def full(*_):
        raise OSError(28, "No space left on device")

    path = write_hdf5(tmp_path / "a.hdf5", recording())
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(PgdiffError, match=r"No space left.*`cache_dir`"):
        load_episodes(path)
    assert [item.name for item in tmp_path.iterdir()] == ["a.hdf5"]


def test_recordings_hold_no_file_open(tmp_path: Path, recording) -> None:
    """Join more recordings than the process can have open files."""
    paths = [write_hdf5(tmp_path / f"{i}.hdf5", recording((3, 4), seed=i)) for i in range(20)]
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    free = os.open(os.devnull, os.O_RDONLY)  # the lowest free descriptor
    os.close(free)
    resource.setrlimit(resource.RLIMIT_NOFILE, (free + 15, before[1]))
    try:
        read = [load_episodes(path) for path in paths for _ in range(2)]
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
    joined = join_episodes(read)
    assert len(joined) == 80
    assert np.array_equal(joined.rewards[-7:], recording((3, 4), seed=19)["rewards"])
    assert all(isinstance(part.rewards.base, np.memmap) for part in read)


def test_mapped_fields_are_sent_to_workers_by_name(tmp_path: Path, recording) -> None:
    observations = load_episodes(write_hdf5(tmp_path / "a.hdf5", recording((9000,)))).observations
    sent = dumps([observations, observations[5::2]])
    assert len(sent) < 2000 < observations.nbytes
    whole, part = loads(sent)
    assert np.array_equal(whole, observations) and np.array_equal(part, observations[5::2])


def test_a_home_directory_is_expanded(tmp_path: Path, recording, monkeypatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    write_hdf5("~/a.hdf5", recording())
    assert (tmp_path / "a.hdf5").is_file() and check("~/a.hdf5") == []
    assert load_episodes("~/a.hdf5", cache_dir="~/cache").steps == 60
    assert (tmp_path / "cache" / "a.hdf5").is_dir()
    with pytest.raises(PgdiffError, match="does not exist"):
        load_episodes("~nobody-of-this-name/a.hdf5")


def test_two_readers_at_once(tmp_path: Path, recording, monkeypatch) -> None:
    """The second process to finish uses the folder of the first."""
    fields = recording()
    path = write_hdf5(tmp_path / "a.hdf5", fields)
    rename = Path.rename

    def late(self, target):
        monkeypatch.setattr(Path, "rename", rename)
        load_episodes(path)
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", late)
    np.testing.assert_array_equal(load_episodes(path).rewards, fields["rewards"])
    assert len(list((tmp_path / "a.hdf5.cache").iterdir())) == 1


def test_cache_of_a_joined_file_does_not_hide_the_fault(tmp_path: Path, recording) -> None:
    fields = recording()
    del fields["timeouts"]
    path = write_hdf5(tmp_path / "a.hdf5", fields)
    assert len(load_episodes(path, join_continuous=True)) == 1
    with pytest.raises(PgdiffError, match="marks the end"):
        load_episodes(path)


def test_equal_data_give_equal_bytes(tmp_path: Path, recording) -> None:
    def digest(name: str, fields: dict[str, np.ndarray]) -> str:
        fields = fields | {"infos/goal": fields["actions"]}
        path = write_hdf5(tmp_path / name, fields, {"seed": 3, "env_id": "maze"})
        return hashlib.sha256(path.read_bytes()).hexdigest()

    fields = recording()
    backwards = dict(reversed(fields.items()))
    assert digest("a.hdf5", fields) == digest("b.hdf5", backwards)
    assert digest("a.hdf5", fields) != digest("c.hdf5", recording(seed=1))


def test_failed_write_leaves_the_old_file(tmp_path: Path, recording) -> None:
    path = write_hdf5(tmp_path / "a.hdf5", recording())
    before = path.read_bytes()
    with pytest.raises(TypeError):
        write_hdf5(path, recording(seed=1) | {"zzz": np.array([object()])})
    assert path.read_bytes() == before
    assert [item.name for item in tmp_path.iterdir()] == ["a.hdf5"]


def test_episode_length_for_a_file_without_timeouts(tmp_path: Path, recording) -> None:
    fields = recording((40,))
    del fields["timeouts"]
    path = write_hdf5(tmp_path / "a.hdf5", fields)
    np.testing.assert_array_equal(load_episodes(path, episode_length=15).lengths, [15, 15, 10])
    np.testing.assert_array_equal(load_episodes(path, episode_length=20).lengths, [20, 20])
    with pytest.raises(PgdiffError, match="marks the end"):
        load_episodes(path)
    marked = write_hdf5(tmp_path / "b.hdf5", recording())
    with pytest.raises(PgdiffError, match=rf"{marked}: `episode_length` is for recordings without"):
        load_episodes(marked, episode_length=15)


def test_a_lone_unfinished_episode_is_marked_when_written(tmp_path: Path, recording) -> None:
    fields = recording((9,))
    del fields["timeouts"]
    episodes = Episodes.from_arrays(**fields, join_continuous=True)
    again = load_episodes(write_hdf5(tmp_path / "a.hdf5", episodes))
    assert np.flatnonzero(again.timeouts).tolist() == [8]
    np.testing.assert_array_equal(again.observations, episodes.observations)


def test_a_cache_remembers_the_layout(tmp_path: Path, recording) -> None:
    layout = ObservationLayout(fields=(("a", 1), ("b", 2)))
    episodes = Episodes.from_arrays(**recording(), observation_layout=layout)
    path = write_hdf5(tmp_path / "a.hdf5", episodes, {"seed": 3})
    for _ in range(2):
        assert load_episodes(path).observation_layout == layout
    with h5py.File(path) as file:
        assert file.attrs["seed"] == 3
