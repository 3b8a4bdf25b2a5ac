"""From whatever holds recorded experience to episodes, and the list of a recording's faults."""

import os
from pathlib import Path
from typing import Any

from pgdiff.data.cache import Cached, CacheWriter, cache_key, cache_root, open_cache, remove_cache
from pgdiff.data.checks import NO_END, find_problems
from pgdiff.data.episodes import Episodes
from pgdiff.data.places import Place, find_place
from pgdiff.data.problems import Problem
from pgdiff.data.replay_buffer import from_replay_buffer
from pgdiff.data.successors import find_successor_problems
from pgdiff.data.time_limits import time_limit_hint
from pgdiff.validation import PgdiffError, user_path


def load_episodes(
    source: str | os.PathLike[str] | Any,
    *,
    join_continuous: bool = False,
    episode_length: int | None = None,
    cache_dir: str | os.PathLike[str] | None = None,
    repair: bool = False,
) -> Episodes:
    """Read recorded experience as episodes: D4RL's HDF5, Minari, or a replay buffer.

    **HDF5**: `observations`, `actions`, `rewards` and `terminals` must be there; `timeouts`,
    `next_observations`, `infos/goal`, `infos/next_goal`, `infos/qpos`, `infos/qvel` and
    `infos/class` are read if they are. A terminal or a timeout at row t ends the episode with row t
    included; an unfinished last episode is kept.

    **Minari**: an id such as "D4RL/pointmaze/umaze-v2", looked up in the local store
    (`MINARI_DATASETS_PATH`, else `~/.minari/datasets`), or the data set's folder; nothing is
    downloaded and no environment is made. Dict observations are flattened by
    `Episodes.observation_layout`; `desired_goal` becomes `infos["goal"]`. Of the N + 1
    observations of N steps the first N are the rows, and the last N are `next_observations` (so
    the goals are `infos["next_goal"]`). If an episode comes with only N observations, both are
    left out. Terminations and truncations are terminals and timeouts; an episode that another
    follows without either ends with a timeout.

    **Stable-Baselines3**: a `ReplayBuffer`; see `from_replay_buffer`.

    The checked fields of a file are kept as float32 and memory-mapped from `<file>.cache/`, or from
    a temporary folder where that cannot be written; a changed file is read anew.

    Args:
        source: an HDF5 file, a Minari id or folder, or a replay buffer.
        join_continuous: for recordings that mark a change of goal as an end although nothing was
            reset (D4RL's maze2d). A marked end is dropped if no feature of the next row's
            observation is further away than three times the 99.9th percentile of that feature's
            one-step moves, and if it is the recorded next observation, where there are any. A file
            without any mark is then one episode.
        episode_length: for files without `timeouts`: rows after which an episode that no terminal
            ends was cut (the environment's `max_episode_steps`), counted from its first.
        cache_dir: a folder to keep the float32 fields in, instead of beside the file.
        repair: whether to read a recording whose successors are at fault without the faulty parts,
            in place of an error. Rows that a vector environment adds after each end to reset itself
            (Gymnasium's `AutoresetMode.NEXT_STEP`) are left out. `next_observations` are left out
            as a whole where they hold, at ends, the first observation of the next episode or that
            of their own row, or are those of other rows; the successor of a row is then the row
            that follows, and that of a cut episode's last row is unknown.

    Raises:
        PgdiffError: at the first fault that `check` would list (not at a hint), naming field, row
            and fix; or a Minari id that is not in the store.
    """
    if not isinstance(source, str | os.PathLike):
        if episode_length is not None:
            raise PgdiffError(
                "`episode_length` is for files without `timeouts`. Got one with a replay buffer."
            )
        return from_replay_buffer(source, join_continuous=join_continuous, repair=repair)
    place = find_place(source)
    root = cache_root(place.path, None if cache_dir is None else user_path(cache_dir))
    cached = open_cache(root / cache_key(*place.files)) if place.exists else None
    fresh = cached is None
    need_end = not join_continuous and episode_length is None
    if cached is None:
        cached = _convert(place, root, need_end=need_end)
    arrays = cached.arrays
    marks = [arrays[name].any() for name in ("terminals", "timeouts") if name in arrays]
    if need_end and not (any(marks) or cached.ends_known):
        raise _fault(place, NO_END)
    try:
        return Episodes._from_clean(
            arrays,
            layout=cached.layout,
            episode_length=episode_length,
            join_continuous=join_continuous,
            repair=repair,
        )
    except PgdiffError as error:
        if fresh:
            remove_cache(root / cache_key(*place.files))
        raise PgdiffError(f"{place.path}: {error}") from error


def _convert(place: Place, root: Path, *, need_end: bool) -> Cached:
    """Check a recording and keep its fields as float32 under `root`; raise at the first fault."""
    problems: list[Problem] = []
    with place.open(problems) as recording:
        for problem in problems:
            raise _fault(place, problem)
        key = cache_key(*place.files)
        writer = CacheWriter(root, recording)
        need_end = need_end and not recording.ends_known
        try:
            for problem in find_problems(recording.fields, writer.sink, need_end=need_end):
                raise _fault(place, problem)
            return writer.finish(key)
        except OSError as error:
            writer.discard()
            raise PgdiffError(
                f"{place.path}: its float32 fields cannot be kept under '{writer.folder.parent}' "
                f"({error}). Make room, or name another place by `cache_dir`."
            ) from error
        except BaseException:
            writer.discard()
            raise


def _fault(place: Place, problem: Problem) -> PgdiffError:
    return PgdiffError(f"{place.path}: {problem}")


def check(source: str | os.PathLike[str]) -> list[Problem]:
    """List every fault of a recording, and hints at what may be one (`Problem.hint`).

    Without faults it can be loaded; an empty list means that nothing was found.

    Args:
        source: an HDF5 file in D4RL's layout, or a Minari id or folder.
    """
    problems: list[Problem] = []
    with find_place(source).open(problems) as recording:
        if recording.fields or not problems:
            faulty = {problem.field for problem in problems}
            found = find_problems(recording.fields, need_end=not recording.ends_known)
            problems.extend(problem for problem in found if problem.field not in faulty)
        if not problems:
            problems.extend(find_successor_problems(recording.fields))
            problems.extend(time_limit_hint(recording.fields))
    return problems


def is_cached(source: str | os.PathLike[str]) -> bool:
    """Whether the checked fields of a file are kept beside it already."""
    place = find_place(source)
    return place.exists and (cache_root(place.path, None) / cache_key(*place.files)).is_dir()
