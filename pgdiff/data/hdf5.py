"""Reading and writing D4RL's HDF5 layout: plain data sets only, and files that appear whole."""

import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import h5py
import numpy as np

from pgdiff.data.checks import Source
from pgdiff.data.fields import FIELDS
from pgdiff.data.problems import Problem

# HDF5's built-in filters and LZF. Any other would load a plug-in from the machine.
_FILTERS = {
    h5py.h5z.FILTER_DEFLATE,
    h5py.h5z.FILTER_SHUFFLE,
    h5py.h5z.FILTER_FLETCHER32,
    h5py.h5z.FILTER_LZF,
}
# DEFLATE packs at most 1,032 to 1: whatever claims to unpack to more was never written.
_LARGEST_RATIO = 1032


@contextmanager
def open_fields(path: Path, problems: list[Problem]) -> Iterator[dict[str, Source]]:
    """Open the fields of a recording for reading, appending the file's faults to `problems`.

    Only plain data sets are read: links to other places or files, virtual data sets, external
    storage and filters that need a plug-in are refused, because they read what the user did not
    name.
    """
    file = _open(path, problems)
    if file is None:
        yield {}
        return
    with file:
        size = path.stat().st_size
        found: dict[str, Source] = {}
        for field in FIELDS:
            try:
                dataset, problem = _plain(file, field.name, size)
            except (OSError, RuntimeError, KeyError, ValueError, TypeError) as error:
                dataset = None
                problem = Problem(
                    field.name, None, f"cannot be read ({error}).", "Fetch the file anew."
                )
            if problem is not None:
                problems.append(problem)
            elif dataset is not None:
                found[field.name] = dataset
        yield found


def _open(path: Path, problems: list[Problem]) -> h5py.File | None:
    problem: Problem
    if not path.exists():
        problem = Problem("file", None, f"'{path}' does not exist.", "Check the path.")
    elif not path.is_file():
        problem = Problem("file", None, f"'{path}' is no file.", "Name an HDF5 file.")
    elif path.stat().st_size == 0:
        problem = Problem("file", None, f"'{path}' is empty (0 bytes).", "Fetch it anew.")
    else:
        try:
            return h5py.File(path, "r")
        except (OSError, RuntimeError, ValueError) as error:
            if "truncated" in str(error):
                problem = Problem(
                    "file",
                    None,
                    f"'{path}' is truncated: it holds {path.stat().st_size} bytes, and more "
                    "were written.",
                    "Fetch or record it anew.",
                )
            elif "signature not found" in str(error):
                problem = Problem(
                    "file",
                    None,
                    f"'{path}' is not an HDF5 file.",
                    "Name a file in D4RL's HDF5 layout.",
                )
            else:
                problem = Problem(
                    "file", None, f"'{path}' cannot be read ({error}).", "Fetch it anew."
                )
    problems.append(problem)
    return None


def _plain(file: h5py.File, name: str, size: int) -> tuple[h5py.Dataset | None, Problem | None]:
    """Return the data set of this name, None where absent, or the reason to refuse it."""
    node: h5py.Group = file
    for part in name.split("/"):
        if not isinstance(node, h5py.Group):
            return None, None
        link = node.get(part, getlink=True)
        if link is None:
            return None, None
        if not isinstance(link, h5py.HardLink):
            return None, _refused(name, "is a link to another place or file")
        node = node[part]
    if not isinstance(node, h5py.Dataset):
        return None, Problem(name, None, "is a group.", "Store it as a data set.")
    if node.is_virtual:
        return None, _refused(name, "is a virtual data set")
    if node.external is not None:
        return None, _refused(name, "keeps its values in another file")
    properties = node.id.get_create_plist()
    for index in range(properties.get_nfilters()):
        code, _, _, label = properties.get_filter(index)
        if code not in _FILTERS:
            return None, _refused(name, f"is packed by the filter {label!r}")
    if node.shape is None:
        return None, Problem(name, None, "is empty.", "Record at least one step.")
    claimed = node.size * node.dtype.itemsize
    if claimed > _LARGEST_RATIO * size:
        return None, Problem(
            name,
            None,
            f"claims {claimed} bytes (shape {list(node.shape)}) in a file of {size}.",
            "Fetch or record the file anew.",
        )
    return node, None


def _refused(name: str, what: str) -> Problem:
    return Problem(
        name, None, f"{what}, which is not read.", "Store it as a plain data set of the file."
    )


def write_hdf5(
    path: str | os.PathLike[str],
    fields: Mapping[str, np.ndarray],
    attributes: Mapping[str, str | int | float] | None = None,
) -> Path:
    """Write a recording; the file appears whole or not at all, and equal data give equal bytes.

    Args:
        path: where to write; an existing file is replaced.
        fields: arrays by their HDF5 path, for example "infos/goal".
        attributes: plain values kept at the file's root.

    Returns:
        The path written.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".part", dir=path.parent)
    part = Path(name)
    try:
        os.close(handle)
        with h5py.File(part, "w", track_order=False) as file:
            for key in sorted(attributes or {}):
                file.attrs[key] = (attributes or {})[key]
            for key in sorted(fields):
                # No compression: 1,000,000 steps of maze2d are 60 MB, and noise packs badly.
                file.create_dataset(key, data=fields[key], track_times=False)
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
