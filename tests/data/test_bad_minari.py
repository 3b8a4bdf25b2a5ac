"""Every fault of a Minari data set is named, alike in `check` and `load_episodes`."""

import json
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest
from foreign_writers import LAYOUT, LENGTHS, by_minari, walks

from pgdiff.data import check, load_episodes
from pgdiff.validation import PgdiffError

PLAIN = "plain data set"


def minari_of(work: Callable[[h5py.File], object], *, goals: bool = False) -> Callable[[], None]:
    """Spoils the main file of the data set "bad-v0"."""

    def build(folder: Path) -> None:
        by_minari(walks(goals=goals), "bad-v0", LAYOUT if goals else None)
        with h5py.File(folder / "bad-v0" / "data" / "main_data.hdf5", "a") as file:
            work(file)

    return build


def metadata_of(**changes: object) -> Callable[[Path], None]:
    def build(folder: Path) -> None:
        by_minari(walks(goals=False), "bad-v0")
        path = folder / "bad-v0" / "data" / "metadata.json"
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
    by_minari(walks(goals=False), "bad-v0")
    path = folder / "bad-v0" / "data" / "metadata.json"
    path.write_text(path.read_text()[:40])


def no_main(folder: Path) -> None:
    by_minari(walks(goals=False), "bad-v0")
    (folder / "bad-v0" / "data" / "main_data.hdf5").unlink()


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

# (building, field, row, words of the message, words of the mend)
MINARI: dict[str, tuple[Callable[[Path], None], str, int | None, str, str]] = {
    "cut metadata": (cut_metadata, "file", None, "'metadata.json' cannot be used", "anew"),
    "no main file": (no_main, "file", None, "does not exist", "Check the path"),
    "no count": (metadata_of(total_episodes=None), "file", None, "total_episodes", "anew"),
    "other storage": (metadata_of(data_format="arrow"), "file", None, "'arrow'", "'hdf5'"),
    "images": (metadata_of(observation_space=IMAGE), "file", None, "holds images", "numbers"),
    "too few episodes": (metadata_of(total_episodes=9), "file", None, "counts 9 episodes", "anew"),
    "no episodes": (metadata_of(total_episodes=0), "file", None, "counts 0", "at least one"),
    "a missing episode": (
        minari_of(lambda file: file.move("episode_1", "episode_x")),
        "file",
        None,
        "'episode_1' is missing",
        "anew",
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
        "Record it",
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
        "Repair",
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
        "has the field `observations/x` in episode_1 and not in episode_0",
        "same fields",
    ),
    "other features": (
        minari_of(instead("episode_1/actions", (7, 5))),
        "actions",
        FIRST,
        "rows of shape [5] in episode_1, [2] in episode_0",
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
        "Rename it",
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
        "Record others",
    ),
    "groups in a circle": (
        minari_of(circle),
        "episode_1",
        None,
        "nests more than 8 deep",
        "Flatten it",
    ),
    "a forest of names": (
        minari_of(forest),
        "episode_1",
        None,
        "more than 1000 fields",
        "Flatten it",
    ),
    "one value": (
        minari_of(instead("episode_1/rewards", ())),
        "episode_1/rewards",
        None,
        "is one value",
        "a row per step",
    ),
    "a link": (minari_of(linked), "episode_1/rewards", None, "link to another place", PLAIN),
    "a linked episode": (minari_of(linked_episode), "episode_1", None, "link to another", PLAIN),
}


@pytest.mark.parametrize("case", MINARI)
def test_minari_data_set_is_refused(store: Path, case: str) -> None:
    build, field, row, message, mend = MINARI[case]
    build(store)
    before = sorted(store.rglob("*"))
    [problem] = check("bad-v0")
    assert (problem.field, problem.row) == (field, row)
    assert message in problem.message and mend in problem.mend
    with pytest.raises(PgdiffError) as error:
        load_episodes("bad-v0")
    assert str(error.value).endswith(f"main_data.hdf5: {problem}")
    assert sorted(store.rglob("*")) == before
