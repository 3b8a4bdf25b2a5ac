"""Recorded episodes: read-only arrays per field, and where each episode begins and ends."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Self

import numpy as np
from jaxtyping import Bool, Float, Int
from numpy.typing import ArrayLike

from pgdiff.data.boundaries import continuous_marks, episode_bounds, time_limits
from pgdiff.data.checks import find_problems
from pgdiff.data.fields import BY_NAME, Field
from pgdiff.data.observation_layout import ObservationLayout
from pgdiff.data.problems import Problem
from pgdiff.data.successors import successors_checked
from pgdiff.validation import (
    PgdiffError,
    as_array,
    check_positive_int,
    check_range,
    check_seed,
    nearest,
)


@dataclass(frozen=True, eq=False)
class Episodes:
    """Recorded experience; row t holds the observation, the action taken there and its reward.

    Rows `starts[i]:ends[i]` belong to episode i. A selection (see `split`) shares the arrays, so
    there may be rows that belong to none of its episodes. All arrays are read-only.

    Attributes:
        observations: `[steps, obs]` float32, usually a view of a memory-mapped file.
        actions: `[steps, act]` float32.
        rewards: `[steps]` float32.
        terminals: `[steps]` bool; the task itself ended after this row.
        timeouts: `[steps]` bool; the recording of the episode was cut after this row.
        starts: `[episodes]` int64, first row of each episode.
        ends: `[episodes]` int64, the row after its last.
        next_observations: `[steps, obs]` float32 where the recording has them.
        infos: further fields, each `[steps, features]` float32: "goal", "next_goal", "qpos",
            "qvel", "class" if present.
        observation_layout: of the Dict observations that the flat ones were made of, if they were;
            the goals of the rows are then `infos["goal"]`, and those of the next observations
            `infos["next_goal"]`.
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
        """Rows of the arrays."""
        return len(self.observations)

    @property
    def lengths(self) -> Int[np.ndarray, " episodes"]:
        """Rows of each episode."""
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
        """Make episodes from arrays in memory; they are checked, converted and copied.

        Tensors of PyTorch are taken as arrays. `from_arrays(**episodes.fields())` makes the same
        episodes again; pass `observation_layout` where they have one.

        Args:
            observations: `[steps, obs]`.
            actions: `[steps, act]`.
            rewards: `[steps]`.
            terminals: `[steps]`, 0 or 1.
            timeouts: `[steps]`, 0 or 1.
            next_observations: `[steps, obs]`.
            infos: "goal", "next_goal", "qpos", "qvel" or "class", each `[steps, features]`.
            observation_layout: of the Dict observations that these are made of, by its `flatten`.
            episode_length: see `load_episodes`.
            join_continuous: see `load_episodes`.
            repair: see `load_episodes`.
            fields: `infos` by the names that they have in a file: `**{"infos/goal": goals}`.

        Raises:
            PgdiffError: at the first fault, naming field, row and fix.
        """
        given: dict[str, ArrayLike | None] = {
            "observations": observations,
            "actions": actions,
            "rewards": rewards,
            "terminals": terminals,
            "timeouts": timeouts,
            "next_observations": next_observations,
        }
        known = {f"infos/{key}": value for key, value in (infos or {}).items()}
        for key in fields.keys() & known.keys():
            raise PgdiffError(f"`{key}` must be given once. Got it in `infos` and by itself.")
        arrays: dict[str, np.ndarray] = {}
        for name, values in (given | known | fields).items():
            if values is None:
                continue
            if name not in BY_NAME:
                raise PgdiffError(
                    f"`{name}` is not a known field: it must be {nearest(name, BY_NAME)}"
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
        """Make episodes from arrays whose values have passed the checks.

        `trusted` arrays are those of episodes: their next observations were checked before.
        """
        arrays = {**arrays, "timeouts": _timeouts(arrays, episode_length)}
        if layout is not None:
            _check_layout(layout, arrays)
        if not trusted:
            arrays = successors_checked(arrays, repair=repair)
        terminals, timeouts = arrays["terminals"], arrays["timeouts"]
        if join_continuous:
            joined = continuous_marks(
                arrays["observations"], terminals | timeouts, arrays.get("next_observations")
            )
            # A joined row neither ended the task nor was cut, so both marks go.
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
        """Return the fields by D4RL's names, with the rows of these episodes alone, in their order.

        `from_arrays(**fields)` and `write_hdf5` take them. An episode that another follows ends
        with a mark, which is a timeout where it has none of its own (see `split`); so does the
        last one of a recording without any other mark. No array is copied without need.

        Raises:
            PgdiffError: if there is no episode.
        """
        if not len(self):
            raise PgdiffError("A recording must hold at least one episode. Got none.")
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
        if not len(last) and not marked.any():  # a recording without any end would be refused
            unmarked = np.array([len(marked) - 1])
        if len(unmarked):
            fields["timeouts"] = fields["timeouts"].copy()
            fields["timeouts"][unmarked] = True
        return fields

    def select(self, episodes: ArrayLike) -> Self:
        """Return only these episodes; the arrays are shared.

        Args:
            episodes: numbers of episodes, in the order that is wanted, -1 for the last; or one
                bool for each episode.

        Raises:
            PgdiffError: no episode, a number out of range, or another type.
        """
        chosen = np.atleast_1d(as_array("episodes", episodes))
        if chosen.dtype == np.bool_ and chosen.shape == (len(self),):
            chosen = np.flatnonzero(chosen)
        if chosen.size == 0:
            raise PgdiffError("`episodes` must name at least one episode to select. Got none.")
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
        """Split into episodes for training and episodes held out.

        From 10 episodes on, whole episodes are drawn at random. With fewer, the last rows of the
        longest episode are held out as an episode of their own, `validation` of its length.

        Args:
            validation: share held out, between 0 and 1, both excluded.
            seed: of the draw; the same seed gives the same split.

        Returns:
            Training episodes, held-out episodes.
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
                "`validation` needs an episode of at least 2 rows to cut. "
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
            f"`episode_length` is for recordings without `timeouts`; this one has them, "
            f"{int(timeouts.sum())} of them set. Got {episode_length}; leave it out."
        )
    return time_limits(arrays["terminals"], episode_length)


def _array(name: str, values: Any) -> np.ndarray:
    try:
        return as_array(name, values)
    except PgdiffError as error:
        fault = Problem(name, None, "has rows of unequal shape.", "Store one array.")
        raise PgdiffError(
            str(fault) if isinstance(error.__cause__, ValueError) else str(error)
        ) from error


def _check_layout(layout: ObservationLayout, arrays: Mapping[str, np.ndarray]) -> None:
    size = arrays["observations"].shape[1]
    if layout.features != size:
        raise PgdiffError(
            f"`observation_layout` must have the {size} features of `observations`. "
            f"Got {layout.features}."
        )
    if layout.goal is None:
        return
    goal = arrays.get("infos/goal")
    if goal is None or goal.shape[1] != layout.goal[1]:
        found = "none" if goal is None else f"shape {list(goal.shape)}"
        raise PgdiffError(
            f"`infos/goal` must have the {layout.goal[1]} numbers of `observation_layout`'s goal "
            f"'{layout.goal[0]}'. Got {found}."
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
