"""Each hostile file is refused by name, and nothing in it runs.

They are read in a separate process, whose audit hook records all events of Python meanwhile:
imports, compilations, processes, sockets, unpickling.
"""

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from hostile import ARCHIVES, WEIGHTS, make_all
from hostile_pickles import ENTRIES, NORMALIZES
from zips import read_zip, write_zip

from pgdiff.agents import load, read_vec_normalize
from pgdiff.core.validation import PgdiffError

READER = """
import json, pathlib, pickle, resource, sys
from pgdiff.agents import load, read_vec_normalize
from pgdiff.core.validation import PgdiffError

def read(path):
    load(path, device="cpu") if path.suffix == ".zip" else read_vec_normalize(path)

folder = pathlib.Path(sys.argv[1])
for good in sorted(folder.glob("good.*")):
    read(good)
events, listening = [], False
sys.addaudithook(lambda event, arguments: events.append(event) if listening else None)
for path in sorted(folder.iterdir()):
    events.clear()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    listening = True
    try:
        pickle.loads(path.read_bytes()) if path.suffix == ".control" else read(path)
        outcome = "read"
    except PgdiffError as error:
        outcome = f"PgdiffError: {error}"
    except BaseException as error:
        outcome = f"{type(error).__name__}: {error}"
    listening = False
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    print(json.dumps([path.name, outcome, sorted(set(events)), grown]))
"""
HARMLESS = {"open", "builtins.id"}
"""Events of reading a file that are allowed."""
MEMORY = 200 * 1024
"""Kibibytes that reading one of these files may use; the bombs claim far more."""
FILES = [
    *(f"weights_{key}.zip" for key in ENTRIES),
    *(f"file_{key}.zip" for key in WEIGHTS),
    *(f"archive_{key}.zip" for key in ARCHIVES),
    *(f"normalize_{key}.pkl" for key in (*NORMALIZES, "fires", "large")),
]
SOUND = ["good.zip", "good.pkl", "settings.zip", "plain.pkl"]


class Reading(NamedTuple):
    outcome: str
    events: set[str]
    grown: int


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("hostile") / "files"
    folder.mkdir()
    return folder


@pytest.fixture(scope="module")
def messages(folder: Path) -> dict[str, str]:
    return make_all(folder)


@pytest.fixture(scope="module")
def readings(folder: Path, messages: dict[str, str]) -> dict[str, Reading]:
    done = subprocess.run(
        [sys.executable, "-c", READER, str(folder)],
        check=True,
        capture_output=True,
        text=True,
        cwd=folder.parent,
    )
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    return {name: Reading(outcome, set(events), grown) for name, outcome, events, grown in lines}


def test_the_hook_records_what_unpickling_runs(readings: dict[str, Reading], folder: Path) -> None:
    assert {"pickle.find_class", "os.system"} <= readings["unpickled.control"].events
    assert (folder / "fired").exists()


def test_all_of_them_are_read(readings: dict[str, Reading], messages: dict[str, str]) -> None:
    assert {*messages} == {*FILES}
    assert {*readings} == {*FILES, *SOUND, "unpickled.control"}


def test_they_are_refused_and_nothing_runs(
    readings: dict[str, Reading], messages: dict[str, str], folder: Path
) -> None:
    for file in FILES:
        reading = readings[file]
        shown = f"{file}: {reading}"
        assert reading.outcome.startswith("PgdiffError: "), shown
        assert re.search(messages[file], reading.outcome), shown
        assert len(reading.outcome) < 1000, shown
        assert reading.events <= HARMLESS, shown
        assert reading.grown < MEMORY, shown
    assert not (folder.parent / "fired").exists()


def test_what_is_sound_is_read_without_its_pickles(
    readings: dict[str, Reading], folder: Path
) -> None:
    for file in SOUND:
        assert readings[file].outcome == "read", file
        assert readings[file].events <= HARMLESS, file
    assert not (folder.parent / "fired").exists()


def damaged(whole: bytes, *, seed: int) -> bytes:
    """Return `whole` with some bytes changed, removed or inserted."""
    rng = np.random.default_rng(seed)
    data = bytearray(whole)
    for _ in range(rng.integers(1, 4)):
        at, length = int(rng.integers(len(data))), int(rng.integers(1, 6))
        new = rng.bytes(length * int(rng.integers(2)))
        data[at : at + int(rng.integers(length + 1))] = new
    return bytes(data)


@pytest.mark.parametrize("part", ["archive", "data", "weights", "described", "normalize"])
def test_damage_of_any_kind_is_one_clear_error(
    part: str, messages: dict[str, str], folder: Path, tmp_path: Path
) -> None:
    good, whole = read_zip(folder / "good.zip"), (folder / "good.zip").read_bytes()
    inner = read_zip(write_file(tmp_path / "inner.zip", good["policy.pth"]))
    described = next(name for name in inner if name.endswith("/data.pkl"))
    outcomes = {"read": 0, "refused": 0}
    for seed in range(60):
        path = tmp_path / "file.zip"
        if part == "archive":
            write_file(path, damaged(whole, seed=seed))
        elif part == "normalize":
            write_file(path, damaged((folder / "good.pkl").read_bytes(), seed=seed))
        else:
            spoiled = dict(good)
            if part == "data":
                spoiled["data"] = damaged(good["data"], seed=seed)
            elif part == "weights":
                spoiled["policy.pth"] = damaged(good["policy.pth"], seed=seed)
            else:
                torn = inner | {described: damaged(inner[described], seed=seed)}
                spoiled["policy.pth"] = write_zip(tmp_path / "torn.zip", torn).read_bytes()
            write_zip(path, spoiled)
        try:
            read_vec_normalize(path) if part == "normalize" else load(path, device="cpu")
            outcomes["read"] += 1
        except PgdiffError:
            outcomes["refused"] += 1
    print(f"\n{part}: {outcomes}")
    assert outcomes["refused"] > 30


def write_file(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path
