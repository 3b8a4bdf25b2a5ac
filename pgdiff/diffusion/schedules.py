"""Noise schedules: how much signal and noise a token holds at a noise level.

A noisy token is `x = alpha(level) * x0 + sigma(level) * epsilon`. Level 0 is clean, level 1 the
schedule's noisiest. All formulas are elementwise, so that every token may have a level of its own.
"""

import math
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from pgdiff.registry import register
from pgdiff.validation import check_range


@runtime_checkable
class NoiseSchedule(Protocol):
    """Signal and noise at a level in [0, 1]; any shape in, the same shape out."""

    def alpha(self, level: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        """Factor of the clean value: 1 at level 0, falling."""
        ...

    def sigma(self, level: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        """Standard deviation of the noise: 0 at level 0, rising."""
        ...


@register("schedule", "cosine")
@dataclass(frozen=True, kw_only=True)
class CosineSchedule:
    """Cosine schedule of Nichol & Dhariwal (2021), eq. 17, in continuous time.

    `alpha(1)` is 0, so the noisiest level is pure noise and a network cannot predict epsilon there.

    Attributes:
        offset: `s` of the paper; keeps the noise near level 0 from vanishing too fast.
    """

    offset: float = 0.008

    def __post_init__(self) -> None:
        check_range("offset", self.offset, low=0.0, high=1.0)

    @property
    def _start(self) -> float:
        """Angle at level 0; from there it turns to pi/2 at level 1."""
        return self.offset / (1 + self.offset) * (math.pi / 2)

    def _turn(self, level: Tensor) -> Tensor:
        return level * (math.pi / 2 / (1 + self.offset))

    def alpha(self, level: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        """`cos(angle(level)) / cos(angle(0))`; exactly 1 at level 0 and 0 at level 1."""
        alpha = (torch.cos(self._start + self._turn(level)) / math.cos(self._start)).clamp(0.0, 1.0)
        return torch.where(level <= 0, 1.0, torch.where(level >= 1, 0.0, alpha))

    def sigma(self, level: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        """`sqrt(1 - alpha^2)`: variance preserving."""
        # cos^2 a - cos^2 b = sin(b - a) sin(b + a): no cancellation near level 0.
        turn = self._turn(level)
        product = torch.sin(turn) * torch.sin(turn + 2 * self._start)
        sigma = (product.clamp(min=0.0).sqrt() / math.cos(self._start)).clamp(max=1.0)
        return torch.where(level <= 0, 0.0, torch.where(level >= 1, 1.0, sigma))


@register("schedule", "linear")
@dataclass(frozen=True, kw_only=True)
class LinearSchedule:
    """Linear noise rates (Ho et al. 2020) in continuous time (Song et al. 2021, eq. 32-33).

    `alpha(level)^2 = exp(-(beta_min * level + (beta_max - beta_min) * level^2 / 2))`.

    Attributes:
        beta_min: rate at level 0, per unit of level (1,000 times DDPM's 1e-4).
        beta_max: rate at level 1 (1,000 times DDPM's 0.02).
    """

    beta_min: float = 0.1
    beta_max: float = 20.0

    def __post_init__(self) -> None:
        check_range("beta_min", self.beta_min, low=0.0, open_low=True)
        check_range("beta_max", self.beta_max, low=self.beta_min)

    def _log_alpha_bar(self, level: Tensor) -> Tensor:
        return -(self.beta_min * level + (self.beta_max - self.beta_min) * level.square() / 2)

    def alpha(self, level: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        """Square root of alpha_bar."""
        return torch.exp(0.5 * self._log_alpha_bar(level))

    def sigma(self, level: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        """`sqrt(1 - alpha^2)`, without cancellation near level 0."""
        return torch.sqrt(-torch.expm1(self._log_alpha_bar(level)))
