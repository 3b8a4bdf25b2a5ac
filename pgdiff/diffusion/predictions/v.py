"""The velocity of variance-preserving diffusion as what a network gives."""

from dataclasses import dataclass

from pgdiff.diffusion.predictions.base import Factor, Prediction, Signal, check_law
from pgdiff.diffusion.schedules import NoiseSchedule
from pgdiff.registry import register


@register("prediction", "v")
@dataclass(frozen=True)
class VPrediction(Prediction):
    """The network gives `v = alpha * epsilon - sigma * x0` (Salimans & Ho 2022, appendix D).

    For variance-preserving schedules, where `alpha^2 + sigma^2 = 1`.
    """

    def to_x0(self, output: Signal, x: Signal, alpha: Factor, sigma: Factor) -> Signal:
        """`x0 = alpha * x - sigma * v`."""
        return alpha * x - sigma * output

    def target(self, x0: Signal, epsilon: Signal, alpha: Factor, sigma: Factor) -> Signal:
        """The velocity of the sample as the angle between signal and noise turns."""
        return alpha * epsilon - sigma * x0

    def gain(self, alpha: Factor, sigma: Factor) -> Factor:
        """`sigma`."""
        return sigma

    def check(self, schedule: NoiseSchedule) -> None:
        """Refuse a schedule that does not preserve variance."""
        fault = "does not preserve variance (alpha^2 + sigma^2 = 1)"
        check_law("v", schedule, lambda alpha, sigma: alpha**2 + sigma**2, fault=fault)
