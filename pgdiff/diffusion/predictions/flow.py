"""Prediction of rectified flow's velocity."""

from dataclasses import dataclass

from pgdiff.core.registry import register
from pgdiff.diffusion.predictions.base import Factor, Prediction, Signal, check_law
from pgdiff.diffusion.schedules import NoiseSchedule


@register("prediction", "flow")
@dataclass(frozen=True)
class FlowPrediction(Prediction):
    """Prediction of the velocity `u = epsilon - x0`, from data to noise.

    In Liu et al. (2023), eq. 1, and Lipman et al. (2023) time runs from noise to data, and the sign
    is opposite. It fits schedules with `alpha + sigma = 1`.

    Example:
        >>> from pgdiff import DiffusionProcess
        >>> from pgdiff.diffusion import FlowPrediction, FlowSchedule
        >>> process = DiffusionProcess(
        ...     noise_schedule=FlowSchedule(), prediction=FlowPrediction()
        ... )
    """

    def to_x0(self, output: Signal, x: Signal, alpha: Factor, sigma: Factor) -> Signal:
        """Return `x - sigma * output`."""
        return x - sigma * output

    def target(self, x0: Signal, epsilon: Signal, alpha: Factor, sigma: Factor) -> Signal:
        """Return `epsilon - x0`, equal at every level."""
        return epsilon - x0

    def gain(self, alpha: Factor, sigma: Factor) -> Factor:
        """Return `sigma`."""
        return sigma

    def check(self, noise_schedule: NoiseSchedule) -> None:
        """Raise if a schedule is not a straight line."""
        fault = "is not a straight line from data to noise (alpha + sigma = 1)"
        check_law("flow", noise_schedule, lambda alpha, sigma: alpha + sigma, fault=fault)
