"""The straight line of rectified flow."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from pgdiff.core.registry import register


@register("noise_schedule", "flow")
@dataclass(frozen=True)
class FlowSchedule:
    """Rectified flow (Liu et al. 2023, eq. 1; Lipman et al. 2023): a line from data to noise.

    Variance is not preserved: its minimum is 1/2 at level 1/2.

    Example:
        >>> import torch
        >>> from pgdiff.diffusion import FlowSchedule
        >>> FlowSchedule().alpha(torch.tensor([0.25])).tolist()
        [0.75]
    """

    def alpha(self, level: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        """Return `1 - level`."""
        return 1 - level

    def sigma(self, level: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        """Return the level itself."""
        return level + torch.zeros_like(level)

    def log_snr(self, level: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        """Return the log signal-to-noise ratio, from infinity to -infinity."""
        return -2 * torch.logit(level)

    def level_at(self, log_snr: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        """Return `sigmoid(-log_snr / 2)`."""
        return torch.sigmoid(-log_snr / 2)
