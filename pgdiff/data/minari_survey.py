"""What the groups of a Minari file look like, found without reading their values."""

from collections.abc import Iterable
from dataclasses import dataclass

import h5py

from pgdiff.data.minari_rows import Leaf
from pgdiff.data.minari_store import MAIN, METADATA
from pgdiff.data.plain import LARGEST_RATIO, plain_node, refusal
from pgdiff.data.problems import Problem

INFOS = ("goal", "next_goal", "qpos", "qvel", "class")
_STEPS = ("actions", "rewards", "terminations", "truncations")
_PARTS = ("observations", *_STEPS, "infos")
_DEEPEST, _MOST = 8, 1000


class Fault(Exception):
    """What makes a data set unreadable."""

    def __init__(self, field: str, row: int | None, message: str, mend: str) -> None:
        super().__init__(message)
        self.problem = Problem(field, row, message, mend)


@dataclass
class Survey:
    """What the episodes of a file look like, found without reading their values.

    Attributes:
        leaves: every data set below an episode's group, by its path.
        lengths: steps of each episode.
        short: episodes that have no observation after their last action.
        infos: known infos that all episodes have.
        steps: rows so far.
    """

    leaves: dict[str, Leaf]
    lengths: list[int]
    short: list[int]
    infos: list[str]
    steps: int = 0


def survey_episodes(file: h5py.File, size: int, count: int) -> Survey:
    """Look at the first `count` episodes of a file of `size` bytes.

    Raises:
        Fault: at the first episode that is unsound or unlike the first one.
    """
    held = sum(name.startswith("episode_") for name in file)
    if held < count or count == 0:
        raise Fault(
            "file",
            None,
            f"'{METADATA}' counts {count} episodes where '{MAIN}' holds {held}.",
            "Record at least one episode." if count == 0 else "Fetch the data set anew.",
        )
    survey = Survey({}, [], [], [])
    claimed = 0
    for number in range(count):
        found = _leaves(file, f"episode_{number}", size)
        claimed += sum(leaf.bytes for leaf in found.values())
        _take(survey, found, number)
    # Each claim was checked alone; together they may still be more than the file can unpack to.
    if claimed > LARGEST_RATIO * size:
        raise Fault("file", None, f"claims {claimed} bytes in a file of {size}.", "Fetch it anew.")
    return survey


def _take(survey: Survey, found: dict[str, Leaf], number: int) -> None:
    """Add an episode to the survey, or say how it differs from the first one."""
    row, episode = survey.steps, f"episode_{number}"
    for name in _STEPS:
        if name not in found:
            inside = any(path.startswith(f"{name}/") for path in found)
            what = "is a group (a Dict or Tuple space)" if inside else "is missing"
            raise Fault(name, row, f"{what} in {episode}.", "Record it as one array per episode.")
    steps = found["rewards"].rows
    if steps == 0:
        raise Fault("rewards", row, f"is empty in {episode}.", "Drop the episode.")
    observed = {p: x for p, x in found.items() if p.partition("/")[0] == "observations"}
    if not observed:
        raise Fault("observations", row, f"is missing in {episode}.", "Record it.")
    names = [name for path in observed for name in path.split("/")]
    if any(name.startswith("_index_") for name in names):
        raise Fault("observations", row, "are of a Tuple space.", "Record a Box or a Dict.")
    if any("." in name for name in names):
        raise Fault("observations", row, "has a field with a dot in its name.", "Rename it.")
    used = dict(observed)
    used |= {name: found[name] for name in _STEPS}
    for path, leaf in used.items():
        allowed = (steps, steps + 1) if path in observed else (steps,)
        if leaf.rows not in allowed:
            raise Fault(
                path.partition("/")[0],
                row,
                f"has {leaf.rows} rows of `{path}` in {episode}, which has {steps} rewards.",
                "Give it one row per step; observations also one after the last step.",
            )
    counts = {leaf.rows for leaf in observed.values()}
    if len(counts) > 1:
        raise Fault(
            "observations", row, f"has fields of unequal length in {episode}.", "Repair it."
        )
    if counts == {steps}:
        survey.short.append(number)
    infos = [
        name
        for name in INFOS
        if (info := found.get(f"infos/{name}")) is not None
        and info.rows in (steps, steps + 1)
        and info.dtype.kind in "biuf"
        and len(info.tail) == 1
    ]
    used |= {f"infos/{name}": found[f"infos/{name}"] for name in infos}
    if number == 0:
        survey.leaves, survey.infos = used, infos
    else:
        survey.infos = [n for n in survey.infos if n in infos]
    _same(survey, used, number, row)
    survey.lengths.append(steps)
    survey.steps += steps


def _same(survey: Survey, used: dict[str, Leaf], number: int, row: int) -> None:
    needed = {path for path in survey.leaves if not path.startswith("infos/")}
    given = {path for path in used if not path.startswith("infos/")}
    if needed != given:
        odd = sorted(needed ^ given)[0]
        raise Fault(
            "observations",
            row,
            f"has the field `{odd}` in {'episode_0' if odd in needed else f'episode_{number}'} "
            f"and not in {f'episode_{number}' if odd in needed else 'episode_0'}.",
            "Give all episodes the same fields.",
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
                f"has rows of shape {list(leaf.tail)} in episode_{number}, "
                f"{list(first.tail)} in episode_0 (`{path}`).",
                "Give all episodes the same features.",
            )
        survey.leaves[path] = first.joined(leaf)


def _leaves(file: h5py.File, episode: str, size: int) -> dict[str, Leaf]:
    """Every data set below an episode's group by its path, checked to be plain."""
    found: dict[str, Leaf] = {}
    visited = 0

    def walk(group: h5py.Group, prefix: str, names: Iterable[str], depth: int) -> None:
        nonlocal visited
        for name in names:
            path = f"{prefix}{name}"
            visited += 1
            # Groups may hold one another: what is followed must be bounded.
            if depth > _DEEPEST or visited > _MOST:
                what = f"nests more than {_DEEPEST} deep or has more than {_MOST} fields."
                raise Fault(episode, None, what, "Flatten it.")
            node, problem = plain_node(group, name)
            if isinstance(node, h5py.Group):
                walk(node, f"{path}/", INFOS if path == "infos" else node, depth + 1)
                continue
            if isinstance(node, h5py.Dataset):
                problem = refusal(node, path, size)
            if problem is not None:
                raise Fault(f"{episode}/{path}", None, problem.message, problem.mend)
            if not isinstance(node, h5py.Dataset):
                continue
            if not node.shape:
                raise Fault(f"{episode}/{path}", None, "is one value.", "Store a row per step.")
            found[path] = Leaf(path, node.shape[0], tuple(node.shape[1:]), node.dtype)

    top, problem = plain_node(file, episode)
    if problem is not None:
        raise Fault(problem.field, None, problem.message, problem.mend)
    if not isinstance(top, h5py.Group):
        raise Fault("file", None, f"'{episode}' is missing.", "Fetch the data set anew.")
    walk(top, "", _PARTS, 0)
    return found
