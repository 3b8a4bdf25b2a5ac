"""The same episodes by every route: equal segments, and round trips that lose nothing."""

from pathlib import Path

import numpy as np
import pytest
from foreign_writers import LAYOUT, LENGTHS, by_buffer, by_h5py, by_minari, episodes_of, walks

from pgdiff.data import (
    Episodes,
    SegmentDataset,
    load_episodes,
    to_replay_buffer,
    write_hdf5,
    write_minari,
)

ROUTES = ("HDF5", "Minari", "ReplayBuffer")
FLAT_OR_DICT = pytest.mark.parametrize("goals", [False, True], ids=["flat", "Dict"])


def same(a: Episodes, b: Episodes) -> None:
    """Every array of both, bit by bit."""
    first, second = a.fields(), b.fields()
    assert first.keys() == second.keys()
    for name, values in first.items():
        assert values.dtype == second[name].dtype, name
        assert np.array_equal(values, second[name]), name
    assert np.array_equal(a.starts, b.starts) and np.array_equal(a.ends, b.ends)
    assert a.observation_layout == b.observation_layout


def equal_segments(a: Episodes, b: Episodes) -> int:
    """Compare every segment of several horizons and strides; how many there were."""
    total = 0
    for horizon, stride, padding in ((4, 1, "none"), (3, 4, "none"), (12, 2, "repeat")):
        one, two = (
            SegmentDataset(
                part,
                horizon,
                stride,
                padding=padding,
                fields=("observations", "actions", "rewards"),
                discount=0.9,
            )
            for part in (a, b)
        )
        assert len(one) == len(two)
        total += len(one)
        every = np.arange(len(one))
        for name, values in one.batch(every)._asdict().items():
            assert np.array_equal(values, getattr(two.batch(every), name)), name
    return total


@pytest.mark.parametrize("route", ROUTES)
@FLAT_OR_DICT
def test_other_libraries_recordings_give_equal_segments(
    store: Path, tmp_path: Path, route: str, goals: bool
) -> None:
    fields, layout = walks(goals=goals), LAYOUT if goals else None
    direct = episodes_of(fields, layout)
    if route == "HDF5":
        read = load_episodes(by_h5py(fields, tmp_path / "a.hdf5"))
    elif route == "Minari":
        read = load_episodes(by_minari(fields, "some/place/walks-v0", layout))
    else:
        read = load_episodes(by_buffer(fields, layout))
    assert direct.lengths.tolist() == list(LENGTHS)
    print(f"\n{equal_segments(direct, read)} equal segments by {route}")
    for name, values in direct.fields().items():
        assert np.array_equal(values, read.fields()[name]), name
    if route != "HDF5":  # a plain file says nothing of a Dict
        same(direct, read)


@pytest.mark.parametrize("route", ROUTES)
@FLAT_OR_DICT
def test_round_trips_lose_nothing(store: Path, tmp_path: Path, route: str, goals: bool) -> None:
    episodes = episodes_of(walks(goals=goals), LAYOUT if goals else None)
    if route == "HDF5":
        again = load_episodes(write_hdf5(tmp_path / "b.hdf5", episodes))
    elif route == "Minari":
        write_minari(episodes, "walks-v3")
        again = load_episodes("walks-v3")
    else:
        again = load_episodes(to_replay_buffer(episodes, device="cpu"))
    same(episodes, again)
    equal_segments(episodes, again)


@FLAT_OR_DICT
def test_all_routes_one_after_the_other(store: Path, tmp_path: Path, goals: bool) -> None:
    episodes = episodes_of(walks(goals=goals, seed=3), LAYOUT if goals else None)
    step = load_episodes(write_hdf5(tmp_path / "c.hdf5", episodes))
    write_minari(step, "chain-v0")
    step = load_episodes(to_replay_buffer(load_episodes("chain-v0"), device="cpu"))
    same(episodes, step)


@pytest.mark.parametrize("route", ["HDF5", "Minari"])
def test_all_infos_and_a_mark_of_both_kinds_come_back(
    store: Path, tmp_path: Path, route: str
) -> None:
    fields = walks(goals=False)
    steps = len(fields["rewards"])
    for name in ("goal", "next_goal", "qpos", "qvel", "class"):
        fields[f"infos/{name}"] = np.random.default_rng(1).random((steps, 2)).astype(np.float32)
    fields["infos/next_goal"][:-1] = fields["infos/goal"][1:]
    end = int(np.flatnonzero(fields["terminals"])[0])
    fields["timeouts"][end] = True
    episodes = episodes_of(fields)
    if route == "HDF5":
        again = load_episodes(write_hdf5(tmp_path / "a.hdf5", episodes))
    else:
        write_minari(episodes, "walks-v0")
        again = load_episodes("walks-v0")
    same(episodes, again)


@pytest.mark.parametrize("route", ["HDF5", "Minari"])
def test_without_next_observations(store: Path, tmp_path: Path, route: str) -> None:
    fields = walks(goals=False)
    del fields["next_observations"]
    episodes = episodes_of(fields)
    if route == "HDF5":
        again = load_episodes(write_hdf5(tmp_path / "a.hdf5", episodes))
    else:
        write_minari(episodes, "walks-v0")
        again = load_episodes("walks-v0")
    same(episodes, again)
    assert again.next_observations is None


@pytest.mark.parametrize("route", ROUTES)
def test_a_selection_is_written_alone(store: Path, tmp_path: Path, route: str) -> None:
    """Only its rows, and a cut episode stays apart from the one that follows."""
    whole = episodes_of(walks(goals=False))
    train, held_out = whole.split(0.3, seed=0)
    for number, part in enumerate((train, held_out, whole.select([3, 1]))):
        if route == "HDF5":
            again = load_episodes(write_hdf5(tmp_path / f"{number}.hdf5", part))
        elif route == "Minari":
            write_minari(part, f"part-v{number}")
            again = load_episodes(f"part-v{number}")
        else:
            again = load_episodes(to_replay_buffer(part, device="cpu"))
        assert again.lengths.tolist() == part.lengths.tolist()
        assert again.steps == part.lengths.sum()
        equal_segments(part, again)
