"""Every fault of a Minari data set is named, equally in `check` and `load_episodes`."""

import atexit
import json
import os
import shutil
import tempfile
from collections.abc import Callable
from functools import cache
from pathlib import Path
from unittest import mock

import h5py
import numpy as np
import pytest
from foreign_writers import LAYOUT, LENGTHS, by_minari, walks

from pgdiff.core.validation import PgdiffError
from pgdiff.data import check, load_episodes

PLAIN = "plain data set"


@cache
def sound_data_set(goals: bool) -> Path:
    """Write a data set once; the cases spoil copies of it."""
    folder = Path(tempfile.mkdtemp())
    atexit.register(shutil.rmtree, folder)
    with mock.patch.dict(os.environ, MINARI_DATASETS_PATH=str(folder)):
        return folder / by_minari(walks(goals=goals), "bad-v0", LAYOUT if goals else None)


def copy_to(store: Path, *, goals: bool = False) -> Path:
    """Copy the data set to a store; return its `data` folder."""
    return shutil.copytree(sound_data_set(goals), store / "bad-v0") / "data"


def minari_of(
    work: Callable[[h5py.File], object], *, goals: bool = False
) -> Callable[[Path], None]:
    """Write the data set "bad-v0" and spoil its main file."""

    def build(folder: Path) -> None:
        with h5py.File(copy_to(folder, goals=goals) / "main_data.hdf5", "a") as file:
            work(file)

    return build


def metadata_of(**changes: object) -> Callable[[Path], None]:
    def build(folder: Path) -> None:
        path = copy_to(folder) / "metadata.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | changes))

    return build


def without(path: str) -> Callable[[h5py.File], None]:
    return lambda file: file.__delitem__(path)


def shorter(path: str, rows: int) -> Callable[[h5py.File], None]:
    return lambda file: file[path].resize(rows, axis=0)


def instead(path: str, *arguments: object) -> Callable[[h5py.File], None]:
    def work(file: h5py.File) -> None:
        del file[path]
        file.create_dataset(path, data=np.zeros(*arguments))

    return work


def nan(file: h5py.File) -> None:
    file["episode_1/rewards"][3] = np.nan


def circle(file: h5py.File) -> None:
    del file["episode_1/observations"]
    group = file.create_group("episode_1/observations")
    group["again"] = group


def forest(file: h5py.File) -> None:
    """Seven groups, 20 names for each: 20^7 paths."""
    del file["episode_1/observations"]
    group = file.create_group("episode_1/observations")
    for depth in range(6):
        below = file.create_group(f"hidden/{depth}")
        for number in range(20):
            group[f"x{number}"] = below
        group = below


def linked(file: h5py.File) -> None:
    del file["episode_1/rewards"]
    file["episode_1/rewards"] = h5py.SoftLink("/episode_0/rewards")


def linked_episode(file: h5py.File) -> None:
    del file["episode_1"]
    file["episode_1"] = h5py.ExternalLink("/etc/passwd", "/")


def grouped(path: str, *keys: str) -> Callable[[h5py.File], None]:
    def work(file: h5py.File) -> None:
        for number in range(len(LENGTHS)):
            values = file[f"episode_{number}/{path}"][:]
            del file[f"episode_{number}/{path}"]
            for key in keys:
                file[f"episode_{number}/{path}/{key}"] = values

    return work


def cut_metadata(folder: Path) -> None:
    path = copy_to(folder) / "metadata.json"
    path.write_text(path.read_text()[:40])


def no_main(folder: Path) -> None:
    (copy_to(folder) / "main_data.hdf5").unlink()


def text(file: h5py.File) -> None:
    del file["episode_1/actions"]
    file.create_dataset("episode_1/actions", data=np.full((7, 2), b"left"))


def discrete(file: h5py.File) -> None:
    for number, length in enumerate(LENGTHS):
        instead(f"episode_{number}/observations", length + 1, np.int64)(file)


def other_goal(file: h5py.File) -> None:
    for number, length in enumerate(LENGTHS):
        instead(f"episode_{number}/observations/desired_goal", (length + 1, 3))(file)


IMAGE = json.dumps({"type": "Box", "dtype": "uint8", "shape": [64, 64, 3], "low": 0, "high": 255})
FIRST = LENGTHS[0]

# (building, field, row, words of the message, words of the fix)
MINARI: dict[str, tuple[Callable[[Path], None], str, int | None, str, str]] = {
    "cut metadata": (cut_metadata, "file", None, "'metadata.json' is invalid", "again"),
    "no main file": (no_main, "file", None, "does not exist", "Check the path"),
    "no count": (metadata_of(total_episodes=None), "file", None, "total_episodes", "again"),
    "other storage": (metadata_of(data_format="arrow"), "file", None, "'arrow'", "'hdf5'"),
    "images": (metadata_of(observation_space=IMAGE), "file", None, "contains images", "numbers"),
    "too few episodes": (metadata_of(total_episodes=9), "file", None, "counts 9 episodes", "again"),
    "no episodes": (metadata_of(total_episodes=0), "file", None, "counts 0", "at least one"),
    "a missing episode": (
        minari_of(lambda file: file.move("episode_1", "episode_x")),
        "file",
        None,
        "'episode_1' is missing",
        "again",
    ),
    "NaN": (minari_of(nan), "rewards", FIRST + 3, "is NaN", "episode"),
    "missing actions": (
        minari_of(without("episode_1/actions")),
        "actions",
        FIRST,
        "is missing in episode_1",
        "one array per episode",
    ),
    "missing observations": (
        minari_of(without("episode_1/observations")),
        "observations",
        FIRST,
        "is missing in episode_1",
        "Record observations",
    ),
    "short actions": (
        minari_of(shorter("episode_1/actions", 5)),
        "actions",
        FIRST,
        "has 5 rows of `actions` in episode_1, which has 7 rewards",
        "one row per step",
    ),
    "N - 1 observations": (
        minari_of(shorter("episode_1/observations", 6)),
        "observations",
        FIRST,
        "has 6 rows",
        "one after the last step",
    ),
    "fields of unequal length": (
        minari_of(shorter("episode_1/observations/desired_goal", 7), goals=True),
        "observations",
        FIRST,
        "fields of unequal length in episode_1",
        "same number of rows",
    ),
    "an empty episode": (
        minari_of(shorter("episode_1/rewards", 0)),
        "rewards",
        FIRST,
        "is empty in episode_1",
        "Drop the episode",
    ),
    "a field too many": (
        minari_of(
            lambda f: f.create_dataset("episode_1/observations/x", data=np.zeros((8, 1))),
            goals=True,
        ),
        "observations",
        FIRST,
        "has the field `observations/x` in episode_1 but not in episode_0",
        "same fields",
    ),
    "other features": (
        minari_of(instead("episode_1/actions", (7, 5))),
        "actions",
        FIRST,
        "rows of shape [5] in episode_1, but of shape [2] in episode_0",
        "same features",
    ),
    "text": (
        minari_of(text),
        "actions",
        None,
        "text or objects",
        "float32",
    ),
    "a Tuple of observations": (
        minari_of(grouped("observations", "_index_0", "_index_1")),
        "observations",
        0,
        "Tuple space",
        "Box or a Dict",
    ),
    "a dot in a name": (
        minari_of(grouped("observations", "left.arm", "right.arm")),
        "observations",
        0,
        "a dot in its name",
        "Rename the field",
    ),
    "a Dict of actions": (
        minari_of(grouped("actions", "left", "right")),
        "actions",
        0,
        "is a group (a Dict or Tuple space)",
        "one array per episode",
    ),
    "discrete observations": (
        minari_of(discrete),
        "observations",
        None,
        f"shape [{sum(LENGTHS)}]",
        "[steps, features]",
    ),
    "a goal of another size": (
        minari_of(other_goal, goals=True),
        "observations",
        None,
        "`achieved_goal` must have the size of `desired_goal`",
        "Record other fields",
    ),
    "groups in a circle": (
        minari_of(circle),
        "episode_1",
        None,
        "nests more than 8 deep",
        "Flatten the observations",
    ),
    "a forest of names": (
        minari_of(forest),
        "episode_1",
        None,
        "more than 1000 fields",
        "Flatten the observations",
    ),
    "one value": (
        minari_of(instead("episode_1/rewards", ())),
        "episode_1/rewards",
        None,
        "is a single value",
        "one row per step",
    ),
    "a link": (minari_of(linked), "episode_1/rewards", None, "link to another", PLAIN),
    "a linked episode": (minari_of(linked_episode), "episode_1", None, "link to another", PLAIN),
}


def test_minari_data_sets_are_refused(store: Path) -> None:
    for case, (build, field, row, message, fix) in MINARI.items():
        build(store)
        before = sorted(store.rglob("*"))
        [problem] = check("bad-v0")
        assert (problem.field, problem.row) == (field, row), case
        assert message in problem.message and fix in problem.fix, case
        with pytest.raises(PgdiffError) as error:
            load_episodes("bad-v0")
        assert str(error.value).endswith(f"main_data.hdf5: {problem}"), case
        assert sorted(store.rglob("*")) == before, case
        shutil.rmtree(store / "bad-v0")
