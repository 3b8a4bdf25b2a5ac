"""Scale schedules: a factor of a guide's scale by noise level or by step."""

import math
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from pgdiff.core.registry import base_of, register
from pgdiff.core.validation import PgdiffError, check_range

Level = Float[Tensor, "#batch tokens"]


@base_of("scale_schedule")
@runtime_checkable
class ScaleSchedule(Protocol):
    """A factor of a guide's scale by noise level or by step.

    Example:
        >>> from pgdiff.diffusion import Power, ScaleSchedule
        >>> isinstance(Power(), ScaleSchedule)
        True
    """

    def factor(self, level: Level, *, row: int, rows: int) -> Float[Tensor, "#batch tokens"]:
        """Return the factor at noise levels, in step `row` of `rows`, counted from 0."""
        ...


@register("scale_schedule", "interval")
@dataclass(frozen=True, kw_only=True)
class Interval:
    """Guidance at levels between `low` and `high`, and none elsewhere.

    Unguided steps at the end let the denoiser correct the errors of guidance.

    Attributes:
        low: noise level, in [0, 1].
        high: noise level, in [0, 1], above `low`.

    Example:
        >>> import torch
        >>> from pgdiff.diffusion import Interval
        >>> Interval(low=0.25).factor(torch.tensor([[0.0, 0.5]]), row=0, rows=1).tolist()
        [[0.0, 1.0]]
    """

    low: float = 0.0
    high: float = 1.0

    def __post_init__(self) -> None:
        check_range("low", self.low, low=0.0, high=1.0)
        check_range("high", self.high, low=0.0, high=1.0)
        if self.low >= self.high:
            raise PgdiffError(f"`low` must be below `high`. Got {self.low} and {self.high}.")

    def factor(self, level: Level, *, row: int, rows: int) -> Tensor:
        """Return 1 inside the interval and 0 outside."""
        return ((level >= self.low) & (level <= self.high)).to(level.dtype)


@register("scale_schedule", "power")
@dataclass(frozen=True, kw_only=True)
class Power:
    """A power of the level: less guidance at lower noise.

    Attributes:
        exponent: above 0; larger values confine guidance to noisier levels.

    Example:
        >>> import torch
        >>> from pgdiff.diffusion import Power
        >>> Power(exponent=2.0).factor(torch.tensor([[0.5, 1.0]]), row=0, rows=1).tolist()
        [[0.25, 1.0]]
    """

    exponent: float = 1.0

    def __post_init__(self) -> None:
        check_range("exponent", self.exponent, low=0.0, open_low=True)

    def factor(self, level: Level, *, row: int, rows: int) -> Tensor:
        """Return `level ** exponent`, from 1 in pure noise to 0 at clean tokens."""
        return level.clamp(min=0.0) ** self.exponent


@register("scale_schedule", "sine_bump")
@dataclass(frozen=True, kw_only=True)
class SineBump:
    """A falling line with a sine bump over the steps, 0 in the last step.

    The factor in step i of N is `1 - i/N + height sin(pi (i + 1)/N)`. This is the "cosine" schedule
    of policy-guided diffusion's public code (Jackson et al. 2024); it ignores the noise levels.

    Attributes:
        height: height of the bump.

    Example:
        >>> import torch
        >>> from pgdiff.diffusion import SineBump
        >>> SineBump(height=0.3).factor(torch.ones(1, 2), row=3, rows=4).tolist()
        [[0.0, 0.0]]
    """

    height: float = 0.3

    def __post_init__(self) -> None:
        check_range("height", self.height, low=0.0)

    def factor(self, level: Level, *, row: int, rows: int) -> Tensor:
        """Return one factor for all tokens."""
        value = 1 - row / rows + self.height * math.sin(math.pi * (row + 1) / rows)
        return torch.full_like(level, 0.0 if row == rows - 1 else value)
