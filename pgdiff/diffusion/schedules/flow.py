"""The straight line of rectified flow."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from pgdiff.registry import register


@register("schedule", "flow")
@dataclass(frozen=True)
class FlowSchedule:
    """Rectified flow (Liu et al. 2023, eq. 1; Lipman et al. 2023): from data to noise in a line.

    Variance is not preserved: it is least, a half, in the middle.
    """

    def alpha(self, level: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        """`1 - level`."""
        return 1 - level

    def sigma(self, level: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        """The level itself."""
        return level + torch.zeros_like(level)

    def log_snr(self, level: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        """From infinity to -infinity."""
        return -2 * torch.logit(level)

    def level_at(self, log_snr: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        """A sigmoid."""
        return torch.sigmoid(-log_snr / 2)
