"""Conditions of segments: values read from a recording and encoded for a network."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional as F

from pgdiff.core.registry import register
from pgdiff.core.validation import PgdiffError, check_positive_int, check_range, nearest
from pgdiff.data.episodes import Episodes
from pgdiff.data.normalizers import StandardNormalizer
from pgdiff.data.returns import discounted_returns, runs
from pgdiff.data.segments import SegmentBatch, SegmentDataset

Reader = Callable[
    [Int[np.ndarray, "batch tokens"], Bool[np.ndarray, "batch tokens"]],
    Float[np.ndarray, "batch ..."],
]
"""Maps the row of every token and the mask of real tokens to the raw values of the segments."""


@runtime_checkable
class Conditioner(Protocol):
    """Interface of a condition of segments; implementations are frozen, registered dataclasses.

    Example:
        >>> from pgdiff.data import Conditioner, ReturnCondition
        >>> isinstance(ReturnCondition(), Conditioner)
        True
    """

    @property
    def name(self) -> str:
        """Name of the values in a `Condition`."""
        ...

    @property
    def width(self) -> int:
        """Length of a raw value."""
        ...

    @property
    def size(self) -> int:
        """Length of an encoded value."""
        ...

    def fit(self, episodes: Episodes) -> "Conditioner":
        """Return a copy whose missing statistics are fitted to a recording; given ones are kept."""
        ...

    def reader(self, episodes: Episodes) -> Reader:
        """Return a function that gathers the raw values of a recording's segments.

        Raises:
            PgdiffError: if the recording lacks these values, or one of them is invalid.
        """
        ...

    def check(self, value: Float[Tensor, "batch width"]) -> None:
        """Raise if finite numbers are not valid values of this condition."""
        ...

    def encode(self, value: Float[Tensor, "batch width"]) -> Float[Tensor, "batch size"]:
        """Return the network's input for raw values, of magnitude about one."""
        ...


@runtime_checkable
class HintConditioner(Protocol):
    """Interface of a condition with an entry of its own in the context, of any shape.

    A map, a track of one vector for each token, or an observation. Implementations are frozen,
    registered dataclasses of the kind "condition", and may have an attribute and two further
    methods: `infos` names the `Episodes.infos` that the condition reads, which recordings may then
    hold; `for_codec(codec)` returns the condition with values of the model's codec, such as the
    extent of a map in normalised units; `from_plan(observation, values)` computes the raw value of
    a plan from its observation `[batch, observation]`.

    Example:
        >>> from pgdiff.data import HintConditioner, ObservationCondition
        >>> isinstance(ObservationCondition(), HintConditioner)
        True
    """

    @property
    def name(self) -> str:
        """Name of the values in a `Condition`, and of the entry."""
        ...

    @property
    def raw_shape(self) -> tuple[int, ...]:
        """Shape of a raw value."""
        ...

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of an encoded value, which the network reads."""
        ...

    def fit(self, episodes: Episodes) -> "HintConditioner":
        """Return a copy whose missing statistics are fitted to a recording; given ones are kept."""
        ...

    def reader(self, episodes: Episodes) -> Reader:
        """Return a function that gathers the raw values of a recording's segments.

        Raises:
            PgdiffError: if the recording lacks these values, or one of them is invalid.
        """
        ...

    def check(self, value: Float[Tensor, "batch ..."]) -> None:
        """Raise if finite numbers are not valid values of this condition."""
        ...

    def encode(self, value: Float[Tensor, "batch ..."]) -> Float[Tensor, "batch ..."]:
        """Return the network's input for raw values, of magnitude about one."""
        ...


@register("condition", "return")
@dataclass(frozen=True, kw_only=True)
class ReturnCondition:
    """Discounted return from a segment's first row to its episode's end, standardised.

    The condition of Decision Diffuser (Ajay et al. 2023, section 3.2); its name is "return".

    Attributes:
        discount: discount per environment step, in (0, 1].
        mean: mean of the returns of all rows, in raw units; fitted if None.
        std: standard deviation of the returns of all rows; fitted if None.

    Example:
        >>> import torch
        >>> from pgdiff.data import ReturnCondition
        >>> ReturnCondition(mean=2.0, std=4.0).encode(torch.tensor([[10.0]]))
        tensor([[2.]])
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
        """The name "return"."""
        return "return"

    @property
    def width(self) -> int:
        """Equal to 1."""
        return 1

    @property
    def size(self) -> int:
        """Equal to 1."""
        return 1

    def fit(self, episodes: Episodes) -> "ReturnCondition":
        """Fit mean and standard deviation to the returns of all rows."""
        if self.mean is not None and self.std is not None:
            return self
        returns = discounted_returns(episodes, self.discount)
        (mean,), (std,) = _statistics(returns[row_mask(episodes), None])
        return replace(
            self,
            mean=mean if self.mean is None else self.mean,
            std=std if self.std is None else self.std,
        )

    def reader(self, episodes: Episodes) -> Reader:
        """Return a function that gathers the return of the first row."""
        returns = discounted_returns(episodes, self.discount)
        return lambda rows, mask: returns[rows[:, :1]]

    def check(self, value: Float[Tensor, "batch width"]) -> None:
        """Accept any number."""

    def encode(self, value: Float[Tensor, "batch width"]) -> Float[Tensor, "batch size"]:
        """Standardise the return."""
        if self.mean is None or self.std is None:
            raise _unfitted(self.name)
        return (value - self.mean) / self.std


@register("condition", "goal")
@dataclass(frozen=True, kw_only=True)
class GoalCondition:
    """Features of a segment's last real token, standardised: a goal in hindsight, named "goal".

    Attributes:
        goal_features: indices of the observation's features that form the goal.
        mean: mean of each feature over all rows, in raw units; fitted if None.
        std: standard deviation of each feature over all rows; fitted if None.

    Example:
        >>> from pgdiff.data import GoalCondition
        >>> from pgdiff.testing import example_episodes
        >>> condition = GoalCondition(goal_features=(0, 1)).fit(example_episodes())
        >>> condition.width, len(condition.mean)
        (2, 2)
    """

    goal_features: tuple[int, ...] = (0, 1)
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        for index in self.goal_features:
            check_positive_int("goal_features", index, minimum=0)
        object.__setattr__(self, "goal_features", tuple(int(index) for index in self.goal_features))
        if not self.goal_features:
            raise PgdiffError("`goal_features` must name at least one feature. Got none.")
        for name, low in (("mean", -math.inf), ("std", 0.0)):
            values = getattr(self, name)
            if values is None:
                continue
            if len(values) != len(self.goal_features):
                raise PgdiffError(
                    f"`{name}` must have {len(self.goal_features)} numbers, one for each of "
                    f"`goal_features`. Got {len(values)}."
                )
            numbers = [check_range(name, number, low=low, open_low=True) for number in values]
            object.__setattr__(self, name, tuple(numbers))

    @property
    def name(self) -> str:
        """The name "goal"."""
        return "goal"

    @property
    def width(self) -> int:
        """The number of features."""
        return len(self.goal_features)

    @property
    def size(self) -> int:
        """The number of features."""
        return len(self.goal_features)

    def fit(self, episodes: Episodes) -> "GoalCondition":
        """Fit mean and standard deviation of the features to all rows."""
        self._check_features(episodes)
        if self.mean is not None and self.std is not None:
            return self
        mean, std = _statistics(episodes.observations[:, self.goal_features][row_mask(episodes)])
        return replace(
            self,
            mean=mean if self.mean is None else self.mean,
            std=std if self.std is None else self.std,
        )

    def reader(self, episodes: Episodes) -> Reader:
        """Return a function that gathers the features at the last real token."""
        self._check_features(episodes)
        features = np.asarray(self.goal_features)

        def read(rows: np.ndarray, mask: np.ndarray) -> np.ndarray:
            last = np.take_along_axis(rows, mask.sum(axis=1, keepdims=True) - 1, axis=1)
            values: np.ndarray = episodes.observations[last, features]
            return values

        return read

    def check(self, value: Float[Tensor, "batch width"]) -> None:
        """Accept any numbers."""

    def encode(self, value: Float[Tensor, "batch width"]) -> Float[Tensor, "batch size"]:
        """Standardise each feature."""
        if self.mean is None or self.std is None:
            raise _unfitted(self.name)
        return (value - value.new_tensor(self.mean)) / value.new_tensor(self.std)

    def _check_features(self, episodes: Episodes) -> None:
        size = episodes.observations.shape[1]
        if max(self.goal_features) >= size:
            raise PgdiffError(
                f"`goal_features` must be indices of the {size} features of an observation. "
                f"Got {list(self.goal_features)}."
            )


@register("condition", "class")
@dataclass(frozen=True, kw_only=True)
class ClassCondition:
    """Class of a segment's first row, encoded one-hot; it has the name of its field.

    Attributes:
        classes: number of classes; raw values are the integers 0 to `classes` - 1.
        info: field of `Episodes.infos` with the class of each row, `[steps, 1]`.

    Example:
        >>> import torch
        >>> from pgdiff.data import ClassCondition
        >>> ClassCondition(classes=3).encode(torch.tensor([[2.0]]))
        tensor([[0., 0., 1.]])
    """

    classes: int
    info: str = "class"

    def __post_init__(self) -> None:
        check_positive_int("classes", self.classes)

    @property
    def name(self) -> str:
        """Name of the field in `Episodes.infos`."""
        return self.info

    @property
    def width(self) -> int:
        """Equal to 1."""
        return 1

    @property
    def size(self) -> int:
        """The number of classes."""
        return self.classes

    def fit(self, episodes: Episodes) -> "ClassCondition":
        """Check the recording's classes; this condition has no statistics."""
        self._column(episodes)
        return self

    def reader(self, episodes: Episodes) -> Reader:
        """Return a function that gathers the class of the first row."""
        column = self._column(episodes)
        return lambda rows, mask: column[rows[:, 0]]

    def check(self, value: Float[Tensor, "batch width"]) -> None:
        """Raise if a value is not the number of a class."""
        wrong = (value != value.round()) | (value < 0) | (value >= self.classes)
        if wrong.any():
            row = int(wrong.nonzero()[0, 0])
            raise PgdiffError(
                f"`{self.name}` must be an integer in [0, {self.classes}). "
                f"Got {float(value[row, 0]):g} in row {row}."
            )

    def encode(self, value: Float[Tensor, "batch width"]) -> Float[Tensor, "batch size"]:
        """Encode one-hot."""
        return F.one_hot(value[:, 0].long(), self.classes).to(value.dtype)

    def _column(self, episodes: Episodes) -> Float[np.ndarray, "steps 1"]:
        """Return the field after checking the rows that belong to an episode."""
        if self.info not in episodes.infos:
            raise PgdiffError(
                "`info` must be a field of the recording's infos: "
                f"{nearest(self.info, episodes.infos)} Got '{self.info}'."
            )
        column: np.ndarray = episodes.infos[self.info]
        name = f"`infos/{self.info}`"
        if column.shape != (episodes.steps, 1):
            raise PgdiffError(
                f"{name} must have shape [{episodes.steps}, 1] to be a class. "
                f"Got {list(column.shape)}."
            )
        values = column[:, 0]
        with np.errstate(invalid="ignore"):
            valid = (values == np.round(values)) & (values >= 0) & (values < self.classes)
        rows = np.flatnonzero(row_mask(episodes) & ~valid)
        if len(rows):
            raise PgdiffError(
                f"{name} must hold integers in [0, {self.classes}). "
                f"Got {values[rows[0]]:g} in row {rows[0]}."
            )
        return column


@register("condition", "observation")
@dataclass(frozen=True, kw_only=True)
class ObservationCondition:
    """Observation of a segment's first token, standardised, as an entry named "observation".

    It conditions models whose tokens cannot hold a given observation. A plan passes its present
    observation; it need not be given.

    Attributes:
        mean: mean of each feature over all rows, in raw units; fitted if None.
        std: standard deviation of each feature over all rows; fitted if None.

    Example:
        >>> from pgdiff.data import ObservationCondition
        >>> from pgdiff.testing import example_episodes
        >>> ObservationCondition().fit(example_episodes()).shape
        (4,)
    """

    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        for name, low in (("mean", -math.inf), ("std", 0.0)):
            values = getattr(self, name)
            if values is not None:
                numbers = [check_range(name, number, low=low, open_low=True) for number in values]
                object.__setattr__(self, name, tuple(numbers))
        if self.mean is not None and self.std is not None and len(self.mean) != len(self.std):
            raise PgdiffError(
                f"`std` must have {len(self.mean)} numbers like `mean`. Got {len(self.std)}."
            )

    @property
    def name(self) -> str:
        """The name "observation"."""
        return "observation"

    @property
    def raw_shape(self) -> tuple[int, ...]:
        """The number of features; 0 before `fit`."""
        return (len(self.mean or ()),)

    @property
    def shape(self) -> tuple[int, ...]:
        """The number of features."""
        return self.raw_shape

    def fit(self, episodes: Episodes) -> "ObservationCondition":
        """Fit mean and standard deviation of each feature to all rows."""
        if self.mean is not None and self.std is not None:
            return self
        mean, std = _statistics(episodes.observations[row_mask(episodes)])
        return replace(self, mean=self.mean or mean, std=self.std or std)

    def reader(self, episodes: Episodes) -> Reader:
        """Return a function that gathers the observation of the first row."""
        return lambda rows, mask: episodes.observations[rows[:, 0]]

    def check(self, value: Float[Tensor, "batch observation"]) -> None:
        """Accept any numbers."""

    def encode(self, value: Float[Tensor, "batch observation"]) -> Float[Tensor, "batch shape"]:
        """Standardise each feature."""
        if self.mean is None or self.std is None:
            raise _unfitted(self.name)
        return (value - value.new_tensor(self.mean)) / value.new_tensor(self.std)

    def from_plan(
        self, observation: Float[Tensor, "batch observation"], values: Mapping[str, Tensor]
    ) -> Float[Tensor, "batch observation"]:
        """Return the present observation."""
        return observation


class ConditionedDataset:
    """Segments with the raw values of their conditions.

    Args:
        segments: the segments.
        conditions: the conditions, at least one.

    Raises:
        PgdiffError: see `Conditioner.reader`.

    Example:
        >>> from pgdiff.data import ConditionedDataset, ReturnCondition, SegmentDataset
        >>> from pgdiff.testing import example_episodes
        >>> segments = SegmentDataset(example_episodes(), horizon=8, stride=1)
        >>> ConditionedDataset(segments, [ReturnCondition()]).batch([0, 1]).condition.shape
        (2, 1)
    """

    def __init__(
        self, segments: SegmentDataset, conditions: Sequence[Conditioner | HintConditioner]
    ) -> None:
        self.segments = segments
        readers = {c.name: c.reader(segments.episodes) for c in conditions}
        hints = {c.name for c in conditions if isinstance(c, HintConditioner)}
        self._readers = [read for name, read in readers.items() if name not in hints]
        self._hints = {name: read for name, read in readers.items() if name in hints}

    def __len__(self) -> int:
        return len(self.segments)

    @property
    def episode_starts(self) -> Int[np.ndarray, " episodes"]:
        """First row of each episode that contains examples."""
        return self.segments.episode_starts

    def batch(self, indices: Int[np.ndarray, " batch"]) -> SegmentBatch:
        """Gather the segments with these numbers, with `condition` and `hints`.

        Raises:
            PgdiffError: if a number is out of range.
        """
        rows, mask = self.segments.index.rows(indices)
        values = [read(rows, mask) for read in self._readers]
        empty = np.empty((len(rows), 0))
        condition = np.concatenate([*values, empty], axis=1, dtype=np.float32)
        hints = {
            name: np.asarray(read(rows, mask), np.float32) for name, read in self._hints.items()
        }
        batch = self.segments.batch(indices)
        return batch._replace(condition=condition, hints=hints or None)


def row_mask(episodes: Episodes) -> Bool[np.ndarray, " steps"]:
    """Return the mask of the rows that belong to an episode (see `Episodes.split`)."""
    belongs = np.zeros(episodes.steps, np.bool_)
    for _, _, begin, end in runs(episodes):
        belongs[begin:end] = True
    return belongs


def _statistics(values: np.ndarray) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return mean and standard deviation of each column; the deviation of a constant is 1."""
    fitted = StandardNormalizer.fit(values)
    return tuple(fitted.center.tolist()), tuple(fitted.scale.tolist())


def _unfitted(name: str) -> PgdiffError:
    return PgdiffError(
        f"`mean` and `std` of the condition '{name}' must be given, or fitted to a recording by "
        "fit(episodes), as TrajectoryDiffusion.from_episodes does. Got None."
    )
