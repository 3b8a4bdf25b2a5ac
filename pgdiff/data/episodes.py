"""Recorded episodes: a read-only array per field, and the bounds of every episode."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Self

import numpy as np
from jaxtyping import Bool, Float, Int
from numpy.typing import ArrayLike

from pgdiff.core.validation import (
    PgdiffError,
    as_array,
    check_positive_int,
    check_range,
    check_seed,
    nearest,
)
from pgdiff.data.checks import find_problems
from pgdiff.data.dict_observations import ObservationLayout
from pgdiff.data.episode_boundaries import continuous_marks, episode_bounds, time_limits
from pgdiff.data.schema import Field, Problem, recording_fields
from pgdiff.data.successors import check_successors


@dataclass(frozen=True, eq=False)
class Episodes:
    """Recorded experience; row t holds an observation, the action taken there and its reward.

    Rows `starts[i]:ends[i]` belong to episode i. A selection (see `split`) shares the arrays of the
    recording, so some rows may not belong to any of its episodes. All arrays are read-only.

    Attributes:
        observations: `[steps, obs]` float32, usually a view of a memory-mapped file.
        actions: `[steps, act]` float32.
        rewards: `[steps]` float32.
        terminals: `[steps]` bool; True where the task ended after the row.
        timeouts: `[steps]` bool; True where the episode was cut off after the row.
        starts: `[episodes]` int64, first row of each episode.
        ends: `[episodes]` int64, the row after the last row of each episode.
        next_observations: `[steps, obs]` float32, or None if they were not recorded.
        infos: further fields, each `[steps, features]` float32: "goal", "next_goal", "qpos",
            "qvel", "class" and `infos` of registered token fields and conditions, if present.
        observation_layout: layout of the Dict observations that were flattened, or None. Their
            goals are `infos["goal"]`, and the goals of the next observations `infos["next_goal"]`.

    Example:
        >>> from pgdiff.data import Episodes
        >>> episodes = Episodes.from_arrays(
        ...     observations=[[0.0], [1.0], [5.0]],
        ...     actions=[[1.0], [1.0], [-1.0]],
        ...     rewards=[0.0, 1.0, 0.0],
        ...     terminals=[0, 1, 0],
        ... )
        >>> len(episodes), episodes.lengths.tolist()
        (2, [2, 1])
    """

    observations: Float[np.ndarray, "steps obs"]
    actions: Float[np.ndarray, "steps act"]
    rewards: Float[np.ndarray, " steps"]
    terminals: Bool[np.ndarray, " steps"]
    timeouts: Bool[np.ndarray, " steps"]
    starts: Int[np.ndarray, " episodes"]
    ends: Int[np.ndarray, " episodes"]
    next_observations: Float[np.ndarray, "steps obs"] | None = None
    infos: Mapping[str, Float[np.ndarray, "steps features"]] = field(default_factory=dict)
    observation_layout: ObservationLayout | None = None

    def __len__(self) -> int:
        return len(self.starts)

    @property
    def steps(self) -> int:
        """Number of rows of the arrays."""
        return len(self.observations)

    @property
    def lengths(self) -> Int[np.ndarray, " episodes"]:
        """Number of rows of each episode."""
        lengths: np.ndarray = self.ends - self.starts
        return lengths

    @classmethod
    def from_arrays(
        cls,
        *,
        observations: ArrayLike,
        actions: ArrayLike,
        rewards: ArrayLike,
        terminals: ArrayLike,
        timeouts: ArrayLike | None = None,
        next_observations: ArrayLike | None = None,
        infos: Mapping[str, ArrayLike] | None = None,
        observation_layout: ObservationLayout | None = None,
        episode_length: int | None = None,
        join_continuous: bool = False,
        repair: bool = False,
        **fields: ArrayLike,
    ) -> Self:
        """Create episodes from arrays in memory, which are checked, converted and copied.

        PyTorch tensors are accepted. `from_arrays(**episodes.fields())` recreates the episodes;
        pass their `observation_layout` as well.

        Args:
            observations: `[steps, obs]`.
            actions: `[steps, act]`.
            rewards: `[steps]`.
            terminals: `[steps]`, 0 or 1.
            timeouts: `[steps]`, 0 or 1.
            next_observations: `[steps, obs]`.
            infos: "goal", "next_goal", "qpos", "qvel", "class", or `infos` of a registered field,
                each `[steps, features]`.
            observation_layout: layout whose `flatten` made these observations from a Dict.
            episode_length: see `load_episodes`.
            join_continuous: see `load_episodes`.
            repair: see `load_episodes`.
            fields: `infos` under their names in a file: `**{"infos/goal": goals}`.

        Raises:
            PgdiffError: at the first fault, with field, row and fix.
        """
        main: dict[str, ArrayLike | None] = {
            "observations": observations,
            "actions": actions,
            "rewards": rewards,
            "terminals": terminals,
            "timeouts": timeouts,
            "next_observations": next_observations,
        }
        extra = {f"infos/{key}": value for key, value in (infos or {}).items()}
        for key in fields.keys() & extra.keys():
            raise PgdiffError(f"`{key}` must be given once. Got it twice; remove it from `infos`.")
        arrays: dict[str, np.ndarray] = {}
        known = recording_fields()
        for name, values in (main | extra | fields).items():
            if values is None:
                continue
            if name not in known:
                raise PgdiffError(
                    f"`{name}` is not the name of a field; it must be {nearest(name, known)}"
                )
            arrays[name] = _array(name, values)
        need_end = not join_continuous and episode_length is None
        return cls._from_clean(
            convert(arrays, need_end=need_end),
            layout=observation_layout,
            episode_length=episode_length,
            join_continuous=join_continuous,
            repair=repair,
        )

    @classmethod
    def _from_clean(
        cls,
        arrays: Mapping[str, np.ndarray],
        *,
        layout: ObservationLayout | None = None,
        episode_length: int | None = None,
        join_continuous: bool = False,
        repair: bool = False,
        trusted: bool = False,
    ) -> Self:
        """Create episodes from arrays whose values have passed the checks.

        `trusted` arrays come from existing episodes, so their next observations are valid.
        """
        arrays = {**arrays, "timeouts": _timeouts(arrays, episode_length)}
        if layout is not None:
            _check_layout(layout, arrays)
        if not trusted:
            arrays = check_successors(arrays, repair=repair)
        terminals, timeouts = arrays["terminals"], arrays["timeouts"]
        if join_continuous:
            joined = continuous_marks(
                arrays["observations"], terminals | timeouts, arrays.get("next_observations")
            )
            # A joined row neither ended the task nor was cut off: both marks are removed.
            terminals, timeouts = terminals.copy(), timeouts.copy()
            terminals[joined] = timeouts[joined] = False
        starts, ends = episode_bounds(terminals, timeouts)
        prefix = "infos/"
        episodes = cls(
            observations=arrays["observations"],
            actions=arrays["actions"],
            rewards=arrays["rewards"],
            terminals=terminals,
            timeouts=timeouts,
            starts=starts,
            ends=ends,
            next_observations=arrays.get("next_observations"),
            infos={
                name.removeprefix(prefix): values
                for name, values in arrays.items()
                if name.startswith(prefix)
            },
            observation_layout=layout,
        )
        for array in (terminals, timeouts, starts, ends, *arrays.values()):
            array.setflags(write=False)
        return episodes

    def fields(self) -> dict[str, np.ndarray]:
        """Return the fields under D4RL's names, with only the rows of these episodes, in order.

        `from_arrays(**fields)` and `write_hdf5` accept them. Every episode before the last one ends
        with a mark: a timeout is added to an unmarked end (see `split`), also to the last episode
        of a recording without any other mark. Arrays are copied only when necessary.

        Raises:
            PgdiffError: if there are no episodes.
        """
        if not len(self):
            raise PgdiffError("A recording must have at least one episode. Got none.")
        fields: dict[str, np.ndarray] = {
            name: getattr(self, name)
            for name in ("observations", "actions", "rewards", "terminals", "timeouts")
        }
        if self.next_observations is not None:
            fields["next_observations"] = self.next_observations
        fields |= {f"infos/{name}": values for name, values in self.infos.items()}
        whole = self.starts[0] == 0 and self.ends[-1] == self.steps
        if not (whole and (self.starts[1:] == self.ends[:-1]).all()):
            bounds = zip(self.starts, self.ends, strict=True)
            rows = np.concatenate([np.arange(start, end) for start, end in bounds])
            fields = {name: values[rows] for name, values in fields.items()}
        last = np.cumsum(self.lengths)[:-1] - 1
        marked = fields["terminals"] | fields["timeouts"]
        unmarked = last[~marked[last]]
        if not len(last) and not marked.any():  # a recording must mark at least one end
            unmarked = np.array([len(marked) - 1])
        if len(unmarked):
            fields["timeouts"] = fields["timeouts"].copy()
            fields["timeouts"][unmarked] = True
        return fields

    def select(self, episodes: ArrayLike) -> Self:
        """Return a selection of the episodes; the arrays are shared.

        Args:
            episodes: numbers of the episodes in the desired order, -1 for the last; or one bool
                for each episode.

        Raises:
            PgdiffError: if no episode is selected, or a number is out of range or not an integer.
        """
        chosen = np.atleast_1d(as_array("episodes", episodes))
        if chosen.dtype == np.bool_ and chosen.shape == (len(self),):
            chosen = np.flatnonzero(chosen)
        if chosen.size == 0:
            raise PgdiffError("`episodes` must select at least one episode. Got none.")
        if chosen.dtype.kind not in "iu" or chosen.ndim != 1:
            raise PgdiffError(
                f"`episodes` must be integers, or one bool for each of the {len(self)} episodes. "
                f"Got {chosen.dtype} of shape {list(chosen.shape)}."
            )
        numbers = chosen.astype(np.int64)
        wrong = numbers[(numbers < -len(self)) | (numbers >= len(self))]
        if len(wrong):
            raise PgdiffError(
                f"`episodes` must be numbers of the {len(self)} episodes, 0 to {len(self) - 1}. "
                f"Got {wrong[0]}."
            )
        return self._with_bounds(self.starts[numbers], self.ends[numbers])

    def _with_bounds(self, starts: np.ndarray, ends: np.ndarray) -> Self:
        starts.setflags(write=False)
        ends.setflags(write=False)
        return replace(self, starts=starts, ends=ends)

    def split(self, validation: float, *, seed: int) -> tuple[Self, Self]:
        """Split into training episodes and held-out episodes.

        With 10 or more episodes, whole episodes are drawn at random. With fewer, the last rows of
        the longest episode become the held-out episode, a share `validation` of its length.

        Args:
            validation: share of held-out data, in (0, 1).
            seed: seed of the draw; equal seeds give equal splits.

        Returns:
            The training episodes and the held-out episodes.
        """
        check_range("validation", validation, low=0.0, high=1.0, open_low=True, open_high=True)
        seed = check_seed("seed", seed)
        count = len(self)
        if count >= 10:
            order = np.random.default_rng(seed).permutation(count)
            held = min(max(round(validation * count), 1), count - 1)
            return self.select(np.sort(order[held:])), self.select(np.sort(order[:held]))
        longest = int(np.argmax(self.lengths))
        start, end = int(self.starts[longest]), int(self.ends[longest])
        if end - start < 2:
            raise PgdiffError(
                "`validation` requires an episode of at least 2 rows that can be split. "
                f"Got {count} episodes of 1 row."
            )
        cut = min(max(end - round(validation * (end - start)), start + 1), end - 1)
        ends = self.ends.copy()
        ends[longest] = cut
        held_out = np.array([cut], np.int64), np.array([end], np.int64)
        return self._with_bounds(self.starts.copy(), ends), self._with_bounds(*held_out)


def _timeouts(arrays: Mapping[str, np.ndarray], episode_length: int | None) -> np.ndarray:
    timeouts = arrays.get("timeouts")
    if episode_length is None:
        return np.zeros_like(arrays["terminals"]) if timeouts is None else timeouts
    episode_length = check_positive_int("episode_length", episode_length)
    if timeouts is not None:
        raise PgdiffError(
            f"`episode_length` is for recordings without `timeouts`. Got {episode_length} for a "
            f"recording with {int(timeouts.sum())} timeouts; leave it out."
        )
    return time_limits(arrays["terminals"], episode_length)


def _array(name: str, values: Any) -> np.ndarray:
    try:
        return as_array(name, values)
    except PgdiffError as error:
        fault = Problem(name, None, "has rows of unequal shape.", "Pass one rectangular array.")
        raise PgdiffError(
            str(fault) if isinstance(error.__cause__, ValueError) else str(error)
        ) from error


def _check_layout(layout: ObservationLayout, arrays: Mapping[str, np.ndarray]) -> None:
    size = arrays["observations"].shape[1]
    if layout.features != size:
        raise PgdiffError(
            f"`observation_layout` must have {size} features, as `observations` has. "
            f"Got {layout.features}."
        )
    if layout.goal is None:
        return
    goal = arrays.get("infos/goal")
    if goal is None or goal.shape[1] != layout.goal[1]:
        value = "none" if goal is None else f"shape {list(goal.shape)}"
        raise PgdiffError(
            f"`infos/goal` must have {layout.goal[1]} features, as the goal '{layout.goal[0]}' of "
            f"`observation_layout` has. Got {value}."
        )


def convert(arrays: Mapping[str, Any], *, need_end: bool) -> dict[str, np.ndarray]:
    """Check arrays and copy them as float32 and bool; raise at the first fault."""
    clean: dict[str, np.ndarray] = {}

    def keep(spec: Field, first: int, block: np.ndarray) -> None:
        if first == 0:
            shape = (len(arrays[spec.name]), *block.shape[1:])
            clean[spec.name] = np.empty(shape, block.dtype)
        clean[spec.name][first : first + len(block)] = block

    for problem in find_problems(arrays, keep, need_end=need_end):
        raise PgdiffError(str(problem))
    return clean


SIZED = ("observations", "actions")


def join_episodes(recordings: Sequence[Episodes]) -> Episodes:
    """Concatenate the episodes of several recordings, in order.

    If any recording has `next_observations`, the result has them too: missing ones are filled in
    from the following rows, and the last row of a cut-off episode, whose next observation is
    unknown, is dropped. Only the `infos` that all recordings have are kept.

    Args:
        recordings: at least one recording; all with the same observation and action sizes.

    Raises:
        PgdiffError: if there are no recordings, their sizes differ, or no row remains.

    Example:
        >>> from pgdiff.data import join_episodes
        >>> from pgdiff.testing import example_episodes
        >>> len(join_episodes([example_episodes(episodes=2), example_episodes(episodes=3)]))
        5
    """
    if not recordings:
        raise PgdiffError("`recordings` must have at least one recording. Got none.")
    first = recordings[0]
    for number, each in enumerate(recordings[1:], start=2):
        for name in SIZED:
            size, expected = getattr(each, name).shape[1], getattr(first, name).shape[1]
            if size != expected:
                raise PgdiffError(
                    f"`{name}` must have {expected} features in every recording, as in the first. "
                    f"Got {size} in recording {number} of {len(recordings)}."
                )
        if each.observation_layout != first.observation_layout:
            raise PgdiffError(
                "`observation_layout` must be equal in all recordings. The layout of recording "
                f"{number} of {len(recordings)} differs from the first."
            )
    parts = [each.fields() for each in recordings]
    for part in parts:
        if not (part["terminals"][-1] or part["timeouts"][-1]):
            part["timeouts"] = part["timeouts"].copy()
            part["timeouts"][-1] = True
    if any("next_observations" in part for part in parts):
        parts = [fill_next_observations(part) for part in parts]
    shared = [name for name in parts[0] if all(name in part for part in parts)]
    fields = {name: np.concatenate([part[name] for part in parts]) for name in shared}
    if not len(fields["rewards"]):
        raise PgdiffError(
            "`recordings` must have a row whose next observation is known. Got none; record "
            "`next_observations`."
        )
    return Episodes._from_clean(fields, layout=first.observation_layout, trusted=True)


def fill_next_observations(fields: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return fields with next observations, filled in from the next rows if not recorded.

    The last row of a cut-off episode, whose next observation is then unknown, is dropped; the row
    before it becomes the last row, with a timeout.

    Args:
        fields: the result of `Episodes.fields`.
    """
    if "next_observations" in fields:
        return fields
    terminals, ends = fields["terminals"], fields["terminals"] | fields["timeouts"]
    ends = ends.copy()
    ends[-1] = True
    filled = dict(fields)
    for name, following in (
        ("observations", "next_observations"),
        ("infos/goal", "infos/next_goal"),
    ):
        if name in fields:
            values = fields[name]
            filled[following] = np.concatenate([values[1:], values[-1:]])
            filled[following][terminals] = values[terminals]  # not used after a terminal
    kept = terminals | ~ends
    timeouts = fields["timeouts"].copy()
    # The row before a dropped row is now the last row of its episode.
    timeouts[:-1] |= ~ends[:-1] & ~kept[1:]
    filled["timeouts"] = timeouts
    return {name: values[kept] for name, values in filled.items()}
