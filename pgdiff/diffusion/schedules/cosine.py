"""The cosine schedule."""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from pgdiff.core.registry import register
from pgdiff.core.validation import check_range


@register("noise_schedule", "cosine")
@dataclass(frozen=True, kw_only=True)
class CosineSchedule:
    """Cosine schedule of Nichol & Dhariwal (2021), eq. 17, in continuous time.

    `alpha(1)` is 0, so the noisiest level is pure noise and a network cannot predict epsilon there.

    Attributes:
        offset: `s` of the paper; larger values give more noise near level 0.

    Example:
        >>> import torch
        >>> from pgdiff.diffusion import CosineSchedule
        >>> CosineSchedule().alpha(torch.tensor([0.0, 1.0])).tolist()
        [1.0, 0.0]
    """

    offset: float = 0.008

    def __post_init__(self) -> None:
        check_range("offset", self.offset, low=0.0, high=1.0)

    @property
    def _start(self) -> float:
        """Angle at level 0; the angle rises from there to pi/2 at level 1."""
        return self.offset / (1 + self.offset) * (math.pi / 2)

    def _turn(self, level: Tensor) -> Tensor:
        return level * (math.pi / 2 / (1 + self.offset))

    def alpha(self, level: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        """Return `cos(angle(level)) / cos(angle(0))`; exactly 1 at level 0 and 0 at level 1."""
        # cos a as the sine of what is left to pi/2: no cancellation near level 1.
        alpha = (torch.sin(self._turn(1 - level)) / math.cos(self._start)).clamp(0.0, 1.0)
        return torch.where(level <= 0, 1.0, torch.where(level >= 1, 0.0, alpha))

    def sigma(self, level: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        """Return `sqrt(1 - alpha^2)`, which preserves variance."""
        # cos^2 a - cos^2 b = sin(b - a) sin(b + a): no cancellation near level 0.
        turn = self._turn(level)
        product = torch.sin(turn) * torch.sin(turn + 2 * self._start)
        sigma = (product.clamp(min=0.0).sqrt() / math.cos(self._start)).clamp(max=1.0)
        return torch.where(level <= 0, 0.0, torch.where(level >= 1, 1.0, sigma))

    def log_snr(self, level: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        """Return the log signal-to-noise ratio, from infinity to -infinity."""
        return 2 * (self.alpha(level).log() - self.sigma(level).log())

    def level_at(self, log_snr: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        """Return the level, computed from the nearer end of the angle."""
        to_end = torch.asin(math.cos(self._start) * torch.sigmoid(log_snr).sqrt())
        # `sin(turn) sin(turn + 2 start) = share` is quadratic in the tangent of the turn.
        share = math.cos(self._start) ** 2 * torch.sigmoid(-log_snr)
        sine, cosine = math.sin(2 * self._start), math.cos(2 * self._start)
        root = (sine**2 + 4 * share * (cosine - share)).clamp(min=0.0).sqrt()
        turn = torch.atan2(2 * share, sine + root)
        scale = 2 / math.pi * (1 + self.offset)
        return torch.where(log_snr < 0, 1 - scale * to_end, scale * turn).clamp(0.0, 1.0)
