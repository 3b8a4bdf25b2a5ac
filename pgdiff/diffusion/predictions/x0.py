"""Prediction of the clean value."""

from dataclasses import dataclass

import torch

from pgdiff.core.registry import register
from pgdiff.diffusion.predictions.base import Factor, Prediction, Signal


@register("prediction", "x0")
@dataclass(frozen=True)
class X0Prediction(Prediction):
    """Prediction of the clean value itself. It fits every schedule.

    Example:
        >>> from pgdiff import DiffusionProcess
        >>> from pgdiff.diffusion import X0Prediction
        >>> DiffusionProcess().prediction == X0Prediction()
        True
    """

    def to_x0(self, output: Signal, x: Signal, alpha: Factor, sigma: Factor) -> Signal:
        """Return the output."""
        return output

    def target(self, x0: Signal, epsilon: Signal, alpha: Factor, sigma: Factor) -> Signal:
        """Return the clean value."""
        return x0

    def gain(self, alpha: Factor, sigma: Factor) -> Factor:
        """Return 1, since the output is x0_hat."""
        return torch.ones_like(alpha)
