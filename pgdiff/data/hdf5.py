"""Reading and writing D4RL's HDF5 layout: plain data sets only, and files that appear whole."""

import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from pgdiff.data.checks import Source
from pgdiff.data.episodes import Episodes
from pgdiff.data.fields import FIELDS
from pgdiff.data.observation_layout import ObservationLayout, from_json, to_json
from pgdiff.data.plain import open_file, plain_dataset
from pgdiff.data.problems import Problem
from pgdiff.data.recording import Recording
from pgdiff.validation import PgdiffError, user_path

_LAYOUT = "observation_layout"


@contextmanager
def open_hdf5(path: Path, problems: list[Problem]) -> Iterator[Recording]:
    """Open a file in D4RL's layout for reading, appending its faults to `problems`.

    Only plain data sets are read (see `plain_dataset`), and of the file's attributes only
    `observation_layout`, which `write_hdf5` leaves there.
    """
    file = open_file(path, problems)
    if file is None:
        yield Recording()
        return
    with file:
        size = path.stat().st_size
        found: dict[str, Source] = {}
        for field in FIELDS:
            dataset, problem = plain_dataset(file, field.name, size)
            if problem is not None:
                if problem not in problems:  # a linked group is one fault
                    problems.append(problem)
            elif dataset is not None:
                found[field.name] = dataset
        yield Recording(found, _layout(file, problems))


def _layout(file: h5py.File, problems: list[Problem]) -> ObservationLayout | None:
    try:
        text = file.attrs.get(_LAYOUT)
        if text is None:
            return None
        if not isinstance(text, str | bytes):
            raise PgdiffError(f"It is of type {type(text).__name__}.")
        return from_json(text)
    except (OSError, RuntimeError, ValueError, TypeError) as error:
        problems.append(
            Problem(
                "file",
                None,
                f"its attribute `{_LAYOUT}` is not one that this library wrote ({error}).",
                "Remove the attribute, or write the file anew.",
            )
        )
        return None


def hdf5_bytes(fields: Mapping[str, np.ndarray]) -> bytes:
    """What `write_hdf5` would write of arrays, which have to fit into memory twice."""
    with h5py.File("memory", "w", driver="core", backing_store=False, track_order=False) as file:
        _fill(file, fields)
        file.flush()
        image: bytes = file.id.get_file_image()
    return image


def _fill(file: h5py.File, fields: Mapping[str, np.ndarray]) -> None:
    for key in sorted(fields):
        # No compression: 1,000,000 steps of maze2d are 60 MB, and noise packs badly.
        file.create_dataset(key, data=fields[key], track_times=False)


def write_hdf5(
    path: str | os.PathLike[str],
    fields: Episodes | Mapping[str, np.ndarray],
    attributes: Mapping[str, str | int | float] | None = None,
) -> Path:
    """Write a recording; the file appears whole or not at all, and equal data give equal bytes.

    Of episodes all fields and the observation layout are written, and the rows that belong to
    them. Since a file without any end of an episode is refused, a lone unfinished episode gets a
    timeout at its last row.

    Args:
        path: where to write; an existing file is replaced.
        fields: episodes, or arrays by their HDF5 path, for example "infos/goal".
        attributes: plain values kept at the file's root.

    Returns:
        The path written.
    """
    path = user_path(path)
    notes: dict[str, Any] = dict(attributes or {})
    if isinstance(fields, Episodes):
        if fields.observation_layout is not None:
            notes[_LAYOUT] = to_json(fields.observation_layout)
        fields = fields.fields()
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".part", dir=path.parent)
    part = Path(name)
    try:
        os.close(handle)
        with h5py.File(part, "w", track_order=False) as file:
            for key in sorted(notes):
                file.attrs[key] = notes[key]
            _fill(file, fields)
        # mkstemp makes the file private; give it the mode that a plain open() would.
        mask = os.umask(0)
        os.umask(mask)
        part.chmod(0o666 & ~mask)
        with part.open("rb+") as written:
            os.fsync(written.fileno())
        part.replace(path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise
    return path
