"""The sigmoid schedule."""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from pgdiff.registry import register
from pgdiff.validation import check_range


@register("schedule", "sigmoid")
@dataclass(frozen=True, kw_only=True)
class SigmoidSchedule:
    """Signal's share falling as a sigmoid (Jabri et al. 2023; Chen 2023, algorithm 1).

    `alpha^2` goes from 1 to 0 as `sigmoid(-z / tau)` does, shifted and stretched, while `z` goes
    from `start` to `end`. Diffusion Forcing's code has the same curve; diffusers' "sigmoid" is
    another, whose rates and not whose shares are a sigmoid.

    Attributes:
        start: `z` at level 0.
        end: `z` at level 1, above `start`.
        tau: temperature, above 0.
    """

    start: float = -3.0
    end: float = 3.0
    tau: float = 1.0

    def __post_init__(self) -> None:
        check_range("tau", self.tau, low=0.0, open_low=True)
        check_range("end", self.end, low=self.start, open_low=True)
        for name, place in zip(("start / tau", "end / tau"), self._ends(), strict=True):
            check_range(name, place, low=-80.0, high=80.0)  # beyond, float32 overflows

    def _ends(self) -> tuple[float, float]:
        return self.start / self.tau, self.end / self.tau

    def _share(self, low: float, part: Tensor) -> Tensor:
        """Share of the sigmoid's whole rise in the first part of the way up from `low`."""
        start, end = self._ends()
        # The whole elementwise, as the part is, so that their ratio ends at exactly 1.
        whole = _rise(low, (end - start) * torch.ones_like(part))
        return (_rise(low, (end - start) * part) / whole).clamp(0.0, 1.0)

    def alpha(self, level: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        """Exactly 1 at level 0 and 0 at level 1."""
        return self._share(-self._ends()[1], 1 - level).sqrt()

    def sigma(self, level: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        """`sqrt(1 - alpha^2)`: variance preserving."""
        return self._share(self._ends()[0], level).sqrt()

    def log_snr(self, level: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        """From infinity to -infinity."""
        return 2 * (self.alpha(level).log() - self.sigma(level).log())

    def level_at(self, log_snr: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        """From the noise's share where that is small, from the signal's elsewhere."""
        start, end = self._ends()
        # logit(p + d) - logit(p) = log1p(d / p) - log1p(-d / (1 - p)): no cancellation at the ends.
        # 1 / p is 1 + exp(-z), and 1 / (1 - p) is 1 + exp(z).
        rise = math.sinh((end - start) / 2) / (2 * math.cosh(start / 2) * math.cosh(end / 2))
        up, down = rise * torch.sigmoid(-log_snr), rise * torch.sigmoid(log_snr)
        from_start = torch.log1p(up * (1 + math.exp(-start)))
        from_start = from_start - torch.log1p(-up * (1 + math.exp(start)))
        to_end = torch.log1p(down * (1 + math.exp(end)))
        to_end = to_end - torch.log1p(-down * (1 + math.exp(-end)))
        place = torch.where(log_snr > 0, from_start, end - start - to_end)
        return (place / (end - start)).clamp(0.0, 1.0)


def _rise(low: float, width: Tensor) -> Tensor:
    """Rise of the sigmoid over `width` from `low`, up to a factor that `low` alone gives.

    `sigmoid(z + w) - sigmoid(z) = sinh(w / 2) / (2 cosh(z / 2) cosh((z + w) / 2))`.
    """
    return torch.sinh(width / 2) / torch.cosh((low + width) / 2)
