"""Conditions: what a segment is conditioned on, read from a recording and encoded for a network."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional as F

from pgdiff.data.episodes import Episodes
from pgdiff.data.normalizers import StandardNormalizer
from pgdiff.data.returns import discounted_returns, runs
from pgdiff.data.segments import SegmentDataset
from pgdiff.registry import register
from pgdiff.validation import PgdiffError, check_positive_int, check_range, nearest

Reader = Callable[
    [Int[np.ndarray, "batch tokens"], Bool[np.ndarray, "batch tokens"]],
    Float[np.ndarray, "batch width"],
]
"""Raw values of segments, from the row of every token and whether the token is real."""


@runtime_checkable
class Conditioner(Protocol):
    """Something that segments are conditioned on; a frozen, registered dataclass."""

    @property
    def name(self) -> str:
        """How a `Condition` calls its values."""
        ...

    @property
    def width(self) -> int:
        """Numbers of one raw value."""
        ...

    @property
    def size(self) -> int:
        """Numbers of one encoded value."""
        ...

    def fit(self, episodes: Episodes) -> "Conditioner":
        """The same with what it lacks taken from a recording; what was given stays."""
        ...

    def reader(self, episodes: Episodes) -> Reader:
        """What gathers the raw values of a recording's segments.

        Raises:
            PgdiffError: a recording without these values, or with a bad one.
        """
        ...

    def check(self, value: Float[Tensor, "batch width"]) -> None:
        """Refuse finite numbers that are no such value."""
        ...

    def encode(self, value: Float[Tensor, "batch width"]) -> Float[Tensor, "batch size"]:
        """What the network sees of raw values, of size about one."""
        ...


@register("condition", "return")
@dataclass(frozen=True, kw_only=True)
class ReturnCondition:
    """The discounted return from a segment's first row to its episode's end, standardised.

    Decision Diffuser (Ajay et al. 2023, section 3.2) conditions on it; its name is "return".

    Attributes:
        discount: per environment step, in (0, 1].
        mean: of the returns of all rows, in raw units; fitted if None.
        std: of them; fitted if None.
    """

    discount: float = 0.99
    mean: float | None = None
    std: float | None = None

    def __post_init__(self) -> None:
        check_range("discount", self.discount, low=0.0, high=1.0, open_low=True)
        if self.mean is not None:
            check_range("mean", self.mean)
        if self.std is not None:
            check_range("std", self.std, low=0.0, open_low=True)

    @property
    def name(self) -> str:
        """It is "return"."""
        return "return"

    @property
    def width(self) -> int:
        """One number."""
        return 1

    @property
    def size(self) -> int:
        """One number."""
        return 1

    def fit(self, episodes: Episodes) -> "ReturnCondition":
        """Mean and standard deviation of the returns of all rows."""
        if self.mean is not None and self.std is not None:
            return self
        returns = discounted_returns(episodes, self.discount)
        (mean,), (std,) = _statistics(returns[inside(episodes), None])
        return replace(
            self,
            mean=mean if self.mean is None else self.mean,
            std=std if self.std is None else self.std,
        )

    def reader(self, episodes: Episodes) -> Reader:
        """The return of the first row."""
        returns = discounted_returns(episodes, self.discount)
        return lambda rows, mask: returns[rows[:, :1]]

    def check(self, value: Float[Tensor, "batch width"]) -> None:
        """Any number is a return."""

    def encode(self, value: Float[Tensor, "batch width"]) -> Float[Tensor, "batch size"]:
        """Standardise."""
        if self.mean is None or self.std is None:
            raise _unfitted(self.name)
        return (value - self.mean) / self.std


@register("condition", "goal")
@dataclass(frozen=True, kw_only=True)
class GoalCondition:
    """Where a segment's last real token is, standardised: a goal in hindsight, named "goal".

    Attributes:
        position: indices of the features of an observation that are a goal.
        mean: of each of them over all rows, in raw units; fitted if None.
        std: of each of them; fitted if None.
    """

    position: tuple[int, ...] = (0, 1)
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        for index in self.position:
            check_positive_int("position", index, minimum=0)
        object.__setattr__(self, "position", tuple(int(index) for index in self.position))
        if not self.position:
            raise PgdiffError("`position` must name at least one feature. Got none.")
        for name, low in (("mean", -math.inf), ("std", 0.0)):
            given = getattr(self, name)
            if given is None:
                continue
            if len(given) != len(self.position):
                raise PgdiffError(
                    f"`{name}` must hold {len(self.position)} numbers, one for each feature of "
                    f"`position`. Got {len(given)}."
                )
            numbers = [check_range(name, number, low=low, open_low=True) for number in given]
            object.__setattr__(self, name, tuple(numbers))

    @property
    def name(self) -> str:
        """It is "goal"."""
        return "goal"

    @property
    def width(self) -> int:
        """One number for each feature."""
        return len(self.position)

    @property
    def size(self) -> int:
        """One number for each feature."""
        return len(self.position)

    def fit(self, episodes: Episodes) -> "GoalCondition":
        """Mean and standard deviation of the features over all rows."""
        self._check_features(episodes)
        if self.mean is not None and self.std is not None:
            return self
        mean, std = _statistics(episodes.observations[:, self.position][inside(episodes)])
        return replace(
            self,
            mean=mean if self.mean is None else self.mean,
            std=std if self.std is None else self.std,
        )

    def reader(self, episodes: Episodes) -> Reader:
        """The features at the last real token."""
        self._check_features(episodes)
        features = np.asarray(self.position)

        def read(rows: np.ndarray, mask: np.ndarray) -> np.ndarray:
            last = np.take_along_axis(rows, mask.sum(axis=1, keepdims=True) - 1, axis=1)
            values: np.ndarray = episodes.observations[last, features]
            return values

        return read

    def check(self, value: Float[Tensor, "batch width"]) -> None:
        """Any place is a goal."""

    def encode(self, value: Float[Tensor, "batch width"]) -> Float[Tensor, "batch size"]:
        """Standardise each feature."""
        if self.mean is None or self.std is None:
            raise _unfitted(self.name)
        return (value - value.new_tensor(self.mean)) / value.new_tensor(self.std)

    def _check_features(self, episodes: Episodes) -> None:
        size = episodes.observations.shape[1]
        if max(self.position) >= size:
            raise PgdiffError(
                f"`position` must be indices of the {size} features of an observation. "
                f"Got {list(self.position)}."
            )


@register("condition", "class")
@dataclass(frozen=True, kw_only=True)
class ClassCondition:
    """Which of several classes a segment's first row is of, one-hot; named as its field.

    Attributes:
        classes: how many there are; a raw value is an integer from 0 on.
        info: the field of `Episodes.infos` that holds it, `[steps, 1]`.
    """

    classes: int
    info: str = "class"

    def __post_init__(self) -> None:
        check_positive_int("classes", self.classes)

    @property
    def name(self) -> str:
        """That of the field."""
        return self.info

    @property
    def width(self) -> int:
        """One number."""
        return 1

    @property
    def size(self) -> int:
        """One number for each class."""
        return self.classes

    def fit(self, episodes: Episodes) -> "ClassCondition":
        """There is nothing to fit; the recording's classes are checked."""
        self._column(episodes)
        return self

    def reader(self, episodes: Episodes) -> Reader:
        """The class of the first row."""
        column = self._column(episodes)
        return lambda rows, mask: column[rows[:, 0]]

    def check(self, value: Float[Tensor, "batch width"]) -> None:
        """Refuse what is no integer of a class."""
        wrong = (value != value.round()) | (value < 0) | (value >= self.classes)
        if wrong.any():
            row = int(wrong.nonzero()[0, 0])
            raise PgdiffError(
                f"`{self.name}` must be an integer in [0, {self.classes}). "
                f"Got {float(value[row, 0]):g} in row {row}."
            )

    def encode(self, value: Float[Tensor, "batch width"]) -> Float[Tensor, "batch size"]:
        """One for the class, zero for the others."""
        return F.one_hot(value[:, 0].long(), self.classes).to(value.dtype)

    def _column(self, episodes: Episodes) -> Float[np.ndarray, "steps 1"]:
        """The field, checked at the rows that belong to an episode."""
        if self.info not in episodes.infos:
            raise PgdiffError(
                "`info` must be a field of the recording's infos, "
                f"{nearest(self.info, episodes.infos)} Got '{self.info}'."
            )
        column: np.ndarray = episodes.infos[self.info]
        where = f"`infos/{self.info}`"
        if column.shape != (episodes.steps, 1):
            raise PgdiffError(
                f"{where} must have shape [{episodes.steps}, 1] to give a class. "
                f"Got {list(column.shape)}."
            )
        values = column[:, 0]
        with np.errstate(invalid="ignore"):
            sound = (values == np.round(values)) & (values >= 0) & (values < self.classes)
        rows = np.flatnonzero(inside(episodes) & ~sound)
        if len(rows):
            raise PgdiffError(
                f"{where} must hold integers in [0, {self.classes}). "
                f"Got {values[rows[0]]:g} in row {rows[0]}."
            )
        return column


class ConditionedBatch(NamedTuple):
    """A `SegmentBatch` and what its segments are conditioned on.

    Attributes:
        observations: `[batch, tokens, obs]` float32.
        actions: `[batch, tokens, act]` float32.
        rewards: `[batch, tokens]` float32.
        mask: `[batch, tokens]` bool, False at padded tokens.
        action_chunks: `[batch, tokens, stride * act]` float32.
        terminals: `[batch, tokens]` float32.
        next_observations: `[batch, tokens, obs]` float32.
        previous_actions: `[batch, tokens, stride * act]` float32.
        condition: `[batch, width]` float32, raw values side by side.
    """

    observations: Float[np.ndarray, "batch tokens obs"]
    actions: Float[np.ndarray, "batch tokens act"]
    rewards: Float[np.ndarray, "batch tokens"]
    mask: Bool[np.ndarray, "batch tokens"]
    action_chunks: Float[np.ndarray, "batch tokens chunk"]
    terminals: Float[np.ndarray, "batch ends"]
    next_observations: Float[np.ndarray, "batch tokens next"]
    previous_actions: Float[np.ndarray, "batch tokens chunk"]
    condition: Float[np.ndarray, "batch width"]


class ConditionedDataset:
    """Segments with the raw values that they are conditioned on.

    Args:
        segments: the segments.
        conditions: what they are conditioned on, at least one.

    Raises:
        PgdiffError: see `Conditioner.reader`.
    """

    def __init__(self, segments: SegmentDataset, conditions: Sequence[Conditioner]) -> None:
        self.segments = segments
        self._readers = [condition.reader(segments.episodes) for condition in conditions]

    def __len__(self) -> int:
        return len(self.segments)

    @property
    def episode_starts(self) -> Int[np.ndarray, " episodes"]:
        """First rows of the episodes that examples come from."""
        return self.segments.episode_starts

    def batch(self, indices: Int[np.ndarray, " batch"]) -> ConditionedBatch:
        """Gather the segments of these numbers.

        Raises:
            PgdiffError: if a number is out of range.
        """
        rows, mask = self.segments.index.rows(indices)
        values = [read(rows, mask) for read in self._readers]
        condition = np.concatenate(values, axis=1, dtype=np.float32)
        return ConditionedBatch(*self.segments.batch(indices), condition)


def inside(episodes: Episodes) -> Bool[np.ndarray, " steps"]:
    """Return which rows belong to one of the episodes (see `Episodes.split`)."""
    belongs = np.zeros(episodes.steps, np.bool_)
    for _, _, begin, end in runs(episodes):
        belongs[begin:end] = True
    return belongs


def _statistics(values: np.ndarray) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of each column; a constant column has standard deviation 1."""
    fitted = StandardNormalizer.fit(values)
    return tuple(fitted.center.tolist()), tuple(fitted.scale.tolist())


def _unfitted(name: str) -> PgdiffError:
    return PgdiffError(
        f"`mean` and `std` of the condition '{name}' must be given, or fitted to a recording by "
        "fit(episodes), which TrajectoryDiffusion.from_episodes does. Got None."
    )
