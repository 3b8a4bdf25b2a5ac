"""Reader and writer of D4RL's HDF5 layout: plain data sets only, and atomic writes."""

import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from pgdiff.core.validation import PgdiffError, user_path
from pgdiff.data.checks import Source
from pgdiff.data.dict_observations import ObservationLayout, from_json, to_json
from pgdiff.data.episodes import Episodes
from pgdiff.data.formats.hdf5_safety import open_file, plain_dataset
from pgdiff.data.formats.source import Recording
from pgdiff.data.schema import Problem, recording_fields

_LAYOUT = "observation_layout"


@contextmanager
def open_hdf5(path: Path, problems: list[Problem]) -> Iterator[Recording]:
    """Open a file in D4RL's layout for reading, and append its faults to `problems`.

    Only plain data sets are read (see `plain_dataset`), and only the file attribute
    `observation_layout`, which `write_hdf5` writes.
    """
    file = open_file(path, problems)
    if file is None:
        yield Recording()
        return
    with file:
        size = path.stat().st_size
        sources: dict[str, Source] = {}
        for name in recording_fields():
            dataset, problem = plain_dataset(file, name, size)
            if problem is not None:
                if problem not in problems:  # a linked group counts once
                    problems.append(problem)
            elif dataset is not None:
                sources[name] = dataset
        yield Recording(sources, _layout(file, problems))


def _layout(file: h5py.File, problems: list[Problem]) -> ObservationLayout | None:
    try:
        text = file.attrs.get(_LAYOUT)
        if text is None:
            return None
        if not isinstance(text, str | bytes):
            raise PgdiffError(f"Its type is {type(text).__name__}.")
        return from_json(text)
    except (OSError, RuntimeError, ValueError, TypeError) as error:
        problems.append(
            Problem(
                "file",
                None,
                f"its attribute `{_LAYOUT}` was not written by this library: "
                f"{str(error).removesuffix('.')}.",
                "Remove the attribute, or write the file again.",
            )
        )
        return None


def hdf5_bytes(fields: Mapping[str, np.ndarray]) -> bytes:
    """Return the content that `write_hdf5` writes for arrays; needs memory for them twice."""
    with h5py.File("memory", "w", driver="core", backing_store=False, track_order=False) as file:
        _fill(file, fields)
        file.flush()
        image: bytes = file.id.get_file_image()
    return image


def _fill(file: h5py.File, fields: Mapping[str, np.ndarray]) -> None:
    for key in sorted(fields):
        # No compression: 1,000,000 steps of maze2d are 60 MB, and noise compresses badly.
        file.create_dataset(key, data=fields[key], track_times=False)


def write_hdf5(
    path: str | os.PathLike[str],
    fields: Episodes | Mapping[str, np.ndarray],
    attributes: Mapping[str, str | int | float] | None = None,
) -> Path:
    """Write a recording atomically; equal data give equal bytes.

    All fields of the episodes are written, with the observation layout and only their rows. A
    single unfinished episode gets a timeout at its last row, because a file must mark an end.

    Args:
        path: path of the file; an existing file is replaced.
        fields: episodes, or arrays under their HDF5 paths, for example "infos/goal".
        attributes: plain values, stored as attributes of the file.

    Returns:
        The path of the file.

    Example:
        >>> import tempfile
        >>> from pgdiff.data import check, write_hdf5
        >>> from pgdiff.testing import example_episodes
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     check(write_hdf5(f"{folder}/point.hdf5", example_episodes(), {"seed": 0}))
        []
    """
    path = user_path(path)
    values: dict[str, Any] = dict(attributes or {})
    if isinstance(fields, Episodes):
        if fields.observation_layout is not None:
            values[_LAYOUT] = to_json(fields.observation_layout)
        fields = fields.fields()
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".part", dir=path.parent)
    part = Path(name)
    try:
        os.close(handle)
        with h5py.File(part, "w", track_order=False) as file:
            for key in sorted(values):
                file.attrs[key] = values[key]
            _fill(file, fields)
        # mkstemp makes the file private; set the mode that open() would.
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
