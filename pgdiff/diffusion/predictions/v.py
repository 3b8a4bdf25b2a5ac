"""Prediction of the velocity of variance-preserving diffusion."""

from dataclasses import dataclass

from pgdiff.core.registry import register
from pgdiff.diffusion.predictions.base import Factor, Prediction, Signal, check_law
from pgdiff.diffusion.schedules import NoiseSchedule


@register("prediction", "v")
@dataclass(frozen=True)
class VPrediction(Prediction):
    """Prediction of `v = alpha * epsilon - sigma * x0` (Salimans & Ho 2022, appendix D).

    It fits variance-preserving schedules, with `alpha^2 + sigma^2 = 1`.

    Example:
        >>> from pgdiff import DiffusionProcess
        >>> from pgdiff.diffusion import VPrediction
        >>> process = DiffusionProcess(prediction=VPrediction())
    """

    def to_x0(self, output: Signal, x: Signal, alpha: Factor, sigma: Factor) -> Signal:
        """Return `alpha * x - sigma * output`."""
        return alpha * x - sigma * output

    def target(self, x0: Signal, epsilon: Signal, alpha: Factor, sigma: Factor) -> Signal:
        """Return `alpha * epsilon - sigma * x0`."""
        return alpha * epsilon - sigma * x0

    def gain(self, alpha: Factor, sigma: Factor) -> Factor:
        """Return `sigma`."""
        return sigma

    def check(self, noise_schedule: NoiseSchedule) -> None:
        """Raise if a schedule does not preserve variance."""
        fault = "does not preserve variance (alpha^2 + sigma^2 = 1)"
        check_law("v", noise_schedule, lambda alpha, sigma: alpha**2 + sigma**2, fault=fault)
