"""Every fault names field, row and fix, equally in `check`, files and arrays."""

import fcntl
import os
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import h5py
import numpy as np
import pytest
from foreign_writers import episodes_of, walks
from wrong_successors import (
    itself_at_ends,
    next_is_row,
    reset_at_ends,
    reset_rows,
    reset_rows_alone,
)

from pgdiff.core.validation import PgdiffError
from pgdiff.data import Episodes, check, load_episodes, write_hdf5
from pgdiff.data.checks import BLOCK_BYTES, BLOCK_ROWS, block_rows

Fields = dict[str, np.ndarray]
Spoil = Callable[[Fields], object]
FLOATS = ("observations", "actions", "rewards", "terminals")

# ---------------------------------------------------------------------------- spoiled arrays


def put(name: str, row: int, value: float, dtype: object = np.float64) -> Spoil:
    def spoil(fields: Fields) -> None:
        fields[name] = fields[name].astype(dtype)
        fields[name][row] = value

    return spoil


def change(name: str, make: Callable[[np.ndarray], np.ndarray]) -> Spoil:
    def spoil(fields: Fields) -> None:
        fields[name] = make(fields[name])

    return spoil


def unmark(fields: Fields) -> None:
    fields["timeouts"][:] = False


# (spoiling, field, row, words of the message, words of the fix)
ARRAYS: dict[str, tuple[Spoil, str, int | None, str, str]] = {
    **{f"NaN in {name}": (put(name, 17, np.nan), name, 17, "NaN", "episode") for name in FLOATS},
    **{f"Inf in {name}": (put(name, 9, -np.inf), name, 9, "infinite", "") for name in FLOATS},
    "NaN in timeouts": (put("timeouts", 3, np.nan), "timeouts", 3, "NaN", ""),
    "NaN in infos": (put("infos/goal", 5, np.nan), "infos/goal", 5, "NaN", ""),
    "NaN in next observations": (
        put("next_observations", 5, np.nan),
        "next_observations",
        5,
        "NaN",
        "",
    ),
    "terminals not flags": (put("terminals", 4, 2), "terminals", 4, "not 0 or 1", "Store 1"),
    "terminals half": (put("terminals", 4, 0.5), "terminals", 4, "not 0 or 1", "Store 1"),
    "negative flags": (put("timeouts", 4, -1, "i1"), "timeouts", 4, "not 0 or 1", "Store 1"),
    "float16 overflow": (put("rewards", 4, np.inf, "f2"), "rewards", 4, "infinite", "Repair"),
    "too large": (put("actions", 11, -2e9), "actions", 11, "above 1e+09", "Rescale"),
    "huge integers": (put("rewards", 6, 2**63, "u8"), "rewards", 6, "above 1e+09", "Rescale"),
    "overflow": (put("observations", 8, 1e39), "observations", 8, "overflows float32", "Rescale"),
    "missing rewards": (lambda f: f.pop("rewards"), "rewards", None, "missing", "Write it"),
    "missing actions": (lambda f: f.pop("actions"), "actions", None, "missing", "Write it"),
    "missing terminals": (lambda f: f.pop("terminals"), "terminals", None, "missing", "Write"),
    "short actions": (change("actions", lambda x: x[:-4]), "actions", 56, "56 rows", "one row per"),
    "one more observation": (
        change("observations", lambda x: np.vstack([x, x[:1]])),
        "observations",
        60,
        "61 rows, but `actions` has 60",
        "one row per step",
    ),
    "doubled timeouts": (change("timeouts", lambda x: np.tile(x, 2)), "timeouts", 60, "120", ""),
    "flags of two columns": (
        change("terminals", lambda x: np.stack([x, x], 1)),
        "terminals",
        None,
        "shape [60, 2]",
        "[steps]",
    ),
    "rank 1": (change("observations", lambda x: x[:, 0]), "observations", None, "shape", "[steps,"),
    "rank 3": (change("actions", lambda x: x[:, None]), "actions", None, "shape", "[steps,"),
    "images": (
        change("observations", lambda x: np.zeros((60, 8, 8, 3), "u1")),
        "observations",
        None,
        "shape [60, 8, 8, 3]",
        "[steps, features]",
    ),
    "discrete actions": (
        change("actions", lambda x: np.zeros(60, "i8")),
        "actions",
        None,
        "shape [60]",
        "[steps, features]",
    ),
    "rank 0": (change("rewards", lambda x: x[0]), "rewards", None, "shape", "[steps]"),
    "no features": (change("actions", lambda x: x[:, :0]), "actions", None, "no features", ""),
    "text": (change("rewards", lambda x: x.astype("S8")), "rewards", None, "text", "float32"),
    "complex": (change("actions", lambda x: x + 1j), "actions", None, "complex", "float32"),
    "records": (
        change("rewards", lambda x: np.zeros(60, [("a", "f4"), ("b", "f4")])),
        "rewards",
        None,
        "records",
        "float32",
    ),
    "next of other shape": (
        change("next_observations", lambda x: x[:, :2]),
        "next_observations",
        None,
        "[60, 2]",
        "same features",
    ),
    "no end marked": (unmark, "timeouts", None, "marks the end", "join_continuous=True"),
    "next is its own row": (next_is_row(0), "next_observations", 0, "its own row", "repair=True"),
    "next is two rows on": (next_is_row(2), "next_observations", 0, "2 rows ahead", "repair=True"),
    "next is the row before": (next_is_row(-1), "next_observations", 0, "1 row back", "repair"),
    "next is a reset at ends": (
        reset_at_ends,
        "next_observations",
        19,
        "first observation of the next episode at 2 of 2 ends",
        "final_obs",
    ),
    "next is its own row at ends": (
        itself_at_ends,
        "next_observations",
        19,
        "its own row at the end of a cut-off episode (3 rows)",
        "repair=True",
    ),
    "rows of a vector's autoreset": (
        reset_rows,
        "observations",
        20,
        "is a reset and not a step of the task (2 rows",
        "repair=True",
    ),
    "rows of an autoreset, without next observations": (
        reset_rows_alone,
        "observations",
        20,
        "is a reset and not a step of the task (2 rows",
        "repair=True",
    ),
    "no timeouts, no end": (lambda f: f.pop("timeouts"), "timeouts", None, "marks the end", ""),
}


def sound(lengths: tuple[int, ...] = (20, 7, 33)) -> Fields:
    fields = episodes_of(walks(goals=False, lengths=lengths)).fields()
    fields["terminals"] = np.zeros(sum(lengths), np.bool_)
    fields["timeouts"] = np.isin(np.arange(sum(lengths)) + 1, np.cumsum(lengths))
    fields["infos/goal"] = fields["observations"][:, :2].copy()
    return {name: values.copy() for name, values in fields.items()}


def test_faults_are_named(tmp_path: Path) -> None:
    path = tmp_path / "bad.hdf5"
    for case, (spoil, field, row, message, fix) in ARRAYS.items():
        fields = sound()
        spoil(fields)
        write_hdf5(path, fields)

        [problem] = check(path)
        assert (problem.field, problem.row) == (field, row), case
        assert message in problem.message, case
        assert fix in problem.fix and problem.fix, case

        with pytest.raises(PgdiffError) as error:
            load_episodes(path)
        assert str(error.value) == f"{path}: {problem}", case
        assert [item.name for item in tmp_path.iterdir()] == ["bad.hdf5"]  # nothing stays behind

        infos = {"goal": fields["infos/goal"]}
        arrays = {name: values for name, values in fields.items() if "/" not in name}
        if {"rewards", "terminals", "actions"} <= set(arrays):
            with pytest.raises(PgdiffError) as error:
                Episodes.from_arrays(**arrays, infos=infos)
            assert str(error.value) == str(problem), case
    assert len(ARRAYS) >= 40


# ------------------------------------------------------------------------------ hostile files

Build = Callable[[Path], Path]


def file_of(work: Callable[[h5py.File, Fields], object]) -> Build:
    """A sound file that `work` then spoils."""

    def build(folder: Path) -> Path:
        fields = sound()
        path = write_hdf5(folder / "bad.hdf5", fields)
        with h5py.File(path, "a") as file:
            work(file, fields)
        return path

    return build


def replaced(name: str, work: Callable[[h5py.File, np.ndarray], object]) -> Build:
    """A sound file in which `work` replaces one field."""

    def spoil(file: h5py.File, fields: Fields) -> None:
        del file[name]
        work(file, fields[name])

    return file_of(spoil)


def bytes_of(content: bytes) -> Build:
    def build(folder: Path) -> Path:
        (folder / "bad.hdf5").write_bytes(content)
        return folder / "bad.hdf5"

    return build


def soft(file: h5py.File, values: np.ndarray) -> None:
    file["elsewhere"] = values
    file["rewards"] = h5py.SoftLink("/elsewhere")


def dangling(file: h5py.File, values: np.ndarray) -> None:
    file["rewards"] = h5py.SoftLink("/nowhere")


def external(file: h5py.File, values: np.ndarray) -> None:
    other = write_hdf5(Path(file.filename).with_name("other.hdf5"), {"rewards": values})
    file["rewards"] = h5py.ExternalLink(str(other), "/rewards")


def outside(file: h5py.File, values: np.ndarray) -> None:
    raw = Path(file.filename).with_name("raw.bin")
    raw.write_bytes(values.tobytes())
    file.create_dataset("rewards", values.shape, "f4", external=[(str(raw), 0, values.nbytes)])


def virtual(file: h5py.File, values: np.ndarray) -> None:
    file["elsewhere"] = values
    layout = h5py.VirtualLayout(values.shape, values.dtype)
    layout[:] = h5py.VirtualSource(file.filename, "elsewhere", values.shape)
    file.create_virtual_dataset("rewards", layout)


def linked_group(file: h5py.File, fields: Fields) -> None:
    file.move("infos", "elsewhere")
    file["infos"] = h5py.SoftLink("/elsewhere")


def noise(size: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, size, np.uint8)


def large_chunks(file: h5py.File, values: np.ndarray) -> None:
    shape = (1 << 26,)
    file.create_dataset("rewards", shape, "f4", chunks=shape, compression="gzip")
    file["padding"] = noise(1 << 19)  # so that the size is possible


def wide_rows(file: h5py.File, values: np.ndarray) -> None:
    file.create_dataset("actions", (60, 1 << 26), "f4", chunks=(1, 1024), compression="gzip")
    file["padding"] = noise(1 << 24)


def flipped(folder: Path) -> Path:
    path = folder / "bad.hdf5"
    with h5py.File(path, "w") as file:
        for name, values in sound().items():
            file.create_dataset(name, data=values, compression="gzip", fletcher32=True)
        chunk = file["rewards"].id.get_chunk_info(0)
    content = bytearray(path.read_bytes())
    content[chunk.byte_offset + chunk.size // 2] ^= 0xFF
    path.write_bytes(content)
    return path


def half(folder: Path) -> Path:
    path = write_hdf5(folder / "bad.hdf5", sound())
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    return path


def unclosed(folder: Path) -> Path:
    """A copy of a file while a recorder writes it in HDF5's single-writer mode."""
    with h5py.File(folder / "live.hdf5", "w", libver="latest") as file:
        for name, values in sound().items():
            file[name] = values
        file.swmr_mode = True
        (folder / "bad.hdf5").write_bytes((folder / "live.hdf5").read_bytes())
    (folder / "live.hdf5").unlink()
    return folder / "bad.hdf5"


def noted(layout: object) -> Build:
    return file_of(lambda file, fields: file.attrs.__setitem__("observation_layout", layout))


PLAIN = "plain data set"
GOOD_LAYOUT = '{"fields": [["a", 4]], "goal": null, "position": []}'

# (building, field, words of the message, words of the fix)
FILES: dict[str, tuple[Build, str, str, str]] = {
    "absent": (lambda folder: folder / "none.hdf5", "file", "does not exist", "Check the path"),
    "a folder": (lambda folder: folder, "file", "is not a file", "Pass the path of an HDF5 file"),
    "empty": (bytes_of(b""), "file", "0 bytes", "Download it again"),
    "another format": (bytes_of(b"PK\x03\x04 no" * 100), "file", "not an HDF5 file", "D4RL"),
    "a pickle": (bytes_of(b"\x80\x04cos\nsystem\n"), "file", "not an HDF5 file", "D4RL"),
    "truncated": (half, "file", "truncated", "again"),
    "not closed by its recorder": (unclosed, "file", "open for writing", "Wait until its recorder"),
    "damaged values": (flipped, "rewards", "cannot be read", "Download the file again"),
    "soft link": (replaced("rewards", soft), "rewards", "link to another", PLAIN),
    "dangling link": (replaced("rewards", dangling), "rewards", "link to another", PLAIN),
    "link to another file": (replaced("rewards", external), "rewards", "location or file", PLAIN),
    "external storage": (replaced("rewards", outside), "rewards", "in another file", PLAIN),
    "virtual data set": (replaced("rewards", virtual), "rewards", "virtual data set", PLAIN),
    "linked group": (file_of(linked_group), "infos", "link to another", PLAIN),
    "a group as a field": (
        replaced("actions", lambda file, _: file.create_group("actions")),
        "actions",
        "is a group",
        "Store it as a data set",
    ),
    "unknown filter": (
        replaced(
            "timeouts", lambda file, x: file.create_dataset("timeouts", data=x * 1, scaleoffset=2)
        ),
        "timeouts",
        "compressed with the filter",
        PLAIN,
    ),
    "2^60 rows": (
        replaced(
            "rewards", lambda f, _: f.create_dataset("rewards", (1 << 60,), "f4", chunks=(9,))
        ),
        "rewards",
        "claims 4611686018427387904 bytes",
        "again",
    ),
    "2^60 columns": (
        replaced(
            "actions", lambda f, _: f.create_dataset("actions", (60, 1 << 54), "f4", chunks=(1, 9))
        ),
        "actions",
        "claims 4323455642275676160 bytes",
        "again",
    ),
    "one chunk for all": (replaced("rewards", large_chunks), "rewards", "268435456", "smaller"),
    "rows too wide": (replaced("actions", wide_rows), "actions", "chunks or rows", "smaller"),
    "null data space": (
        replaced("rewards", lambda file, _: file.create_dataset("rewards", data=h5py.Empty("f4"))),
        "rewards",
        "is empty",
        "Record at least one step",
    ),
    "texts of any length": (
        replaced("rewards", lambda file, x: file.create_dataset("rewards", data=["one"] * 60)),
        "rewards",
        "text or objects",
        "float32",
    ),
    "rows of unequal length": (
        replaced(
            "actions",
            lambda file, x: file.create_dataset("actions", (60,), h5py.vlen_dtype(np.float32)),
        ),
        "actions",
        "text or objects",
        "float32",
    ),
    "references": (
        replaced(
            "actions", lambda file, x: file.create_dataset("actions", (60, 2), h5py.ref_dtype)
        ),
        "actions",
        "text or objects",
        "float32",
    ),
    "invalid JSON as the layout": (
        noted("__import__('os')"),
        "file",
        "`observation_layout`",
        "Remove",
    ),
    "a number as the layout": (noted(7), "file", "`observation_layout`", "Remove"),
    "a layout of size 0": (noted(GOOD_LAYOUT.replace("4", "0")), "file", "at least 1", "Remove"),
    "deep JSON as the layout": (noted("[" * 50_000), "file", "`observation_layout`", "Remove"),
}


def test_files_are_refused(tmp_path: Path) -> None:
    for number, (case, (build, field, message, fix)) in enumerate(FILES.items()):
        folder = tmp_path / str(number)
        folder.mkdir()
        path = build(folder)
        before = sorted(folder.rglob("*"))
        [problem] = check(path)
        assert (problem.field, problem.row in (None, 0)) == (field, True), case
        assert message in problem.message and fix in problem.fix, case
        with pytest.raises(PgdiffError) as error:
            load_episodes(path)
        assert str(error.value) == f"{path}: {problem}", case
        assert sorted(folder.rglob("*")) == before, case
    assert len(FILES) >= 20


def test_a_file_that_is_being_written_says_so(tmp_path: Path) -> None:
    path = write_hdf5(tmp_path / "bad.hdf5", sound())
    writer = os.open(path, os.O_RDWR)
    try:
        fcntl.flock(writer, fcntl.LOCK_EX)  # as HDF5 locks what it writes
        [problem] = check(path)
        assert "open for writing in another process" in problem.message
        assert "Wait until its recorder has closed it" in problem.fix
    finally:
        os.close(writer)
    assert check(path) == []


def test_a_layout_that_does_not_fit(tmp_path: Path) -> None:
    path = noted(GOOD_LAYOUT)(tmp_path)
    with pytest.raises(PgdiffError, match=r"`observation_layout` must have 3 .* Got 4") as error:
        load_episodes(path)
    assert str(path) in str(error.value)


def test_truncated_at_any_length(tmp_path: Path) -> None:
    whole = write_hdf5(tmp_path / "whole.hdf5", sound()).read_bytes()
    path = tmp_path / "cut.hdf5"
    for size in np.linspace(100, len(whole) - 1, 20).astype(int):
        path.write_bytes(whole[:size])
        [problem] = check(path)
        assert "truncated" in problem.message, size


def test_file_without_fields(tmp_path: Path) -> None:
    path = write_hdf5(tmp_path / "bad.hdf5", {})
    assert {p.field for p in check(path)} == {"observations", "actions", "rewards", "terminals"}


def test_empty_recording(tmp_path: Path) -> None:
    fields = sound()
    path = write_hdf5(tmp_path / "bad.hdf5", {name: x[:0] for name, x in fields.items()})
    problems = check(path)
    assert {p.field for p in problems} == set(fields)
    assert all("is empty" in p.message for p in problems)
    with pytest.raises(PgdiffError, match="is empty"):
        load_episodes(path)


def test_check_lists_all_faults_and_counts_rows(tmp_path: Path) -> None:
    fields = sound()
    fields["observations"][[30, 12, 12]] = np.nan
    fields["observations"][40, 1] = np.inf
    fields["rewards"][2] = np.inf
    del fields["actions"]
    problems = check(write_hdf5(tmp_path / "bad.hdf5", fields))
    assert [(p.field, p.row) for p in problems] == [
        ("actions", None),
        ("observations", 12),
        ("observations", 40),
        ("rewards", 2),
    ]
    assert "2 rows" in problems[1].message
    assert "(1 row)" in problems[2].message


def test_faults_beyond_the_first_block(tmp_path: Path) -> None:
    fields = sound((70_000, 70_000))
    fields["rewards"][[66_000, 139_999]] = np.nan
    [problem] = check(write_hdf5(tmp_path / "bad.hdf5", fields))
    assert problem.row == 66_000
    assert "2 rows" in problem.message


def test_blocks_are_bounded_however_wide_a_row_is() -> None:
    for width in (1, 17, 1000, 100_000, 10_000_000):
        wide = SimpleNamespace(shape=(1_000_000, width), dtype=np.dtype(np.float64))
        rows = block_rows(wide)
        assert 1 <= rows <= BLOCK_ROWS
        assert rows == 1 or rows * width * 8 <= BLOCK_BYTES


def test_unknown_info_and_ragged_arrays(recording) -> None:
    fields = recording()
    with pytest.raises(PgdiffError, match=r"infos/speed.*infos/goal"):
        Episodes.from_arrays(**fields, infos={"speed": fields["actions"]})
    fields["actions"] = [[1.0, 2.0], [3.0]]
    with pytest.raises(PgdiffError, match=r"`actions`.*unequal"):
        Episodes.from_arrays(**fields)
