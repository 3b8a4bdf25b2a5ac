"""Structure checks of a Minari file, without reading its values."""

from collections.abc import Iterable
from dataclasses import dataclass

import h5py

from pgdiff.data.formats.hdf5_safety import LARGEST_RATIO, find_rejection, plain_node
from pgdiff.data.formats.minari_layout import MAIN, METADATA, Leaf
from pgdiff.data.schema import Problem, recording_fields

_STEPS = ("actions", "rewards", "terminations", "truncations")
_PARTS = ("observations", *_STEPS, "infos")
_DEEPEST, _MOST = 8, 1000


class Fault(Exception):
    """Fault that makes a data set unreadable."""

    def __init__(self, field: str, row: int | None, message: str, fix: str) -> None:
        super().__init__(message)
        self.problem = Problem(field, row, message, fix)


@dataclass
class Survey:
    """Structure of the episodes of a file.

    Attributes:
        leaves: every data set below an episode's group, under its path.
        lengths: steps of each episode.
        short: episodes without an observation after their last action.
        infos: supported infos that all episodes have.
        steps: number of rows so far.
    """

    leaves: dict[str, Leaf]
    lengths: list[int]
    short: list[int]
    infos: list[str]
    steps: int = 0


def survey_episodes(file: h5py.File, size: int, count: int) -> Survey:
    """Check the first `count` episodes of a file of `size` bytes.

    Raises:
        Fault: at the first episode that is invalid or differs in structure from the first one.
    """
    held = sum(name.startswith("episode_") for name in file)
    if held < count or count == 0:
        raise Fault(
            "file",
            None,
            f"'{METADATA}' counts {count} episodes, but '{MAIN}' has {held}.",
            "Record at least one episode." if count == 0 else "Download the data set again.",
        )
    survey = Survey({}, [], [], [])
    claimed = 0
    for number in range(count):
        leaves = _leaves(file, f"episode_{number}", size)
        claimed += sum(leaf.bytes for leaf in leaves.values())
        _add_episode(survey, leaves, number)
    # Each size was checked alone; their sum may still exceed the file's largest content.
    if claimed > LARGEST_RATIO * size:
        raise Fault(
            "file", None, f"claims {claimed} bytes in a file of {size} bytes.", "Download it again."
        )
    return survey


def _add_episode(survey: Survey, leaves: dict[str, Leaf], number: int) -> None:
    """Add an episode to the survey, or raise if it is invalid or differs from the first one."""
    row, episode = survey.steps, f"episode_{number}"
    for name in _STEPS:
        if name not in leaves:
            is_group = any(path.startswith(f"{name}/") for path in leaves)
            fault = "is a group (a Dict or Tuple space)" if is_group else "is missing"
            raise Fault(name, row, f"{fault} in {episode}.", "Record it as one array per episode.")
    steps = leaves["rewards"].rows
    if steps == 0:
        raise Fault("rewards", row, f"is empty in {episode}.", "Drop the episode.")
    observed = {p: x for p, x in leaves.items() if p.partition("/")[0] == "observations"}
    if not observed:
        raise Fault("observations", row, f"is missing in {episode}.", "Record observations.")
    names = [name for path in observed for name in path.split("/")]
    if any(name.startswith("_index_") for name in names):
        raise Fault("observations", row, "has a Tuple space.", "Record a Box or a Dict.")
    if any("." in name for name in names):
        raise Fault("observations", row, "has a field with a dot in its name.", "Rename the field.")
    used = dict(observed)
    used |= {name: leaves[name] for name in _STEPS}
    for path, leaf in used.items():
        allowed = (steps, steps + 1) if path in observed else (steps,)
        if leaf.rows not in allowed:
            raise Fault(
                path.partition("/")[0],
                row,
                f"has {leaf.rows} rows of `{path}` in {episode}, which has {steps} rewards.",
                "Store one row per step, for observations also one after the last step.",
            )
    counts = {leaf.rows for leaf in observed.values()}
    if len(counts) > 1:
        raise Fault(
            "observations",
            row,
            f"has fields of unequal length in {episode}.",
            "Store the same number of rows in all fields.",
        )
    if counts == {steps}:
        survey.short.append(number)
    infos = [
        name
        for name in _infos()
        if (info := leaves.get(f"infos/{name}")) is not None
        and info.rows in (steps, steps + 1)
        and info.dtype.kind in "biuf"
        and len(info.tail) == 1
    ]
    used |= {f"infos/{name}": leaves[f"infos/{name}"] for name in infos}
    if number == 0:
        survey.leaves, survey.infos = used, infos
    else:
        survey.infos = [n for n in survey.infos if n in infos]
    _check_same_fields(survey, used, number, row)
    survey.lengths.append(steps)
    survey.steps += steps


def _infos() -> list[str]:
    """Return the names of the infos that are read."""
    prefix = "infos/"
    return [name.removeprefix(prefix) for name in recording_fields() if name.startswith(prefix)]


def _check_same_fields(survey: Survey, used: dict[str, Leaf], number: int, row: int) -> None:
    """Raise if an episode's fields differ from those of the first episode; merge their types."""
    needed = {path for path in survey.leaves if not path.startswith("infos/")}
    present = {path for path in used if not path.startswith("infos/")}
    if needed != present:
        odd = sorted(needed ^ present)[0]
        raise Fault(
            "observations",
            row,
            f"has the field `{odd}` in {'episode_0' if odd in needed else f'episode_{number}'} "
            f"but not in {f'episode_{number}' if odd in needed else 'episode_0'}.",
            "Record the same fields in all episodes.",
        )
    for path, leaf in used.items():
        first = survey.leaves.get(path)
        if first is None:
            continue
        if first.tail != leaf.tail:
            if path.startswith("infos/"):
                survey.infos = [name for name in survey.infos if f"infos/{name}" != path]
                continue
            raise Fault(
                path.partition("/")[0],
                row,
                f"has rows of shape {list(leaf.tail)} in episode_{number}, but of shape "
                f"{list(first.tail)} in episode_0 (`{path}`).",
                "Record the same features in all episodes.",
            )
        survey.leaves[path] = first.merge_type(leaf)


def _leaves(file: h5py.File, episode: str, size: int) -> dict[str, Leaf]:
    """Return every data set below an episode's group under its path; raise if one is not plain."""
    leaves: dict[str, Leaf] = {}
    visited = 0

    def walk(group: h5py.Group, prefix: str, names: Iterable[str], depth: int) -> None:
        nonlocal visited
        for name in names:
            path = f"{prefix}{name}"
            visited += 1
            # Groups can contain each other: bound the depth and the number of nodes.
            if depth > _DEEPEST or visited > _MOST:
                message = f"nests more than {_DEEPEST} deep or has more than {_MOST} fields."
                raise Fault(episode, None, message, "Flatten the observations.")
            node, problem = plain_node(group, name)
            if isinstance(node, h5py.Group):
                walk(node, f"{path}/", _infos() if path == "infos" else node, depth + 1)
                continue
            if isinstance(node, h5py.Dataset):
                problem = find_rejection(node, path, size)
            if problem is not None:
                raise Fault(f"{episode}/{path}", None, problem.message, problem.fix)
            if not isinstance(node, h5py.Dataset):
                continue
            if not node.shape:
                raise Fault(
                    f"{episode}/{path}", None, "is a single value.", "Store one row per step."
                )
            leaves[path] = Leaf(path, node.shape[0], tuple(node.shape[1:]), node.dtype)

    top, problem = plain_node(file, episode)
    if problem is not None:
        raise Fault(problem.field, None, problem.message, problem.fix)
    if not isinstance(top, h5py.Group):
        raise Fault("file", None, f"'{episode}' is missing.", "Download the data set again.")
    walk(top, "", _PARTS, 0)
    return leaves
