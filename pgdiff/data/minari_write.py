"""Writing Minari data sets, which Minari itself then loads."""

import importlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from pgdiff.data.episodes import Episodes
from pgdiff.data.minari_read import REPEATED
from pgdiff.data.minari_store import DATA, MAIN, METADATA, minari_folder, minari_store
from pgdiff.data.observation_layout import ObservationLayout
from pgdiff.validation import PgdiffError

_VERSION = "0.5.4"
"""Of Minari, whose HDF5 layout this is."""


def write_minari(
    episodes: Episodes,
    dataset_id: str,
    *,
    env_id: str | None = None,
    action_space: Any = None,
    author: str | None = None,
    description: str | None = None,
    overwrite: bool = False,
) -> Path:
    """Write episodes into Minari's local store; the data set appears whole or not at all.

    Observations that were flattened become Dict observations again. Minari has one observation
    more than steps: the last of `next_observations`. A recording without them repeats each
    episode's last observation, and the metadata say so, so that `load_episodes` leaves it out.

    Args:
        episodes: the recording.
        dataset_id: "namespace/name-vN".
        env_id: of a registered environment, or MODULE:ID, which Minari's `recover_environment`
            then makes.
        action_space: a `gymnasium.spaces.Box` that holds the actions; by default an unbounded one.
        author: kept in the metadata.
        description: kept in the metadata.
        overwrite: whether a data set of this id may be replaced.

    Returns:
        The data set's folder.

    Raises:
        PgdiffError: no id, an id that is taken, an unknown environment, or `next_observations`
            that are not the observations of the next rows, by row.
    """
    folder = minari_folder(dataset_id)
    _recover(folder)
    if folder.exists() and not overwrite:
        raise PgdiffError(
            f"`dataset_id` must be a new one. '{dataset_id}' is in '{minari_store()}'; name "
            "another or pass overwrite=True."
        )
    fields = episodes.fields()
    lengths = episodes.lengths
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    _check_next(fields, offsets, layout=episodes.observation_layout)
    metadata: dict[str, Any] = {
        "total_episodes": len(lengths),
        "total_steps": int(offsets[-1]),
        "data_format": "hdf5",
        "jpeg_encoding": False,
        "observation_space": json.dumps(
            _box_json(episodes.observations.shape[1])
            if episodes.observation_layout is None
            else _dict_json(episodes.observation_layout)
        ),
        "action_space": json.dumps(_action_json(fields["actions"], action_space)),
        "dataset_id": dataset_id,
        "minari_version": _VERSION,
        "author": [author] if author else [],
        "author_email": [],
    }
    if description:
        metadata["description"] = description
    if env_id is not None:
        metadata["env_spec"] = _spec(env_id)
    if "next_observations" not in fields:
        metadata[REPEATED] = True

    store = minari_store()
    store.mkdir(parents=True, exist_ok=True)
    part = Path(tempfile.mkdtemp(prefix=".part-", dir=store))
    try:
        (part / DATA).mkdir()
        with h5py.File(part / DATA / MAIN, "w") as file:
            for number, (start, end) in enumerate(pairwise(offsets)):
                group = file.create_group(f"episode_{number}")
                group.attrs["id"] = number
                group.attrs["total_steps"] = int(end - start)
                for path, values in _episode(fields, episodes.observation_layout, start, end):
                    group.create_dataset(path, data=values, track_times=False)
        size = (part / DATA / MAIN).stat().st_size
        metadata["dataset_size"] = round(size / 1e6, 1)
        (part / DATA / METADATA).write_text(json.dumps(metadata))
        for name in (MAIN, METADATA):
            with (part / DATA / name).open("rb+") as written:
                os.fsync(written.fileno())
        _place(part, folder)
    except BaseException:
        shutil.rmtree(part, ignore_errors=True)
        raise
    return folder


def _place(part: Path, folder: Path) -> None:
    store = minari_store()
    folder.parent.mkdir(parents=True, exist_ok=True)
    for parent in folder.relative_to(store).parents[:-1]:
        marker = store / parent / "namespace_metadata.json"
        if not marker.exists():
            marker.write_text("{}")
    mask = os.umask(0)
    os.umask(mask)
    part.chmod(0o777 & ~mask)  # mkdtemp made it private
    if folder.exists():
        aside = _aside(folder)
        try:
            folder.rename(aside)
            part.rename(folder)
        except BaseException:
            if aside.exists() and not folder.exists():
                aside.rename(folder)
            raise
        shutil.rmtree(aside)
    else:
        part.rename(folder)


def _aside(folder: Path) -> Path:
    """Where a data set stands while another takes its name."""
    return folder.with_name(f".{folder.name}.old")


def _recover(folder: Path) -> None:
    """Give a data set its name back that a process killed while replacing it left aside."""
    aside = _aside(folder)
    if aside.is_dir() and not folder.exists():
        aside.rename(folder)
    shutil.rmtree(aside, ignore_errors=True)


def _episode(
    fields: dict[str, np.ndarray], layout: ObservationLayout | None, start: int, end: int
) -> Iterator[tuple[str, np.ndarray]]:
    """Yield the data sets of one episode by their paths."""

    def extended(name: str, following: str) -> np.ndarray:
        last = fields.get(following, fields[name])[end - 1 : end]
        return np.concatenate([fields[name][start:end], last])

    observations = extended("observations", "next_observations")
    own: set[str] = set()
    if layout is None:
        yield "observations", observations
    else:
        goal = None
        if layout.goal is not None:
            goal = extended("infos/goal", "infos/next_goal")
            own = {"infos/goal", "infos/next_goal"}
        yield from _paths("observations", layout.unflatten(observations, goal))
    yield "actions", fields["actions"][start:end]
    yield "rewards", fields["rewards"][start:end]
    yield "terminations", fields["terminals"][start:end]
    yield "truncations", fields["timeouts"][start:end]
    for name, values in fields.items():
        if name.startswith("infos/") and name not in own:
            yield name, values[start:end]


def _paths(prefix: str, tree: Any) -> Iterator[tuple[str, np.ndarray]]:
    if not isinstance(tree, dict):
        yield prefix, tree
        return
    for key, value in tree.items():
        yield from _paths(f"{prefix}/{key}", value)


def _check_next(
    fields: dict[str, np.ndarray], offsets: np.ndarray, *, layout: ObservationLayout | None
) -> None:
    """Refuse what Minari's layout cannot hold: next observations that are not those that follow."""
    pairs = [("observations", "next_observations")]
    if layout is not None and layout.goal is not None:  # else the infos are kept as they are
        pairs.append(("infos/goal", "infos/next_goal"))
    for name, following in pairs:
        if following not in fields:
            continue
        for start, end in pairwise(offsets):
            now, after = fields[name][start + 1 : end], fields[following][start : end - 1]
            if not np.array_equal(now, after):
                row = start + int(np.flatnonzero((now != after).any(axis=1))[0])
                raise PgdiffError(
                    f"`{following}`, row {row}: is not `{name}` of row {row + 1}, though both are "
                    "of one episode, and Minari keeps only one of them. Leave it out: "
                    f"dataclasses.replace(episodes, {following.partition('/')[0]}=…)."
                )


def _box_json(size: int, low: Any = None, high: Any = None) -> dict[str, Any]:
    return {
        "type": "Box",
        "dtype": "float32",
        "shape": [size],
        "low": [-np.inf] * size if low is None else low,
        "high": [np.inf] * size if high is None else high,
    }


def _dict_json(layout: ObservationLayout) -> dict[str, Any]:
    def described(space: Any) -> dict[str, Any]:
        if hasattr(space, "spaces"):
            below = {key: described(inner) for key, inner in space.spaces.items()}
            return {"type": "Dict", "subspaces": below}
        return _box_json(space.shape[0])

    return described(layout.space())


def _action_json(actions: np.ndarray, space: Any) -> dict[str, Any]:
    size = actions.shape[1]
    if space is None:
        return _box_json(size)
    if getattr(space, "shape", None) != (size,) or not hasattr(space, "low"):
        raise PgdiffError(f"`action_space` must be a Box of {size} numbers. Got {space}.")
    return _box_json(size, space.low.tolist(), space.high.tolist())


def _spec(env_id: str) -> str:
    import gymnasium

    module, _, name = env_id.rpartition(":")
    try:
        if module:  # as `gymnasium.make` takes it: the module registers the environment
            importlib.import_module(module)
        return gymnasium.spec(name).to_json()
    except (gymnasium.error.Error, ImportError, TypeError) as error:
        raise PgdiffError(
            f"`env_id` must be a registered environment. Got '{env_id}' ({error})."
        ) from error
