"""Which HDF5 data sets are read: plain ones, no larger than their file can hold."""

import errno
import math
from pathlib import Path

import h5py

from pgdiff.data.problems import Problem

# HDF5's built-in filters and LZF. Any other would load a plug-in from the machine.
_FILTERS = {
    h5py.h5z.FILTER_DEFLATE,
    h5py.h5z.FILTER_SHUFFLE,
    h5py.h5z.FILTER_FLETCHER32,
    h5py.h5z.FILTER_LZF,
}
# DEFLATE packs at most 1,032 to 1: whatever claims to unpack to more was never written.
LARGEST_RATIO = 1032
# A chunk, and a row, are unpacked in memory as a whole.
_LARGEST_CHUNK = 1 << 27


def open_file(path: Path, problems: list[Problem]) -> h5py.File | None:
    """Open an HDF5 file for reading, or append what is wrong with it to `problems`."""
    problem: Problem
    if not path.exists():
        problem = Problem("file", None, f"'{path}' does not exist.", "Check the path.")
    elif not path.is_file():
        problem = Problem("file", None, f"'{path}' is no file.", "Name an HDF5 file.")
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
    """Return what is wrong with a file that HDF5 cannot open, and the fix."""
    code = getattr(error, "errno", None)
    if code in (errno.EAGAIN, errno.EACCES) and "lock" in str(error):
        return (
            f"'{path}' is open in a process that writes it.",
            "Wait until its recorder has closed it, then read it.",
        )
    if "already open for write" in str(error):
        return (
            f"'{path}' is open in a process that writes it, or that process ended without closing "
            "it.",
            "Wait until its recorder has closed it; if none runs, `h5clear -s FILE` (of HDF5's "
            "tools) removes the mark.",
        )
    if code in (errno.EMFILE, errno.ENFILE):
        return (
            f"'{path}' cannot be opened: this process has as many open files as it may.",
            "Close some, or raise the limit (`ulimit -n`).",
        )
    if code in (errno.EACCES, errno.EPERM):
        return f"'{path}' may not be read by this user.", "Change its permissions (`chmod`)."
    if "truncated" in str(error):
        return (
            f"'{path}' is truncated: it holds {path.stat().st_size} bytes, and more were written.",
            "Download or record it again; if its recorder still runs, wait until it has closed the "
            "file.",
        )
    if "signature not found" in str(error):
        return f"'{path}' is not an HDF5 file.", "Name a file in D4RL's HDF5 layout."
    return f"'{path}' cannot be read ({error}).", "Fetch it anew."


def plain_dataset(
    group: h5py.Group, name: str, size: int
) -> tuple[h5py.Dataset | None, Problem | None]:
    """Return the data set of this name, None where it is absent, or the reason to refuse it.

    Links to other places or files, virtual data sets, external storage and filters that need a
    plug-in are refused, because they read what the user did not name.

    Args:
        group: where to look.
        name: path below the group.
        size: bytes of the file.
    """
    try:
        node, problem = plain_node(group, name)
        if problem is not None or node is None:
            return None, problem
        if not isinstance(node, h5py.Dataset):
            return None, Problem(name, None, "is a group.", "Store it as a data set.")
        problem = refusal(node, name, size)
        return (node, None) if problem is None else (None, problem)
    except (OSError, RuntimeError, KeyError, ValueError, TypeError) as error:
        return None, Problem(name, None, f"cannot be read ({error}).", "Fetch the file anew.")


def plain_node(group: h5py.Group, name: str) -> tuple[h5py.HLObject | None, Problem | None]:
    """Return what lies at a path without following any link out of its place."""
    node: h5py.HLObject = group
    parts = name.split("/")
    for depth, part in enumerate(parts, start=1):
        if not isinstance(node, h5py.Group):
            return None, None
        link = node.get(part, getlink=True)
        if link is None:
            return None, None
        if not isinstance(link, h5py.HardLink):
            return None, _refused("/".join(parts[:depth]), "is a link to another place or file")
        node = node[part]
    return node, None


def refusal(dataset: h5py.Dataset, name: str, size: int) -> Problem | None:
    """Return why a data set is not read, or None; see `plain_dataset`."""
    if dataset.is_virtual:
        return _refused(name, "is a virtual data set")
    if dataset.external is not None:
        return _refused(name, "keeps its values in another file")
    properties = dataset.id.get_create_plist()
    for index in range(properties.get_nfilters()):
        code, _, _, label = properties.get_filter(index)
        if code not in _FILTERS:
            return _refused(name, f"is packed by the filter {label!r}")
    if dataset.shape is None:
        return Problem(name, None, "is empty.", "Record at least one step.")
    item = dataset.dtype.itemsize
    claimed = math.prod(dataset.shape) * item
    if claimed > LARGEST_RATIO * size:
        return Problem(
            name,
            None,
            f"claims {claimed} bytes (shape {list(dataset.shape)}) in a file of {size}.",
            "Fetch or record the file anew.",
        )
    largest = max(math.prod(dataset.chunks or (1,)), math.prod(dataset.shape[1:])) * item
    if largest > _LARGEST_CHUNK:
        return Problem(
            name,
            None,
            f"has chunks or rows of {largest} bytes; at most {_LARGEST_CHUNK} are read at once.",
            "Store it in smaller chunks.",
        )
    return None


def _refused(name: str, what: str) -> Problem:
    return Problem(
        name, None, f"{what}, which is not read.", "Store it as a plain data set of the file."
    )
