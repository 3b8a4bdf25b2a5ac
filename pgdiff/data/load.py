"""From a D4RL HDF5 file to episodes, and the list of a file's faults."""

import os
from pathlib import Path

import numpy as np

from pgdiff.data.cache import CacheWriter, cache_key, cache_root, open_cache
from pgdiff.data.checks import NO_END, find_problems
from pgdiff.data.episodes import Episodes
from pgdiff.data.hdf5 import open_fields
from pgdiff.data.problems import Problem
from pgdiff.validation import PgdiffError


def load_episodes(
    path: str | os.PathLike[str],
    *,
    join_continuous: bool = False,
    cache_dir: str | os.PathLike[str] | None = None,
) -> Episodes:
    """Read a recording in D4RL's HDF5 layout as memory-mapped episodes.

    `observations`, `actions`, `rewards` and `terminals` must be there; `timeouts`,
    `next_observations`, `infos/goal`, `infos/qpos`, `infos/qvel` and `infos/class` are read if they
    are. A terminal or a timeout at row t ends the episode with row t included; an unfinished last
    episode is kept. The checked fields are kept as float32 in `<path>.cache/`, or in a temporary
    folder where that cannot be written; a changed file is read anew.

    Args:
        path: the HDF5 file.
        join_continuous: for recordings that mark a change of goal as an end although nothing was
            reset (D4RL's maze2d). A marked end is dropped if no feature of the next observation is
            further away than three times the 99.9th percentile of that feature's one-step moves. A
            file without any mark is then one episode.
        cache_dir: a folder to keep the float32 fields in, instead of beside the file.

    Raises:
        PgdiffError: at the first fault that `check` would list, naming field, row and mend.
    """
    path = Path(path)
    root = cache_root(path, None if cache_dir is None else Path(cache_dir))
    arrays = open_cache(root / cache_key(path)) if path.is_file() else None
    if arrays is None:
        arrays = _convert(path, root, need_end=not join_continuous)
    if not (join_continuous or arrays["terminals"].any() or arrays.get("timeouts", _NONE).any()):
        raise _fault(path, NO_END)
    return Episodes._from_clean(arrays, join_continuous)


_NONE = np.zeros(0, np.bool_)


def _convert(path: Path, root: Path, *, need_end: bool) -> dict[str, np.ndarray]:
    """Check a file and keep its fields as float32 under `root`; raise at the first fault."""
    problems: list[Problem] = []
    with open_fields(path, problems) as sources:
        for problem in problems:
            raise _fault(path, problem)
        key = cache_key(path)
        writer = CacheWriter(root, sources)
        try:
            for problem in find_problems(sources, writer.sink, need_end=need_end):
                raise _fault(path, problem)
            return writer.finish(key)
        except OSError as error:
            writer.discard()
            raise PgdiffError(
                f"{path}: its float32 fields cannot be kept under '{writer.folder.parent}' "
                f"({error}). Make room, or name another place by `cache_dir`."
            ) from error
        except BaseException:
            writer.discard()
            raise


def _fault(path: Path, problem: Problem) -> PgdiffError:
    return PgdiffError(f"{path}: {problem}")


def check(path: str | os.PathLike[str]) -> list[Problem]:
    """List every fault of a recording in D4RL's HDF5 layout; an empty list means that it is sound.

    Args:
        path: the HDF5 file.
    """
    problems: list[Problem] = []
    with open_fields(Path(path), problems) as sources:
        if sources or not problems:
            faulty = {problem.field for problem in problems}
            problems.extend(p for p in find_problems(sources) if p.field not in faulty)
    return problems
