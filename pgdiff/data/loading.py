"""Loading of recorded experience as episodes, and listing of a recording's faults."""

import os
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pgdiff.core.validation import PgdiffError, user_path
from pgdiff.data.checks import NO_END, find_problems
from pgdiff.data.episodes import Episodes
from pgdiff.data.formats.hdf5 import open_hdf5
from pgdiff.data.formats.minari_layout import (
    DATA,
    MAIN,
    METADATA,
    is_minari_id,
    minari_folder,
    minari_store,
)
from pgdiff.data.formats.minari_reader import open_minari
from pgdiff.data.formats.replay_buffer import from_replay_buffer
from pgdiff.data.formats.source import Recording
from pgdiff.data.memmap_cache import (
    Cached,
    CacheWriter,
    cache_key,
    cache_root,
    open_cache,
    remove_cache,
)
from pgdiff.data.schema import Problem
from pgdiff.data.successors import find_successor_problems
from pgdiff.data.time_limits import time_limit_hint


@dataclass(frozen=True)
class RecordingFiles:
    """Files of a recording.

    Attributes:
        path: path of the HDF5 file, shown in messages.
        folder: Minari's `data` folder, or None for a file in D4RL's layout.
    """

    path: Path
    folder: Path | None = None

    @property
    def files(self) -> tuple[Path, ...]:
        """All files of the recording."""
        return (self.path,) if self.folder is None else (self.path, self.folder / METADATA)

    @property
    def exists(self) -> bool:
        """True if all files exist."""
        return all(file.is_file() for file in self.files)

    def open(self, problems: list[Problem]) -> AbstractContextManager[Recording]:
        """Open the recording for reading, and append its faults to `problems`."""
        if self.folder is None:
            return open_hdf5(self.path, problems)
        return open_minari(self.folder, problems)


def find_recording(source: str | os.PathLike[str]) -> RecordingFiles:
    """Return the files of a path or Minari id; an existing path takes precedence over an id.

    A leading "~" is the home directory.

    Raises:
        PgdiffError: if a Minari id is not in the local store.
    """
    path = user_path(source)
    for folder in (path / DATA, path):
        if (folder / METADATA).is_file():
            return RecordingFiles(folder / MAIN, folder)
    if path.exists() or not is_minari_id(str(source)):
        return RecordingFiles(path)
    folder = minari_folder(str(source)) / DATA
    if not folder.is_dir():
        raise PgdiffError(
            f"'{source}' is neither a file nor a Minari data set in '{minari_store()}'. "
            f"Download it with `minari download {source}` (pip install 'pgdiff-rl[minari]'), or "
            "set MINARI_DATASETS_PATH to another store."
        )
    return RecordingFiles(folder / MAIN, folder)


def load_episodes(
    source: str | os.PathLike[str] | Any,
    *,
    join_continuous: bool = False,
    episode_length: int | None = None,
    cache_dir: str | os.PathLike[str] | None = None,
    repair: bool = False,
) -> Episodes:
    """Load recorded experience as episodes: D4RL's HDF5, Minari, or a replay buffer.

    **HDF5**: `observations`, `actions`, `rewards` and `terminals` are required; `timeouts`,
    `next_observations`, `infos/goal`, `infos/next_goal`, `infos/qpos`, `infos/qvel` and
    `infos/class` are optional, as are the `infos` of own token fields. A row with a terminal or
    timeout is the last row of its episode; an unfinished last episode is kept.

    **Minari**: an id such as "D4RL/pointmaze/umaze-v2", looked up in the local store
    (`MINARI_DATASETS_PATH`, else `~/.minari/datasets`), or the data set's folder. Nothing is
    downloaded, and no environment is created. Dict observations are flattened by
    `Episodes.observation_layout`; `desired_goal` becomes `infos["goal"]`. Of the N + 1
    observations of N steps, the first N are the rows and the last N are `next_observations` (with
    the goals `infos["next_goal"]`). Both are omitted if some episode has only N observations.
    Terminations and truncations become terminals and timeouts; an episode before the last one that
    ends with neither gets a timeout.

    **Stable-Baselines3**: a `ReplayBuffer`; see `from_replay_buffer`.

    The checked fields of a file are stored as float32 and memory-mapped from `<file>.cache/`, or
    from a temporary folder if that is not writable. The cache of a changed file is rebuilt.

    Args:
        source: an HDF5 file, a Minari id or folder, or a replay buffer.
        join_continuous: for recordings that mark a change of goal as an end without a reset (D4RL's
            maze2d). A marked end is removed if every feature changes to the next row by at most
            three times the 99.9th percentile of its one-step changes and, in a recording with next
            observations, the next row is the recorded one. A file without marks becomes one
            episode.
        episode_length: for files without `timeouts`: number of rows after which an episode without
            a terminal was cut off (the environment's `max_episode_steps`).
        cache_dir: folder for the float32 fields, instead of a folder next to the file.
        repair: if True, load a recording with faulty successors without the faulty parts instead of
            raising. Rows that a vector environment adds after each end to reset itself
            (Gymnasium's `AutoresetMode.NEXT_STEP`) are dropped. All `next_observations` are dropped
            if, at ends, they are the first observation of the next episode or the observation of
            their own row, or if they belong to other rows; the successor of a row is then the next
            row, and unknown for the last row of a cut-off episode.

    Raises:
        PgdiffError: at the first fault that `check` lists (hints are ignored), with field, row and
            fix; or if a Minari id is not in the store.

    Example:
        >>> import tempfile
        >>> from pgdiff.data import load_episodes, write_hdf5
        >>> from pgdiff.testing import example_episodes
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = write_hdf5(f"{folder}/point.hdf5", example_episodes(episodes=3))
        ...     print(len(load_episodes(path)))
        3
    """
    if not isinstance(source, str | os.PathLike):
        if episode_length is not None:
            raise PgdiffError(
                "`episode_length` is for files without `timeouts`. "
                f"Got {episode_length} for a replay buffer; leave it out."
            )
        return from_replay_buffer(source, join_continuous=join_continuous, repair=repair)
    location = find_recording(source)
    root = cache_root(location.path, None if cache_dir is None else user_path(cache_dir))
    cache = open_cache(root / cache_key(*location.files)) if location.exists else None
    is_new = cache is None
    need_end = not join_continuous and episode_length is None
    if cache is None:
        cache = _convert(location, root, need_end=need_end)
    arrays = cache.arrays
    marks = [arrays[name].any() for name in ("terminals", "timeouts") if name in arrays]
    if need_end and not (any(marks) or cache.ends_known):
        raise _fault(location, NO_END)
    try:
        return Episodes._from_clean(
            arrays,
            layout=cache.layout,
            episode_length=episode_length,
            join_continuous=join_continuous,
            repair=repair,
        )
    except PgdiffError as error:
        if is_new:
            remove_cache(root / cache_key(*location.files))
        raise PgdiffError(f"{location.path}: {error}") from error


def _convert(location: RecordingFiles, root: Path, *, need_end: bool) -> Cached:
    """Check a recording and store its fields as float32 under `root`; raise at the first fault."""
    problems: list[Problem] = []
    with location.open(problems) as recording:
        for problem in problems:
            raise _fault(location, problem)
        key = cache_key(*location.files)
        writer = CacheWriter(root, recording)
        need_end = need_end and not recording.ends_known
        try:
            for problem in find_problems(recording.fields, writer.sink, need_end=need_end):
                raise _fault(location, problem)
            return writer.finish(key)
        except OSError as error:
            writer.discard()
            raise PgdiffError(
                f"{location.path}: float32 fields cannot be written to '{writer.folder.parent}' "
                f"({error}). Free disk space, or set `cache_dir` to another folder."
            ) from error
        except BaseException:
            writer.discard()
            raise


def _fault(location: RecordingFiles, problem: Problem) -> PgdiffError:
    return PgdiffError(f"{location.path}: {problem}")


def check(source: str | os.PathLike[str]) -> list[Problem]:
    """Return every fault of a recording, and hints at possible faults (`Problem.hint`).

    A recording without faults can be loaded.

    Args:
        source: an HDF5 file in D4RL's layout, or a Minari id or folder.

    Example:
        >>> from pgdiff.data import check
        >>> [problem] = check("missing.hdf5")
        >>> print(problem)
        `file`: 'missing.hdf5' does not exist. Check the path.
    """
    problems: list[Problem] = []
    with find_recording(source).open(problems) as recording:
        if recording.fields or not problems:
            faulty = {problem.field for problem in problems}
            others = find_problems(recording.fields, need_end=not recording.ends_known)
            problems.extend(problem for problem in others if problem.field not in faulty)
        if not problems:
            problems.extend(find_successor_problems(recording.fields))
            problems.extend(time_limit_hint(recording.fields))
    return problems


def is_cached(source: str | os.PathLike[str]) -> bool:
    """Return whether the checked fields of a file are cached next to it."""
    location = find_recording(source)
    return (
        location.exists and (cache_root(location.path, None) / cache_key(*location.files)).is_dir()
    )
