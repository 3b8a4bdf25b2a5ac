"""Level schedules: the noise level of every token at every row of the sampling.

A schedule is a matrix `[rows, tokens]`, or `[rows, batch, tokens]`: sampling goes from row m to row
m + 1. It starts at the first row, the last row is 0, and no entry rises from row to row. The
schedules of this module move every token down the same column of levels, some later than others.
"""

import math
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from pgdiff.core.registry import register
from pgdiff.core.validation import PgdiffError, check_positive_int, check_range

Column = Float[Tensor, " steps_and_1"]
Matrix = Float[Tensor, "rows tokens"]
LevelMatrix = Float[Tensor, "rows tokens"] | Float[Tensor, "rows #batch tokens"]


@runtime_checkable
class LevelSchedule(Protocol):
    """The rows at which each token goes down a column of levels; a frozen, registered dataclass."""

    def matrix(self, column: Column, *, tokens: int) -> Matrix:
        """Return the level of every token at every row.

        Args:
            column: `[steps + 1]`, falling strictly to 0, as a `Spacing` returns it.
            tokens: length of the sequence.
        """
        ...


@register("level_schedule", "full")
@dataclass(frozen=True)
class FullSequence:
    """All tokens together, in `steps` rows.

    Example:
        >>> from pgdiff.diffusion import CosineSchedule, FullSequence, UniformSpacing
        >>> column = UniformSpacing().levels(2, noise_schedule=CosineSchedule())
        >>> FullSequence().matrix(column, tokens=3).tolist()
        [[1.0, 1.0, 1.0], [0.5, 0.5, 0.5], [0.0, 0.0, 0.0]]
    """

    def matrix(self, column: Column, *, tokens: int) -> Matrix:
        """Return the column for every token."""
        return _delayed(column, torch.zeros(check_positive_int("tokens", tokens)), slope=0.0)


@register("level_schedule", "pyramid")
@dataclass(frozen=True, kw_only=True)
class Pyramid:
    """Later tokens are noisier (Chen et al. 2024, "Diffusion Forcing").

    Attributes:
        slope: delay in rows of each token after the previous one. The delay `slope * t` of token t
            is rounded down, so that sampling takes `steps + int((tokens - 1) * slope)` rows. A
            slope above the number of steps is lowered to it: a token starts when the previous one
            is clean.

    Example:
        >>> from pgdiff.diffusion import CosineSchedule, Pyramid, UniformSpacing
        >>> column = UniformSpacing().levels(2, noise_schedule=CosineSchedule())
        >>> Pyramid(slope=1.0).matrix(column, tokens=2).tolist()
        [[1.0, 1.0], [0.5, 1.0], [0.0, 0.5], [0.0, 0.0]]
    """

    slope: float = 1.0

    def __post_init__(self) -> None:
        check_range("slope", self.slope, low=0.0)

    def matrix(self, column: Column, *, tokens: int) -> Matrix:
        """Return the column, `int(slope * t)` rows later for token t."""
        position = torch.arange(check_positive_int("tokens", tokens), dtype=torch.float64)
        return _delayed(column, position, slope=self.slope)


@register("level_schedule", "autoregressive")
@dataclass(frozen=True)
class Autoregressive:
    """One token after the other: a token starts when the previous one is clean.

    This is a pyramid whose slope is the number of steps, in `steps * tokens` rows.

    Example:
        >>> from pgdiff.diffusion import Autoregressive, CosineSchedule, UniformSpacing
        >>> column = UniformSpacing().levels(1, noise_schedule=CosineSchedule())
        >>> Autoregressive().matrix(column, tokens=2).tolist()
        [[1.0, 1.0], [0.0, 1.0], [0.0, 0.0]]
    """

    def matrix(self, column: Column, *, tokens: int) -> Matrix:
        """Return the column, `steps * t` rows later for token t."""
        position = torch.arange(check_positive_int("tokens", tokens))
        return _delayed(column, position, slope=math.inf)


@register("level_schedule", "trapezoid")
@dataclass(frozen=True, kw_only=True)
class Trapezoid:
    """A pyramid from both ends: the ends first, the middle last.

    Use it for plans between a given start and a given goal.

    Attributes:
        slope: delay in rows as in `Pyramid`, with a token's distance from the nearer end in place
            of its index.

    Example:
        >>> from pgdiff.diffusion import CosineSchedule, Trapezoid, UniformSpacing
        >>> column = UniformSpacing().levels(1, noise_schedule=CosineSchedule())
        >>> Trapezoid().matrix(column, tokens=3).tolist()
        [[1.0, 1.0, 1.0], [0.0, 1.0, 0.0], [0.0, 0.0, 0.0]]
    """

    slope: float = 1.0

    def __post_init__(self) -> None:
        check_range("slope", self.slope, low=0.0)

    def matrix(self, column: Column, *, tokens: int) -> Matrix:
        """Return the column, `int(slope * min(t, tokens - 1 - t))` rows later for token t."""
        position = torch.arange(check_positive_int("tokens", tokens), dtype=torch.float64)
        return _delayed(column, torch.minimum(position, position.flip(0)), slope=self.slope)


def full_sequence(*, steps: int, tokens: int) -> Matrix:
    """Return the matrix of all tokens together, from level 1 to 0 in `steps` equal steps.

    Example:
        >>> from pgdiff.diffusion import full_sequence
        >>> full_sequence(steps=2, tokens=2).tolist()
        [[1.0, 1.0], [0.5, 0.5], [0.0, 0.0]]
    """
    steps = check_positive_int("steps", steps)
    column = torch.linspace(1.0, 0.0, steps + 1, dtype=torch.float64).float()
    return FullSequence().matrix(column, tokens=tokens)


def check_levels(
    levels: LevelMatrix,
    *,
    batch: int,
    tokens: int,
    given: Bool[Tensor, "#batch tokens"] | None = None,
    started: bool = False,
) -> None:
    """Raise if `levels` is not a valid level matrix; the message names the row and column.

    Args:
        levels: level matrix.
        batch: batch size of the sampling.
        tokens: number of tokens of the sampling.
        given: tokens that are given as a whole; their levels are not checked in the first row.
        started: whether sampling starts from a given sample. Otherwise it starts from pure noise,
            and the first row must be 1.
    """
    shape = tuple(levels.shape)
    if levels.ndim not in (2, 3) or shape[-1] != tokens or shape[0] < 2:
        raise PgdiffError(
            f"`levels` must have shape [rows >= 2, {tokens}] or [rows >= 2, {batch}, {tokens}]. "
            f"Got {list(shape)}."
        )
    if levels.ndim == 3 and shape[1] not in (1, batch):
        raise PgdiffError(f"`levels` must have batch size {batch} or 1. Got {shape[1]}.")
    outside = ~((levels >= 0) & (levels <= 1))
    _refuse("in [0, 1]", levels, outside)
    rises = torch.zeros_like(outside)
    rises[1:] = levels[1:] > levels[:-1]
    _refuse("never rising from row to row", levels, rises)
    ends = torch.zeros_like(outside)
    ends[-1] = levels[-1] != 0
    _refuse("0 in the last row", levels, ends)
    if not started:
        first = levels.reshape(shape[0], -1, tokens)[0]
        late = first != 1
        if given is not None:
            late = late & ~given.to(late.device)
        _refuse("1 in the first row, pure noise", first.expand_as(late)[None], late[None])


def _delayed(column: Tensor, position: Tensor, *, slope: float) -> Matrix:
    """Return the column for every token, delayed by `slope * position` rows, rounded down.

    The slope is at most the number of steps: with a larger one no token would move in some rows.
    """
    if column.ndim != 1 or len(column) < 2:
        raise PgdiffError(f"`column` must have shape [steps + 1]. Got {list(column.shape)}.")
    falls = torch.cat([column[:1] <= 1, column.diff() < 0])
    falls[-1] &= column[-1] == 0
    if not falls.all():
        row = int((~falls).nonzero()[0])
        raise PgdiffError(
            "`column` must fall strictly from row to row, from at most 1 to 0. "
            f"Got {float(column[row])} at row {row}."
        )
    steps = len(column) - 1
    delay = (min(slope, steps) * position).long().to(column.device)
    rows = torch.arange(steps + int(delay.max()) + 1, device=column.device)
    return column[(rows[:, None] - delay).clamp(0, steps)]


def _refuse(rule: str, levels: Tensor, wrong: Tensor) -> None:
    if wrong.any():
        index = wrong.nonzero()[0].tolist()
        where = f"row {index[0]}, column {index[-1]}"
        raise PgdiffError(f"`levels` must be {rule}. Got {float(levels[tuple(index)])} at {where}.")
