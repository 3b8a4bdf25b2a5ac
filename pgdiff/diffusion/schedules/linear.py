"""The linear schedule."""

from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import softplus

from pgdiff.core.registry import register
from pgdiff.core.validation import check_range
from pgdiff.diffusion.schedules.base import check_leak


@register("noise_schedule", "linear")
@dataclass(frozen=True, kw_only=True)
class LinearSchedule:
    """Linear noise rates (Ho et al. 2020) in continuous time (Song et al. 2021, eq. 32-33).

    `alpha(level)^2 = exp(-(beta_min * level + (beta_max - beta_min) * level^2 / 2))`.

    Attributes:
        beta_min: noise rate at level 0, per unit of level (1,000 times DDPM's 1e-4).
        beta_max: noise rate at level 1 (1,000 times DDPM's 0.02).
        allow_leak: whether to accept rates that leave signal at level 1.

    Example:
        >>> import torch
        >>> from pgdiff.diffusion import LinearSchedule
        >>> round(LinearSchedule().alpha(torch.tensor(1.0)).item(), 5)
        0.00657
    """

    beta_min: float = 0.1
    beta_max: float = 20.0
    allow_leak: bool = field(default=False, compare=False)

    def __post_init__(self) -> None:
        check_range("beta_min", self.beta_min, low=0.0, open_low=True)
        check_range("beta_max", self.beta_max, low=self.beta_min)
        check_leak(self, allow_leak=self.allow_leak)

    def _rate(self, level: Tensor) -> Tensor:
        """Return the integrated noise rate, `-log(alpha^2)`."""
        return self.beta_min * level + (self.beta_max - self.beta_min) * level.square() / 2

    def alpha(self, level: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        """Return the square root of alpha_bar."""
        return torch.exp(-0.5 * self._rate(level))

    def sigma(self, level: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        """Return `sqrt(1 - alpha^2)`, without cancellation near level 0."""
        return torch.sqrt(-torch.expm1(-self._rate(level)))

    def log_snr(self, level: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        """Return `-log(exp(rate) - 1)`, infinite only at level 0."""
        rate = self._rate(level)
        return -rate - torch.log(-torch.expm1(-rate))  # exp(rate) alone may overflow

    def level_at(self, log_snr: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        """Return the positive root of the quadratic equation for the integrated rate."""
        slope = self.beta_max - self.beta_min
        rate = softplus(-log_snr, threshold=50.0).clamp(max=self.beta_min + slope / 2)
        root = (self.beta_min**2 + 2 * slope * rate).sqrt()
        return (2 * rate / (self.beta_min + root)).clamp(0.0, 1.0)
