"""The sigmoid schedule."""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from pgdiff.core.registry import register
from pgdiff.core.validation import check_range


@register("noise_schedule", "sigmoid")
@dataclass(frozen=True, kw_only=True)
class SigmoidSchedule:
    """Sigmoid schedule of the signal's variance (Jabri et al. 2023; Chen 2023, algorithm 1).

    `alpha^2` is `sigmoid(-z / tau)`, shifted and stretched to fall from 1 to 0 while `z` goes from
    `start` to `end`. Diffusion Forcing's code uses this curve. In the "sigmoid" schedule of
    diffusers the noise rates follow a sigmoid, not the signal's variance.

    Attributes:
        start: `z` at level 0.
        end: `z` at level 1, above `start`.
        tau: temperature, above 0; smaller values make the curve steeper in the middle.

    Example:
        >>> import torch
        >>> from pgdiff.diffusion import SigmoidSchedule
        >>> SigmoidSchedule().alpha(torch.tensor([0.0, 1.0])).tolist()
        [1.0, 0.0]
    """

    start: float = -3.0
    end: float = 3.0
    tau: float = 1.0

    def __post_init__(self) -> None:
        check_range("tau", self.tau, low=0.0, open_low=True)
        check_range("end", self.end, low=self.start, open_low=True)
        for name, end in zip(("start / tau", "end / tau"), self._ends(), strict=True):
            check_range(name, end, low=-80.0, high=80.0)  # beyond, float32 overflows

    def _ends(self) -> tuple[float, float]:
        return self.start / self.tau, self.end / self.tau

    def _share(self, low: float, part: Tensor) -> Tensor:
        """Return the share of the sigmoid's rise in the first `part` of the way from `low`."""
        start, end = self._ends()
        # Computing the whole elementwise, like the part, makes their ratio end at exactly 1.
        whole = _rise(low, (end - start) * torch.ones_like(part))
        return (_rise(low, (end - start) * part) / whole).clamp(0.0, 1.0)

    def alpha(self, level: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        """Return alpha; exactly 1 at level 0 and 0 at level 1."""
        return self._share(-self._ends()[1], 1 - level).sqrt()

    def sigma(self, level: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        """Return `sqrt(1 - alpha^2)`, which preserves variance."""
        return self._share(self._ends()[0], level).sqrt()

    def log_snr(self, level: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        """Return the log signal-to-noise ratio, from infinity to -infinity."""
        return 2 * (self.alpha(level).log() - self.sigma(level).log())

    def level_at(self, log_snr: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        """Return the level, computed from the smaller of the noise's and the signal's share."""
        start, end = self._ends()
        # logit(p + d) - logit(p) = log1p(d / p) - log1p(-d / (1 - p)): no cancellation at the ends.
        # 1 / p is 1 + exp(-z), and 1 / (1 - p) is 1 + exp(z).
        rise = math.sinh((end - start) / 2) / (2 * math.cosh(start / 2) * math.cosh(end / 2))
        up, down = rise * torch.sigmoid(-log_snr), rise * torch.sigmoid(log_snr)
        from_start = torch.log1p(up * (1 + math.exp(-start)))
        from_start = from_start - torch.log1p(-up * (1 + math.exp(start)))
        to_end = torch.log1p(down * (1 + math.exp(end)))
        to_end = to_end - torch.log1p(-down * (1 + math.exp(-end)))
        distance = torch.where(log_snr > 0, from_start, end - start - to_end)
        return (distance / (end - start)).clamp(0.0, 1.0)


def _rise(low: float, width: Tensor) -> Tensor:
    """Return the rise of the sigmoid over `width` from `low`, up to a factor that depends on `low`.

    `sigmoid(z + w) - sigmoid(z) = sinh(w / 2) / (2 cosh(z / 2) cosh((z + w) / 2))`.
    """
    return torch.sinh(width / 2) / torch.cosh((low + width) / 2)
