"""The variance-exploding schedule of EDM."""

import math
from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor

from pgdiff.core.registry import register
from pgdiff.core.validation import check_range
from pgdiff.diffusion.schedules.base import check_leak


@register("noise_schedule", "edm")
@dataclass(frozen=True, kw_only=True)
class EDMSchedule:
    """Variance-exploding schedule (Karras et al. 2022): the signal is not scaled.

    With `sigma(level) = sigma_max * level^rho` equal steps of the level are the steps of the
    paper's eq. 5 with smallest sigma 0. `KarrasSpacing` has a smallest sigma above 0.

    Attributes:
        sigma_max: noise at level 1, in units of the normalised data.
        rho: exponent; larger values give less noise at equal levels.
        allow_leak: whether to accept a `sigma_max` that leaves signal at level 1.

    Example:
        >>> import torch
        >>> from pgdiff.diffusion import EDMSchedule
        >>> EDMSchedule().sigma(torch.tensor([0.0, 1.0])).tolist()
        [0.0, 80.0]
    """

    sigma_max: float = 80.0
    rho: float = 7.0
    allow_leak: bool = field(default=False, compare=False)

    def __post_init__(self) -> None:
        check_range("sigma_max", self.sigma_max, low=0.0, open_low=True)
        check_range("rho", self.rho, low=1.0)
        check_leak(self, allow_leak=self.allow_leak)

    def alpha(self, level: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        """Return 1."""
        return torch.ones_like(level)

    def sigma(self, level: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        """Return `sigma_max * level^rho`."""
        return self.sigma_max * level**self.rho

    def log_snr(self, level: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        """Return `-2 log(sigma)`."""
        return -2 * (math.log(self.sigma_max) + self.rho * level.log())

    def level_at(self, log_snr: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        """Return the level by the root of sigma."""
        exponent = (-log_snr / 2 - math.log(self.sigma_max)) / self.rho
        return torch.exp(exponent).clamp(0.0, 1.0)
