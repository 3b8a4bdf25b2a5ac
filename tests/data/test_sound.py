"""Unusual but valid recordings are accepted, and their values come back."""

import os
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np

from pgdiff.core.validation import PgdiffError
from pgdiff.data import SegmentDataset, check, fit_normalizer, load_episodes, write_hdf5
from pgdiff.data.quality import field_statistics, quality

Fields = dict[str, np.ndarray]
FLAGS = ("terminals", "timeouts")
MAIN = ("observations", "actions", "rewards", *FLAGS)


def base(lengths: tuple[int, ...] = (20, 7, 33)) -> Fields:
    rng = np.random.default_rng(0)
    steps = sum(lengths)
    return {
        "observations": rng.normal(size=(steps, 3)).astype(np.float32),
        "actions": rng.uniform(-1, 1, size=(steps, 2)).astype(np.float32),
        "rewards": rng.random(steps).astype(np.float32),
        "terminals": np.zeros(steps, np.bool_),
        "timeouts": np.isin(np.arange(1, steps + 1), np.cumsum(lengths)),
    }


Build = Callable[[Path], tuple[Path, Fields]]


def stored(
    change: Callable[[Fields], object] | None = None, name: str = "a.hdf5", **options
) -> Build:
    """The base recording, changed, in a file with these options of h5py's."""

    def build(folder: Path) -> tuple[Path, Fields]:
        fields = base()
        if change is not None:
            change(fields)
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        with h5py.File(path, "w") as file:
            for key, values in fields.items():
                file.create_dataset(key, data=values, **options)
        return path, fields

    return build


def typed(flags: str | None = None, others: str | None = None) -> Build:
    """The base recording with flags and values of other types."""

    def change(fields: Fields) -> None:
        for name, values in fields.items():
            to = flags if name in FLAGS else others
            fields[name] = values if to is None else values.astype(to)

    return stored(change)


def value(name: str, rows: object, number: float) -> Build:
    """The base recording with a number in some rows."""

    def change(fields: Fields) -> None:
        fields[name][rows] = number

    return stored(change)


def of_lengths(*lengths: int) -> Build:
    def build(folder: Path) -> tuple[Path, Fields]:
        fields = base(lengths)
        return write_hdf5(folder / "a.hdf5", fields), fields

    return build


def columns(fields: Fields) -> None:
    for name in ("rewards", *FLAGS):
        fields[name] = fields[name][:, None]


def unfinished(fields: Fields) -> None:
    fields["timeouts"][-1] = False


def both(fields: Fields) -> None:
    fields["terminals"][[19, 59]] = True


def only_terminals(fields: Fields) -> None:
    fields["terminals"] = fields.pop("timeouts")


def extra(fields: Fields) -> None:
    fields["unknown"] = np.array([b"text", b"left alone"])
    fields["infos/action_log_probs"] = np.full(7, np.nan)
    fields["metadata/policy/fc0/weight"] = np.ones((2, 2))


def every_info(fields: Fields) -> None:
    for name in ("goal", "next_goal", "qpos", "qvel", "class"):
        fields[f"infos/{name}"] = fields["observations"][:, :1].copy()
    fields["next_observations"] = fields["observations"] + 1


def far_apart(fields: Fields) -> None:
    fields["observations"] *= np.array([1e-30, 1, 1e8], np.float32)


def one_row(folder: Path) -> tuple[Path, Fields]:
    return of_lengths(1)(folder)


def attributes(folder: Path) -> tuple[Path, Fields]:
    path, fields = stored()(folder)
    with h5py.File(path, "a") as file:
        for number in range(1000):
            file.attrs[f"note{number}"] = number
        file["rewards"].attrs["unit"] = "points"
    return path, fields


def symlink(folder: Path) -> tuple[Path, Fields]:
    path, fields = stored(name="elsewhere/a.hdf5")(folder)
    link = folder / "link.hdf5"
    link.symlink_to(path)
    return link, fields


def read_only(folder: Path) -> tuple[Path, Fields]:
    path, fields = stored(name="locked/a.hdf5")(folder)
    path.chmod(0o444)
    path.parent.chmod(0o555)
    return path, fields


def many(folder: Path) -> tuple[Path, Fields]:
    return of_lengths(*[2, 3] * 10_000)(folder)


def hard_link(folder: Path) -> tuple[Path, Fields]:
    """Two names for one data set."""
    path, fields = stored(lambda fields: fields.pop("timeouts"))(folder)
    with h5py.File(path, "a") as file:
        file["terminals"][[19, 59]] = True
        file["timeouts"] = file["terminals"]
        fields["terminals"] = fields["timeouts"] = file["terminals"][:]
    return path, fields


def old_format(folder: Path) -> tuple[Path, Fields]:
    fields = base()
    with h5py.File(folder / "a.hdf5", "w", libver="earliest", userblock_size=512) as file:
        for name, values in fields.items():
            file[name] = values
    return folder / "a.hdf5", fields


def new_format(folder: Path) -> tuple[Path, Fields]:
    fields = base()
    with h5py.File(folder / "a.hdf5", "w", libver="latest") as file:
        for name, values in fields.items():
            file[name] = values
    return folder / "a.hdf5", fields


def fortran(fields: Fields) -> None:
    for name, values in fields.items():
        fields[name] = np.asfortranarray(values)


def strided(fields: Fields) -> None:
    for name, values in fields.items():
        fields[name] = np.repeat(values, 2, axis=0)[::2]


def resizable(folder: Path) -> tuple[Path, Fields]:
    fields = base()
    with h5py.File(folder / "a.hdf5", "w") as file:
        for name, values in fields.items():
            shape = (None, *values.shape[1:])
            file.create_dataset(name, data=values[:10], maxshape=shape)
            file[name].resize(len(values), axis=0)
            file[name][:] = values
    return folder / "a.hdf5", fields


CASES: dict[str, Build] = {
    "plain": stored(),
    "float64": typed(others="f8"),
    "float16": typed(others="f2"),
    "big-endian": typed(others=">f4"),
    "long double": typed(others=np.longdouble().dtype.str),
    "uint8 flags": typed(flags="u1"),
    "int64 flags": typed(flags="i8"),
    "float flags": typed(flags="f4"),
    "big-endian flags": typed(flags=">i4"),
    "bool rewards": stored(lambda f: f.update(rewards=f["rewards"] > 0.5)),
    "int rewards": stored(lambda f: f.update(rewards=(9 * f["rewards"]).astype("i4"))),
    "integer observations": stored(
        lambda f: f.update(observations=(f["observations"]).astype("i2"))
    ),
    "[steps, 1] columns": stored(columns),
    "Fortran order": stored(fortran),
    "strided arrays": stored(strided),
    "constant feature": value("observations", (slice(None), 1), 3.0),
    "all constant": value("observations", slice(None), 0.0),
    "constant actions": value("actions", slice(None), -1.0),
    "zero rewards": value("rewards", slice(None), 0.0),
    "negative rewards": value("rewards", slice(None), -5.0),
    "negative zero": value("rewards", slice(None), -0.0),
    "subnormal numbers": value("observations", slice(None), 1e-42),
    "the largest allowed": value("actions", 3, 1e9),
    "features far apart in size": stored(far_apart),
    "one-step episodes": of_lengths(1, 1, 1, 1),
    "one row": one_row,
    "one episode": of_lengths(60),
    "20,000 episodes": many,
    "a very long episode": of_lengths(200_000),
    "very unequal lengths": of_lengths(1, 5000, 2),
    "unfinished last episode": stored(unfinished),
    "terminal and timeout in one row": stored(both),
    "no timeouts": stored(only_terminals),
    "every info and next observations": stored(every_info),
    "extra fields and groups": stored(extra),
    "a thousand attributes": attributes,
    "chunked": stored(chunks=True),
    "gzip": stored(compression="gzip", compression_opts=9),
    "lzf": stored(compression="lzf"),
    "shuffled": stored(compression="gzip", shuffle=True),
    "fletcher32": stored(fletcher32=True),
    "resizable": resizable,
    "two names for one data set": hard_link,
    "earliest format and a user block": old_format,
    "latest format": new_format,
    "unicode path": stored(name="données/迷路 ü.hdf5"),
    "path with spaces": stored(name="my data/a b.hdf5"),
    "path with quotes and percent signs": stored(name='it\'s 100% "mine".hdf5'),
    "no suffix": stored(name="recording"),
    "symbolic link": symlink,
    "read-only file and folder": read_only,
}


def test_accepted(tmp_path: Path) -> None:
    for number, (case, build) in enumerate(CASES.items()):
        folder = tmp_path / str(number)
        folder.mkdir()
        path, fields = build(folder)
        try:
            accept(path, fields)
        except (AssertionError, PgdiffError) as error:
            raise AssertionError(case) from error
    assert len(CASES) >= 30


def accept(path: Path, fields: Fields) -> None:
    assert check(path) == []
    episodes = load_episodes(path)
    steps = len(fields["observations"])
    for name in MAIN:
        expected = fields.get(name, np.zeros(steps, np.bool_))
        kind = np.bool_ if name in FLAGS else np.float32
        values = getattr(episodes, name)
        assert values.dtype == kind
        assert np.array_equal(values, expected.reshape(values.shape).astype(kind)), name
        assert np.array_equal(np.signbit(values), np.signbit(expected.reshape(values.shape)))
    marks = (episodes.terminals | episodes.timeouts).copy()
    marks[-1] = True
    assert np.array_equal(episodes.ends, np.flatnonzero(marks) + 1)

    # Later stages accept it too: segments, normalisers, statistics, the quality report.
    dataset = SegmentDataset(episodes, 2, 1, padding="repeat", fields=("observations", "rewards"))
    batch = dataset.batch(np.arange(min(len(dataset), 100)))
    assert np.isfinite(batch.observations).all() and np.isfinite(batch.rewards).all()
    for kind in ("limits", "standard"):
        assert fit_normalizer(kind, [episodes.observations]).scale.min() > 0
    assert np.isfinite(field_statistics(episodes.observations).std).all()
    assert quality(episodes).ends == len(episodes) - 1
    path.parent.chmod(0o755)


def test_a_folder_that_cannot_be_written(tmp_path: Path, monkeypatch) -> None:
    """The result equals `read-only file and folder`, even for a user who may write anywhere."""
    path, fields = stored()(tmp_path)
    mkdir = Path.mkdir

    def refuse(self: Path, *arguments, **options) -> None:
        if self.name.endswith(".cache"):
            raise PermissionError(13, "Permission denied")
        mkdir(self, *arguments, **options)

    monkeypatch.setattr(Path, "mkdir", refuse)
    assert np.array_equal(load_episodes(path).rewards, fields["rewards"])
    assert os.listdir(tmp_path) == ["a.hdf5"]
