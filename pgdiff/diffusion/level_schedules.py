"""Level schedules: the noise level of every token at every row of the sampling.

A schedule is a matrix `[rows, tokens]`, or `[rows, batch, tokens]`: sampling goes from row m to row
m + 1. The first row is where it starts, the last is 0, and no entry rises. Any such matrix will do;
those here let every token walk down the same column of levels, some later than others.
"""

import math
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from pgdiff.registry import register
from pgdiff.validation import PgdiffError, check_positive_int, check_range

Column = Float[Tensor, " steps_and_1"]
Matrix = Float[Tensor, "rows tokens"]
LevelMatrix = Float[Tensor, "rows tokens"] | Float[Tensor, "rows #batch tokens"]


@runtime_checkable
class LevelSchedule(Protocol):
    """When each token walks down a column of levels; a frozen, registered dataclass."""

    def matrix(self, column: Column, *, tokens: int) -> Matrix:
        """Return the level of every token at every row.

        Args:
            column: `[steps + 1]`, falling strictly to 0, such as a `Spacing` gives.
            tokens: length of the sequence.
        """
        ...


@register("level_schedule", "full")
@dataclass(frozen=True)
class FullSequence:
    """All tokens together: `steps` rows of work."""

    def matrix(self, column: Column, *, tokens: int) -> Matrix:
        """Return the column for every token."""
        return _delayed(column, torch.zeros(check_positive_int("tokens", tokens)), slope=0.0)


@register("level_schedule", "pyramid")
@dataclass(frozen=True, kw_only=True)
class Pyramid:
    """The further in the future, the noisier (Chen et al. 2024, "Diffusion Forcing").

    Attributes:
        slope: rows by which each token starts after the one before it; rounded down for each token.
            There are `steps + int((tokens - 1) * slope)` rows of work. A slope above the number of
            steps is that number: a token starts when the one before it is clean, without a pause.
    """

    slope: float = 1.0

    def __post_init__(self) -> None:
        check_range("slope", self.slope, low=0.0)

    def matrix(self, column: Column, *, tokens: int) -> Matrix:
        """Return the column, `int(slope * t)` rows later for token t."""
        place = torch.arange(check_positive_int("tokens", tokens), dtype=torch.float64)
        return _delayed(column, place, slope=self.slope)


@register("level_schedule", "autoregressive")
@dataclass(frozen=True)
class Autoregressive:
    """One token after the other: a token starts when the one before it is clean.

    A pyramid whose slope is the number of steps: `steps * tokens` rows of work.
    """

    def matrix(self, column: Column, *, tokens: int) -> Matrix:
        """Return the column, `steps * t` rows later for token t."""
        place = torch.arange(check_positive_int("tokens", tokens))
        return _delayed(column, place, slope=math.inf)


@register("level_schedule", "trapezoid")
@dataclass(frozen=True, kw_only=True)
class Trapezoid:
    """A pyramid from both ends: both of them first, the middle last.

    For plans between a given start and a given goal.

    Attributes:
        slope: as in `Pyramid`, with a token's distance from the nearer end in place of its index.
    """

    slope: float = 1.0

    def __post_init__(self) -> None:
        check_range("slope", self.slope, low=0.0)

    def matrix(self, column: Column, *, tokens: int) -> Matrix:
        """Return the column, `int(slope * min(t, tokens - 1 - t))` rows later for token t."""
        place = torch.arange(check_positive_int("tokens", tokens), dtype=torch.float64)
        return _delayed(column, torch.minimum(place, place.flip(0)), slope=self.slope)


def full_sequence(*, steps: int, tokens: int) -> Matrix:
    """All tokens together, from level 1 to 0 in `steps` equal steps."""
    steps = check_positive_int("steps", steps)
    column = torch.linspace(1.0, 0.0, steps + 1, dtype=torch.float64).float()
    return FullSequence().matrix(column, tokens=tokens)


def check_levels(
    levels: LevelMatrix,
    *,
    batch: int,
    tokens: int,
    known: Bool[Tensor, "#batch tokens"] | None = None,
    started: bool = False,
) -> None:
    """Raise an error that names the place if `levels` is no valid level schedule.

    Args:
        levels: the matrix.
        batch: batch size that is to be sampled.
        tokens: tokens that are to be sampled.
        known: which tokens are given as a whole, so that their levels do not count.
        started: whether sampling starts from a given sample; if not it starts from noise alone, and
            only level 1 is that.
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
        if known is not None:
            late = late & ~known.to(late.device)
        _refuse("1 in the first row, noise alone", first.expand_as(late)[None], late[None])


def _delayed(column: Tensor, place: Tensor, *, slope: float) -> Matrix:
    """Every token's walk down the column, from row `slope * place` on, which is rounded down.

    In more than `steps` rows from one place to the next there would be some where nothing moves.
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
    delay = (min(slope, steps) * place).long().to(column.device)
    rows = torch.arange(steps + int(delay.max()) + 1, device=column.device)
    return column[(rows[:, None] - delay).clamp(0, steps)]


def _refuse(rule: str, levels: Tensor, wrong: Tensor) -> None:
    if wrong.any():
        place = wrong.nonzero()[0].tolist()
        where = f"row {place[0]}, column {place[-1]}"
        raise PgdiffError(f"`levels` must be {rule}. Got {float(levels[tuple(place)])} at {where}.")
