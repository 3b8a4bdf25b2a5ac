"""Equal segments by every route of the same episodes, and round trips without loss."""

from itertools import count, product
from pathlib import Path

import numpy as np
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
NUMBERS = count()


def same(a: Episodes, b: Episodes) -> None:
    """Assert that all arrays of both are equal, bit by bit."""
    first, second = a.fields(), b.fields()
    assert first.keys() == second.keys()
    for name, values in first.items():
        assert values.dtype == second[name].dtype, name
        assert np.array_equal(values, second[name]), name
    assert np.array_equal(a.starts, b.starts) and np.array_equal(a.ends, b.ends)
    assert a.observation_layout == b.observation_layout


def equal_segments(a: Episodes, b: Episodes) -> int:
    """Compare every segment of several horizons and strides; return their number."""
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


def round_trip(episodes: Episodes, route: str, folder: Path) -> Episodes:
    """Write episodes and load them again."""
    name = f"walks-v{next(NUMBERS)}"
    if route == "HDF5":
        return load_episodes(write_hdf5(folder / name, episodes))
    if route == "Minari":
        write_minari(episodes, name)
        return load_episodes(name)
    return load_episodes(to_replay_buffer(episodes, device="cpu"))


def test_other_libraries_recordings_give_equal_segments(store: Path, tmp_path: Path) -> None:
    for goals in (False, True):
        fields, layout = walks(goals=goals), LAYOUT if goals else None
        direct = episodes_of(fields, layout)
        assert direct.lengths.tolist() == list(LENGTHS)
        for route, source in (
            ("HDF5", by_h5py(fields, tmp_path / f"{goals}.hdf5")),
            ("Minari", by_minari(fields, f"some/place/{goals}-v0", layout)),
            ("ReplayBuffer", by_buffer(fields, layout)),
        ):
            loaded = load_episodes(source)
            print(f"\n{equal_segments(direct, loaded)} equal segments by {route}")
            for name, values in direct.fields().items():
                assert np.array_equal(values, loaded.fields()[name]), name
            if route != "HDF5":  # a plain file has no layout
                same(direct, loaded)


def test_round_trips_lose_nothing(store: Path, tmp_path: Path) -> None:
    for route, goals in product(ROUTES, (False, True)):
        episodes = episodes_of(walks(goals=goals), LAYOUT if goals else None)
        again = round_trip(episodes, route, tmp_path)
        same(episodes, again)
        equal_segments(episodes, again)


def test_all_routes_one_after_the_other(store: Path, tmp_path: Path) -> None:
    for goals in (False, True):
        episodes = episodes_of(walks(goals=goals, seed=3), LAYOUT if goals else None)
        last = episodes
        for route in ROUTES:
            last = round_trip(last, route, tmp_path)
        same(episodes, last)


def test_all_infos_and_a_mark_of_both_kinds_come_back(store: Path, tmp_path: Path) -> None:
    fields = walks(goals=False)
    steps = len(fields["rewards"])
    for name in ("goal", "next_goal", "qpos", "qvel", "class"):
        fields[f"infos/{name}"] = np.random.default_rng(1).random((steps, 2)).astype(np.float32)
    fields["infos/next_goal"][:-1] = fields["infos/goal"][1:]
    end = int(np.flatnonzero(fields["terminals"])[0])
    fields["timeouts"][end] = True
    episodes = episodes_of(fields)
    for route in ("HDF5", "Minari"):
        same(episodes, round_trip(episodes, route, tmp_path))


def test_without_next_observations(store: Path, tmp_path: Path) -> None:
    fields = walks(goals=False)
    del fields["next_observations"]
    episodes = episodes_of(fields)
    for route in ("HDF5", "Minari"):
        again = round_trip(episodes, route, tmp_path)
        same(episodes, again)
        assert again.next_observations is None


def test_a_selection_is_written_alone(store: Path, tmp_path: Path) -> None:
    """Only its rows are written, and a cut-off episode is not joined with the next one."""
    whole = episodes_of(walks(goals=False))
    train, held_out = whole.split(0.3, seed=0)
    for route, part in product(ROUTES, (train, held_out, whole.select([3, 1]))):
        again = round_trip(part, route, tmp_path)
        assert again.lengths.tolist() == part.lengths.tolist()
        assert again.steps == part.lengths.sum()
        equal_segments(part, again)
