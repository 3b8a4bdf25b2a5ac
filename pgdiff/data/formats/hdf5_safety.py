"""Safety checks of HDF5 data sets: only plain ones, not larger than their file can contain."""

import errno
import math
from pathlib import Path

import h5py

from pgdiff.data.schema import Problem

# HDF5's built-in filters and LZF. Other filters would load a plug-in from the machine.
_FILTERS = {
    h5py.h5z.FILTER_DEFLATE,
    h5py.h5z.FILTER_SHUFFLE,
    h5py.h5z.FILTER_FLETCHER32,
    h5py.h5z.FILTER_LZF,
}
# DEFLATE compresses by at most 1,032 to 1: a data set that claims more cannot be genuine.
LARGEST_RATIO = 1032
# Chunks and rows are decompressed in memory as a whole.
_LARGEST_CHUNK = 1 << 27


def open_file(path: Path, problems: list[Problem]) -> h5py.File | None:
    """Open an HDF5 file for reading, or append its fault to `problems` and return None."""
    problem: Problem
    if not path.exists():
        problem = Problem("file", None, f"'{path}' does not exist.", "Check the path.")
    elif not path.is_file():
        problem = Problem(
            "file", None, f"'{path}' is not a file.", "Pass the path of an HDF5 file."
        )
    elif path.stat().st_size == 0:
        problem = Problem(
            "file",
            None,
            f"'{path}' is empty (0 bytes).",
            "Download it again, or wait until its recorder has closed it.",
        )
    else:
        try:
            return h5py.File(path, "r")
        except (OSError, RuntimeError, ValueError) as error:
            problem = Problem("file", None, *_unreadable(path, error))
    problems.append(problem)
    return None


def _unreadable(path: Path, error: Exception) -> tuple[str, str]:
    """Return the fault of a file that HDF5 cannot open, and the fix."""
    code = getattr(error, "errno", None)
    if code in (errno.EAGAIN, errno.EACCES) and "lock" in str(error):
        return (
            f"'{path}' is open for writing in another process.",
            "Wait until its recorder has closed it.",
        )
    if "already open for write" in str(error):
        return (
            f"'{path}' is open for writing in another process, or was never closed.",
            "Wait until its recorder has closed it; if no recorder runs, remove the mark with "
            "`h5clear -s FILE` (one of HDF5's tools).",
        )
    if code in (errno.EMFILE, errno.ENFILE):
        return (
            f"'{path}' cannot be opened: this process has reached its limit of open files.",
            "Close some files, or raise the limit (`ulimit -n`).",
        )
    if code in (errno.EACCES, errno.EPERM):
        return f"'{path}' is not readable by this user.", "Change its permissions (`chmod`)."
    if "truncated" in str(error):
        return (
            f"'{path}' is truncated: it has only {path.stat().st_size} bytes.",
            "Download or record it again; if its recorder still runs, wait until it has closed the "
            "file.",
        )
    if "signature not found" in str(error):
        return f"'{path}' is not an HDF5 file.", "Pass a file in D4RL's HDF5 layout."
    return f"'{path}' cannot be read ({error}).", "Download it again."


def plain_dataset(
    group: h5py.Group, name: str, size: int
) -> tuple[h5py.Dataset | None, Problem | None]:
    """Return the data set at a path and the reason to reject it; at most one is not None.

    Links to other locations or files, virtual data sets, external storage and filters that need a
    plug-in are rejected, because they access data that the user did not specify.

    Args:
        group: group that contains the data set.
        name: path below the group.
        size: size of the file in bytes.
    """
    try:
        node, problem = plain_node(group, name)
        if problem is not None or node is None:
            return None, problem
        if not isinstance(node, h5py.Dataset):
            return None, Problem(name, None, "is a group.", "Store it as a data set.")
        problem = find_rejection(node, name, size)
        return (node, None) if problem is None else (None, problem)
    except (OSError, RuntimeError, KeyError, ValueError, TypeError) as error:
        return None, Problem(name, None, f"cannot be read ({error}).", "Download the file again.")


def plain_node(group: h5py.Group, name: str) -> tuple[h5py.HLObject | None, Problem | None]:
    """Return the object at a path, without following links."""
    node: h5py.HLObject = group
    parts = name.split("/")
    for depth, part in enumerate(parts, start=1):
        if not isinstance(node, h5py.Group):
            return None, None
        link = node.get(part, getlink=True)
        if link is None:
            return None, None
        if not isinstance(link, h5py.HardLink):
            return None, _rejection(
                "/".join(parts[:depth]), "is a link to another location or file"
            )
        node = node[part]
    return node, None


def find_rejection(dataset: h5py.Dataset, name: str, size: int) -> Problem | None:
    """Return the reason to reject a data set, or None; see `plain_dataset`."""
    if dataset.is_virtual:
        return _rejection(name, "is a virtual data set")
    if dataset.external is not None:
        return _rejection(name, "stores its values in another file")
    properties = dataset.id.get_create_plist()
    for index in range(properties.get_nfilters()):
        code, _, _, label = properties.get_filter(index)
        if code not in _FILTERS:
            return _rejection(name, f"is compressed with the filter {label!r}")
    if dataset.shape is None:
        return Problem(name, None, "is empty.", "Record at least one step.")
    item = dataset.dtype.itemsize
    claimed = math.prod(dataset.shape) * item
    if claimed > LARGEST_RATIO * size:
        return Problem(
            name,
            None,
            f"claims {claimed} bytes (shape {list(dataset.shape)}) in a file of {size} bytes.",
            "Download or record the file again.",
        )
    largest = max(math.prod(dataset.chunks or (1,)), math.prod(dataset.shape[1:])) * item
    if largest > _LARGEST_CHUNK:
        return Problem(
            name,
            None,
            f"has chunks or rows of {largest} bytes; the limit is {_LARGEST_CHUNK} bytes.",
            "Store it in smaller chunks.",
        )
    return None


def _rejection(name: str, reason: str) -> Problem:
    return Problem(
        name,
        None,
        f"{reason}, which is not supported.",
        "Store it as a plain data set of the file.",
    )
