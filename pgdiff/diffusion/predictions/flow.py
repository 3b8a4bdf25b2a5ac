"""The velocity of rectified flow as what a network gives."""

from dataclasses import dataclass

from pgdiff.diffusion.predictions.base import Factor, Prediction, Signal, check_law
from pgdiff.diffusion.schedules import NoiseSchedule
from pgdiff.registry import register


@register("prediction", "flow")
@dataclass(frozen=True)
class FlowPrediction(Prediction):
    """The network gives `u = epsilon - x0`, from data to noise.

    Liu et al. (2023), eq. 1, and Lipman et al. (2023) run time the other way, from noise to data,
    and have the opposite sign. For schedules in which `alpha + sigma = 1`.
    """

    def to_x0(self, output: Signal, x: Signal, alpha: Factor, sigma: Factor) -> Signal:
        """`x0 = x - sigma * u`: back along the straight line."""
        return x - sigma * output

    def target(self, x0: Signal, epsilon: Signal, alpha: Factor, sigma: Factor) -> Signal:
        """The line's direction, the same at every level."""
        return epsilon - x0

    def gain(self, alpha: Factor, sigma: Factor) -> Factor:
        """`sigma`."""
        return sigma

    def check(self, schedule: NoiseSchedule) -> None:
        """Refuse a schedule that is no straight line."""
        fault = "is no straight line from data to noise (alpha + sigma = 1)"
        check_law("flow", schedule, lambda alpha, sigma: alpha + sigma, fault=fault)
