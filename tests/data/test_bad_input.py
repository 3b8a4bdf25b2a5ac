"""Every fault names the field, the row and the mend, alike in `check`, files and arrays."""

from pathlib import Path

import h5py
import numpy as np
import pytest

from pgdiff.data import Episodes, check, load_episodes, write_hdf5
from pgdiff.validation import PgdiffError

FLOATS = ("observations", "actions", "rewards", "terminals")


def _put(name, row, value, dtype=np.float64):
    def spoil(fields):
        fields[name] = fields[name].astype(dtype)
        fields[name][row] = value

    return spoil


def _set(name, make):
    def spoil(fields):
        fields[name] = make(fields[name])

    return spoil


def _unmark(fields):
    fields["timeouts"][:] = False


# (spoiling, field, row, words of the message and the mend)
CASES = {
    **{f"NaN in {name}": (_put(name, 17, np.nan), name, 17, "NaN", "episode") for name in FLOATS},
    **{f"Inf in {name}": (_put(name, 9, -np.inf), name, 9, "infinite", "") for name in FLOATS},
    "NaN timeouts": (_put("timeouts", 3, np.nan), "timeouts", 3, "NaN", ""),
    "NaN in infos": (_put("infos/goal", 5, np.nan), "infos/goal", 5, "NaN", ""),
    "NaN next": (_put("next_observations", 5, np.nan), "next_observations", 5, "NaN", ""),
    "terminals not flags": (_put("terminals", 4, 2), "terminals", 4, "not 0 or 1", "Store 1"),
    "terminals half": (_put("terminals", 4, 0.5), "terminals", 4, "not 0 or 1", "Store 1"),
    "too large": (_put("actions", 11, -2e9), "actions", 11, "above 1e+09", "Rescale"),
    "overflow": (_put("observations", 8, 1e39), "observations", 8, "overflows float32", "Rescale"),
    "missing rewards": (lambda f: f.pop("rewards"), "rewards", None, "missing", "Write it"),
    "missing terminals": (lambda f: f.pop("terminals"), "terminals", None, "missing", "Write"),
    "short actions": (_set("actions", lambda x: x[:-4]), "actions", 56, "56 rows", "one row per"),
    "long timeouts": (_set("timeouts", lambda x: np.tile(x, 2)), "timeouts", 60, "120 rows", ""),
    "rank 1": (_set("observations", lambda x: x[:, 0]), "observations", None, "shape", "[steps,"),
    "rank 3": (_set("actions", lambda x: x[:, None]), "actions", None, "shape", "[steps,"),
    "rank 0": (_set("rewards", lambda x: x[0]), "rewards", None, "shape", "[steps]"),
    "no features": (_set("actions", lambda x: x[:, :0]), "actions", None, "no features", ""),
    "text": (_set("rewards", lambda x: x.astype("S8")), "rewards", None, "text", "float32"),
    "complex": (_set("actions", lambda x: x + 1j), "actions", None, "complex", "float32"),
    "next of other shape": (
        _set("next_observations", lambda x: x[:, :2]),
        "next_observations",
        None,
        "[60, 2]",
        "same features",
    ),
    "no end marked": (_unmark, "timeouts", None, "marks the end", "join_continuous=True"),
    "no timeouts, no end": (lambda f: f.pop("timeouts"), "timeouts", None, "marks the end", ""),
}


@pytest.fixture
def fields(recording):
    fields = recording()
    fields["next_observations"] = fields["observations"].copy()
    fields["infos/goal"] = fields["observations"][:, :2].copy()
    return fields


@pytest.mark.parametrize("case", CASES)
def test_fault_is_named(tmp_path: Path, fields, case: str) -> None:
    spoil, field, row, message, mend = CASES[case]
    spoil(fields)
    path = write_hdf5(tmp_path / "bad.hdf5", fields)

    [problem] = check(path)
    assert (problem.field, problem.row) == (field, row)
    assert message in problem.message
    assert mend in problem.mend and problem.mend

    with pytest.raises(PgdiffError) as error:
        load_episodes(path)
    assert str(error.value) == f"{path}: {problem}"
    assert [item.name for item in tmp_path.iterdir()] == ["bad.hdf5"]  # nothing stays behind

    infos = {"goal": fields["infos/goal"]}
    arrays = {name: values for name, values in fields.items() if "/" not in name}
    if {"rewards", "terminals"} <= set(arrays):
        with pytest.raises(PgdiffError) as error:
            Episodes.from_arrays(**arrays, infos=infos)
        assert str(error.value) == str(problem)


def test_check_lists_all_faults_and_counts_rows(tmp_path: Path, fields) -> None:
    fields["observations"][[30, 12, 12]] = np.nan
    fields["observations"][40, 1] = np.inf
    fields["rewards"][2] = np.inf
    del fields["actions"]
    found = check(write_hdf5(tmp_path / "bad.hdf5", fields))
    assert [(p.field, p.row) for p in found] == [
        ("actions", None),
        ("observations", 12),
        ("observations", 40),
        ("rewards", 2),
    ]
    assert "2 such rows" in found[1].message
    assert "1 such row)" in found[2].message


def test_faults_beyond_the_first_block(tmp_path: Path, recording) -> None:
    fields = recording((70_000, 70_000))
    fields["rewards"][[66_000, 139_999]] = np.nan
    [problem] = check(write_hdf5(tmp_path / "bad.hdf5", fields))
    assert problem.row == 66_000
    assert "2 such rows" in problem.message


def test_sound_file_has_no_faults(tmp_path: Path, fields) -> None:
    assert check(write_hdf5(tmp_path / "good.hdf5", fields)) == []


def _one_problem(path: Path) -> str:
    [problem] = check(path)
    with pytest.raises(PgdiffError) as error:
        load_episodes(path)
    assert str(error.value) == f"{path}: {problem}"
    return str(problem)


def test_absent_file(tmp_path: Path) -> None:
    assert "does not exist" in _one_problem(tmp_path / "none.hdf5")
    assert not list(tmp_path.iterdir())


def test_folder_and_empty_and_foreign_files(tmp_path: Path) -> None:
    assert "is no file" in _one_problem(tmp_path)
    path = tmp_path / "file.hdf5"
    path.write_bytes(b"")
    assert "0 bytes" in _one_problem(path)
    path.write_bytes(b"PK\x03\x04 not HDF5 at all" * 100)
    assert "not an HDF5 file" in _one_problem(path)


def test_file_without_fields(tmp_path: Path) -> None:
    path = write_hdf5(tmp_path / "bad.hdf5", {})
    assert {p.field for p in check(path)} == {"observations", "actions", "rewards", "terminals"}


def test_empty_recording(tmp_path: Path, fields) -> None:
    path = write_hdf5(tmp_path / "bad.hdf5", {name: x[:0] for name, x in fields.items()})
    found = check(path)
    assert {p.field for p in found} == set(fields)
    assert all("is empty" in p.message for p in found)
    with pytest.raises(PgdiffError, match="is empty"):
        load_episodes(path)


def test_truncated_file_at_any_length(tmp_path: Path, fields) -> None:
    whole = write_hdf5(tmp_path / "whole.hdf5", fields).read_bytes()
    path = tmp_path / "cut.hdf5"
    for size in np.linspace(100, len(whole) - 1, 40).astype(int):
        path.write_bytes(whole[:size])
        assert "truncated" in _one_problem(path), size


def test_damaged_values_are_reported(tmp_path: Path, fields) -> None:
    path = tmp_path / "bad.hdf5"
    with h5py.File(path, "w") as file:
        for name, values in fields.items():
            file.create_dataset(name, data=values, compression="gzip", fletcher32=True)
        chunk = file["rewards"].id.get_chunk_info(0)
    content = bytearray(path.read_bytes())
    content[chunk.byte_offset + chunk.size // 2] ^= 0xFF
    path.write_bytes(content)
    assert "cannot be read" in _one_problem(path)


@pytest.mark.parametrize("kind", ["soft", "external", "virtual", "storage"])
def test_only_plain_data_sets_are_read(tmp_path: Path, fields, kind: str) -> None:
    other = write_hdf5(tmp_path / "other.hdf5", fields)
    rewards = fields.pop("rewards")
    path = write_hdf5(tmp_path / "bad.hdf5", fields)
    with h5py.File(path, "a") as file:
        if kind == "soft":
            file["elsewhere"] = rewards
            file["rewards"] = h5py.SoftLink("/elsewhere")
        elif kind == "external":
            file["rewards"] = h5py.ExternalLink(str(other), "/rewards")
        elif kind == "virtual":
            layout = h5py.VirtualLayout(rewards.shape, rewards.dtype)
            layout[:] = h5py.VirtualSource(str(other), "rewards", rewards.shape)
            file.create_virtual_dataset("rewards", layout)
        else:
            raw = tmp_path / "raw.bin"
            raw.write_bytes(rewards.tobytes())
            file.create_dataset("rewards", rewards.shape, "f4", external=[(str(raw), 0, 240)])
    found = [p for p in check(path) if p.field == "rewards"]
    assert len(found) == 1
    assert "plain data set" in found[0].mend
    with pytest.raises(PgdiffError, match="plain data set"):
        load_episodes(path)


def test_linked_group_and_group_as_field(tmp_path: Path, fields) -> None:
    goal = fields.pop("infos/goal")
    path = write_hdf5(tmp_path / "bad.hdf5", fields)
    with h5py.File(path, "a") as file:
        file["elsewhere/goal"] = goal
        file["infos"] = h5py.SoftLink("/elsewhere")
        del file["actions"]
        file.create_group("actions")
    assert [p.field for p in check(path)][:2] == ["actions", "infos/goal"]


def test_shape_that_the_file_cannot_hold(tmp_path: Path, fields) -> None:
    del fields["rewards"]
    path = write_hdf5(tmp_path / "bad.hdf5", fields)
    with h5py.File(path, "a") as file:
        file.create_dataset("rewards", (2**50,), "f4", chunks=(1024,))
    assert "claims" in str(next(p for p in check(path) if p.field == "rewards"))


def test_unknown_info_and_ragged_arrays(recording) -> None:
    fields = recording()
    with pytest.raises(PgdiffError, match=r"infos/speed.*infos/goal"):
        Episodes.from_arrays(**fields, infos={"speed": fields["actions"]})
    fields["actions"] = [[1.0, 2.0], [3.0]]
    with pytest.raises(PgdiffError, match=r"`actions`.*unequal"):
        Episodes.from_arrays(**fields)
