"""Recorded episodes: read-only arrays per field, and where each episode begins and ends."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Self

import numpy as np
from jaxtyping import Bool, Float, Int
from numpy.typing import ArrayLike

from pgdiff.data.boundaries import continuous_marks, episode_bounds
from pgdiff.data.checks import find_problems
from pgdiff.data.fields import BY_NAME, Field
from pgdiff.data.problems import Problem
from pgdiff.validation import PgdiffError, check_range


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
        infos: further fields, each `[steps, features]` float32: "goal", "qpos", "qvel", "class" if
            present.
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
        join_continuous: bool = False,
    ) -> Self:
        """Make episodes from arrays in memory; they are checked, converted and copied.

        Args:
            observations: `[steps, obs]`.
            actions: `[steps, act]`.
            rewards: `[steps]`.
            terminals: `[steps]`, 0 or 1.
            timeouts: `[steps]`, 0 or 1.
            next_observations: `[steps, obs]`.
            infos: "goal", "qpos", "qvel" or "class", each `[steps, features]`.
            join_continuous: see `load_episodes`.

        Raises:
            PgdiffError: at the first fault, naming field, row and mend.
        """
        given: dict[str, ArrayLike | None] = {
            "observations": observations,
            "actions": actions,
            "rewards": rewards,
            "terminals": terminals,
            "timeouts": timeouts,
            "next_observations": next_observations,
            **{f"infos/{key}": value for key, value in (infos or {}).items()},
        }
        arrays: dict[str, np.ndarray] = {}
        for name, values in given.items():
            if values is None:
                continue
            if name not in BY_NAME:
                known = sorted(key for key in BY_NAME if key.startswith("infos/"))
                raise PgdiffError(f"`{name}` is not a known field. Known: {', '.join(known)}.")
            try:
                arrays[name] = np.asarray(values)
            except ValueError as error:
                fault = Problem(name, None, "has rows of unequal shape.", "Store one array.")
                raise PgdiffError(str(fault)) from error
        return cls._from_clean(convert(arrays, join_continuous=join_continuous), join_continuous)

    @classmethod
    def _from_clean(cls, arrays: Mapping[str, np.ndarray], join_continuous: bool) -> Self:
        """Make episodes from arrays that have passed the checks."""
        terminals = arrays["terminals"]
        timeouts = arrays.get("timeouts")
        if timeouts is None:
            timeouts = np.zeros_like(terminals)
        if join_continuous:
            joined = continuous_marks(arrays["observations"], terminals | timeouts)
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
        )
        for array in (terminals, timeouts, starts, ends, *arrays.values()):
            array.setflags(write=False)
        return episodes

    def select(self, episodes: ArrayLike) -> Self:
        """Return only these episodes, by number; the arrays are shared."""
        numbers = np.asarray(episodes, dtype=np.int64)
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


def convert(arrays: Mapping[str, Any], *, join_continuous: bool) -> dict[str, np.ndarray]:
    """Check arrays and copy them as float32 and bool; raise at the first fault."""
    clean: dict[str, np.ndarray] = {}

    def keep(spec: Field, first: int, block: np.ndarray) -> None:
        if first == 0:
            shape = (len(arrays[spec.name]), *block.shape[1:])
            clean[spec.name] = np.empty(shape, block.dtype)
        clean[spec.name][first : first + len(block)] = block

    for problem in find_problems(arrays, keep, need_end=not join_continuous):
        raise PgdiffError(str(problem))
    return clean
