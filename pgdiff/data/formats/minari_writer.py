"""Writer of Minari data sets."""

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

from pgdiff.core.validation import PgdiffError
from pgdiff.data.dict_observations import ObservationLayout
from pgdiff.data.episodes import Episodes
from pgdiff.data.formats.minari_layout import DATA, MAIN, METADATA, minari_folder, minari_store
from pgdiff.data.formats.minari_reader import REPEATED

_VERSION = "0.5.4"
"""Version of Minari whose HDF5 layout is written."""


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
    """Write episodes atomically to Minari's local store.

    Flattened observations become Dict observations again. A Minari episode has one observation
    more than steps: the last of `next_observations`. Without them, each episode's last observation
    is repeated and marked in the metadata as repeated, so that `load_episodes` drops it.

    Args:
        episodes: the recording.
        dataset_id: "namespace/name-vN".
        env_id: id of a registered environment, or MODULE:ID, for Minari's `recover_environment`.
        action_space: a `gymnasium.spaces.Box` that contains the actions; unbounded by default.
        author: author in the metadata.
        description: description in the metadata.
        overwrite: if True, an existing data set of this id is replaced.

    Returns:
        The data set's folder.

    Raises:
        PgdiffError: if the id is invalid or exists, the environment is unknown, or
            `next_observations` differ from the observations of the next rows.

    Example:
        >>> import os, tempfile
        >>> from unittest import mock
        >>> from pgdiff.data import write_minari
        >>> from pgdiff.testing import example_episodes
        >>> store = tempfile.TemporaryDirectory()
        >>> with store, mock.patch.dict(os.environ, MINARI_DATASETS_PATH=store.name):
        ...     write_minari(example_episodes(), "demo/point-v0").name
        'point-v0'
    """
    folder = minari_folder(dataset_id)
    _restore(folder)
    if folder.exists() and not overwrite:
        raise PgdiffError(
            f"`dataset_id` must be new. '{dataset_id}' exists in '{minari_store()}'; pass another "
            "id or overwrite=True."
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
        _move_to_store(part, folder)
    except BaseException:
        shutil.rmtree(part, ignore_errors=True)
        raise
    return folder


def _move_to_store(part: Path, folder: Path) -> None:
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
        old = _replaced_path(folder)
        try:
            folder.rename(old)
            part.rename(folder)
        except BaseException:
            if old.exists() and not folder.exists():
                old.rename(folder)
            raise
        shutil.rmtree(old)
    else:
        part.rename(folder)


def _replaced_path(folder: Path) -> Path:
    """Return the temporary path of a data set while it is replaced."""
    return folder.with_name(f".{folder.name}.old")


def _restore(folder: Path) -> None:
    """Restore a data set whose replacement was interrupted by the end of the process."""
    old = _replaced_path(folder)
    if old.is_dir() and not folder.exists():
        old.rename(folder)
    shutil.rmtree(old, ignore_errors=True)


def _episode(
    fields: dict[str, np.ndarray], layout: ObservationLayout | None, start: int, end: int
) -> Iterator[tuple[str, np.ndarray]]:
    """Yield path and values of every data set of one episode."""

    def extended(name: str, following: str) -> np.ndarray:
        last = fields.get(following, fields[name])[end - 1 : end]
        return np.concatenate([fields[name][start:end], last])

    observations = extended("observations", "next_observations")
    goal_fields: set[str] = set()
    if layout is None:
        yield "observations", observations
    else:
        goal = None
        if layout.goal is not None:
            goal = extended("infos/goal", "infos/next_goal")
            goal_fields = {"infos/goal", "infos/next_goal"}
        yield from _paths("observations", layout.unflatten(observations, goal))
    yield "actions", fields["actions"][start:end]
    yield "rewards", fields["rewards"][start:end]
    yield "terminations", fields["terminals"][start:end]
    yield "truncations", fields["timeouts"][start:end]
    for name, values in fields.items():
        if name.startswith("infos/") and name not in goal_fields:
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
    """Raise if next observations differ from the next rows, which Minari's layout cannot store."""
    pairs = [("observations", "next_observations")]
    if layout is not None and layout.goal is not None:  # else the infos are stored unchanged
        pairs.append(("infos/goal", "infos/next_goal"))
    for name, following in pairs:
        if following not in fields:
            continue
        for start, end in pairwise(offsets):
            now, after = fields[name][start + 1 : end], fields[following][start : end - 1]
            if not np.array_equal(now, after):
                row = start + int(np.flatnonzero((now != after).any(axis=1))[0])
                raise PgdiffError(
                    f"`{following}`, row {row}: must equal `{name}` of row {row + 1} of the same "
                    "episode, because Minari stores only one of them. Remove it with "
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
    def space_json(space: Any) -> dict[str, Any]:
        if hasattr(space, "spaces"):
            subspaces = {key: space_json(inner) for key, inner in space.spaces.items()}
            return {"type": "Dict", "subspaces": subspaces}
        return _box_json(space.shape[0])

    return space_json(layout.space())


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
        if module:  # as in `gymnasium.make`: the module registers the environment
            importlib.import_module(module)
        return gymnasium.spec(name).to_json()
    except (gymnasium.error.Error, ImportError, TypeError) as error:
        raise PgdiffError(
            f"`env_id` must be a registered environment. Got '{env_id}' ({error})."
        ) from error
