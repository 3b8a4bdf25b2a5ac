"""Writers of the same episodes by h5py, Minari and Stable-Baselines3."""

import warnings
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import gymnasium
import h5py
import minari
import numpy as np
from minari.data_collector import EpisodeBuffer
from stable_baselines3.common.buffers import DictReplayBuffer, ReplayBuffer

from pgdiff.data import Episodes, ObservationLayout

LAYOUT = ObservationLayout.from_sizes({"achieved_goal": 2, "desired_goal": 2, "observation": 3})
LENGTHS = (20, 7, 1, 33, 12)
Fields = dict[str, np.ndarray]


def walks(*, goals: bool, lengths: tuple[int, ...] = LENGTHS, seed: int = 0) -> Fields:
    """Return episodes that end in terminals and timeouts alternately; the last is unfinished."""
    rng = np.random.default_rng(seed)
    size, steps = LAYOUT.features if goals else 3, sum(lengths)
    every = [rng.normal(size=(n + 1, size)).astype(np.float32) for n in lengths]
    ends = np.cumsum(lengths) - 1
    fields = {
        "observations": np.concatenate([x[:-1] for x in every]),
        "next_observations": np.concatenate([x[1:] for x in every]),
        "actions": rng.uniform(-1, 1, size=(steps, 2)).astype(np.float32),
        "rewards": rng.random(steps).astype(np.float32),
        "terminals": np.isin(np.arange(steps), ends[:-1:2]),
        "timeouts": np.isin(np.arange(steps), ends[1:-1:2]),
    }
    if goals:
        all_goals = [rng.normal(size=(n + 1, 2)).astype(np.float32) for n in lengths]
        fields["infos/goal"] = np.concatenate([x[:-1] for x in all_goals])
        fields["infos/next_goal"] = np.concatenate([x[1:] for x in all_goals])
    return fields


def episodes_of(fields: Fields, layout: ObservationLayout | None = None) -> Episodes:
    """Create episodes with `Episodes.from_arrays`."""
    plain = {name: values for name, values in fields.items() if "/" not in name}
    infos = {name[6:]: values for name, values in fields.items() if "/" in name}
    return Episodes.from_arrays(**plain, infos=infos, observation_layout=layout)  # type: ignore[arg-type]


def by_h5py(fields: Fields, path: Path) -> Path:
    """Write a plain D4RL file."""
    with h5py.File(path, "w") as file:
        for name, values in fields.items():
            file.create_dataset(name, data=values, compression="gzip")
    return path


def spaces_of(fields: Fields, layout: ObservationLayout | None) -> tuple[Any, Any]:
    """Return the observation and action space."""
    size = fields["observations"].shape[1]
    flat = gymnasium.spaces.Box(-np.inf, np.inf, (size,), np.float32)
    space = flat if layout is None else layout.space()
    return space, gymnasium.spaces.Box(-1, 1, fields["actions"].shape[1:], np.float32)


def seen(fields: Fields, layout: ObservationLayout | None, rows: Any, prefix: str = "") -> Any:
    """Return observations in the environment's form (`prefix` "next_": after the step)."""
    flat = fields[f"{prefix}observations"][rows]
    return flat if layout is None else layout.unflatten(flat, fields[f"infos/{prefix}goal"][rows])


def by_minari(
    fields: Fields, dataset_id: str, layout: ObservationLayout | None = None, *, short: bool = False
) -> str:
    """Write a data set with Minari; `short` omits the last observation of every episode."""
    ends = np.flatnonzero(fields["terminals"] | fields["timeouts"]) + 1
    bounds = np.unique([0, *ends, len(fields["rewards"])])

    def extended(start: int, end: int) -> Any:
        now = seen(fields, layout, slice(start, end))
        after = seen(fields, layout, slice(end - 1, end), "next_")
        if short:
            return now
        return tree(lambda a, b: np.concatenate([a, b]), now, after)

    buffers = [
        EpisodeBuffer(
            observations=extended(start, end),
            actions=fields["actions"][start:end],
            rewards=fields["rewards"][start:end],
            terminations=fields["terminals"][start:end],
            truncations=fields["timeouts"][start:end],
        )
        for start, end in pairwise(bounds)
    ]
    space, action_space = spaces_of(fields, layout)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        minari.create_dataset_from_buffers(
            dataset_id, buffers, observation_space=space, action_space=action_space
        )
    return dataset_id


def tree(function: Callable[..., Any], *trees: Any) -> Any:
    """Apply a function to the leaves of nested dicts."""
    if not isinstance(trees[0], dict):
        return function(*trees)
    return {key: tree(function, *(node[key] for node in trees)) for key in trees[0]}


def by_buffer(
    fields: Fields,
    layout: ObservationLayout | None = None,
    *,
    size: int | None = None,
    **options: Any,
) -> ReplayBuffer:
    """Fill a buffer step by step, as Stable-Baselines3's agents do."""
    space, action_space = spaces_of(fields, layout)
    kind = ReplayBuffer if layout is None else DictReplayBuffer
    steps = len(fields["rewards"])
    buffer = kind(size or steps, space, action_space, device="cpu", **options)
    for row in range(steps):
        add(buffer, fields, layout, [row])
    return buffer


def add(buffer: Any, fields: Fields, layout: ObservationLayout | None, rows: list[int]) -> None:
    """Add one step of each environment to a buffer."""
    done = fields["terminals"][rows] | fields["timeouts"][rows]
    buffer.add(
        seen(fields, layout, rows),
        seen(fields, layout, rows, "next_"),
        fields["actions"][rows],
        fields["rewards"][rows],
        done,
        [{"TimeLimit.truncated": bool(fields["timeouts"][row])} for row in rows],
    )
