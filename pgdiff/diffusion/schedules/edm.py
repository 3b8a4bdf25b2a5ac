"""The variance-exploding schedule of EDM."""

import math
from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor

from pgdiff.diffusion.schedules.base import check_leak
from pgdiff.registry import register
from pgdiff.validation import check_range


@register("schedule", "edm")
@dataclass(frozen=True, kw_only=True)
class EDMSchedule:
    """Noise is added and the signal never scaled (Karras et al. 2022).

    `sigma(level) = sigma_max * level^rho`, so that equal steps of the level are those of eq. 5 of
    the paper with its smallest sigma at 0. `KarrasSpacing` has one above 0.

    Attributes:
        sigma_max: noise at level 1, in units of the normalised data.
        rho: how much the levels crowd towards clean.
        allow_leak: accept a `sigma_max` too small to bury the signal.
    """

    sigma_max: float = 80.0
    rho: float = 7.0
    allow_leak: bool = field(default=False, compare=False)

    def __post_init__(self) -> None:
        check_range("sigma_max", self.sigma_max, low=0.0, open_low=True)
        check_range("rho", self.rho, low=1.0)
        check_leak(self, allow_leak=self.allow_leak)

    def alpha(self, level: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        """Always 1."""
        return torch.ones_like(level)

    def sigma(self, level: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        """A power of the level."""
        return self.sigma_max * level**self.rho

    def log_snr(self, level: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        """`-2 log(sigma)`."""
        return -2 * (math.log(self.sigma_max) + self.rho * level.log())

    def level_at(self, log_snr: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        """A root of sigma."""
        exponent = (-log_snr / 2 - math.log(self.sigma_max)) / self.rho
        return torch.exp(exponent).clamp(0.0, 1.0)
