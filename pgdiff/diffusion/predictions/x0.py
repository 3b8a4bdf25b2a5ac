"""The clean value as what a network gives."""

from dataclasses import dataclass

import torch

from pgdiff.diffusion.predictions.base import Factor, Prediction, Signal
from pgdiff.registry import register


@register("prediction", "x0")
@dataclass(frozen=True)
class X0Prediction(Prediction):
    """The network gives the clean value itself. Fits every schedule."""

    def to_x0(self, output: Signal, x: Signal, alpha: Factor, sigma: Factor) -> Signal:
        """The output."""
        return output

    def target(self, x0: Signal, epsilon: Signal, alpha: Factor, sigma: Factor) -> Signal:
        """The clean value."""
        return x0

    def gain(self, alpha: Factor, sigma: Factor) -> Factor:
        """One: the output is x0_hat."""
        return torch.ones_like(alpha)
