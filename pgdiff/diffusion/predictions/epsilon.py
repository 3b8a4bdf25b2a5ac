"""The noise as what a network gives."""

from dataclasses import dataclass

import torch

from pgdiff.diffusion.predictions.base import Factor, Prediction, Signal
from pgdiff.diffusion.schedules import NoiseSchedule
from pgdiff.registry import register
from pgdiff.validation import PgdiffError


@register("prediction", "epsilon")
@dataclass(frozen=True)
class EpsilonPrediction(Prediction):
    """The network gives the noise (Ho et al. 2020): `x0 = (x - sigma * epsilon) / alpha`."""

    def to_x0(self, output: Signal, x: Signal, alpha: Factor, sigma: Factor) -> Signal:
        """Solve for the clean value."""
        return (x - sigma * output) / alpha

    def target(self, x0: Signal, epsilon: Signal, alpha: Factor, sigma: Factor) -> Signal:
        """The noise."""
        return epsilon

    def gain(self, alpha: Factor, sigma: Factor) -> Factor:
        """`sigma / alpha`."""
        return sigma / alpha

    def check(self, schedule: NoiseSchedule) -> None:
        """Refuse a schedule that holds no signal at level 1: x0 would be 0/0 there."""
        if float(schedule.alpha(torch.ones((), dtype=torch.float64))) < 1e-6:
            raise PgdiffError(
                "`prediction` must not be 'epsilon' with a schedule whose alpha(1) is 0, because "
                "pure noise says nothing about the clean value. Use 'x0' or 'edm', or the "
                f"'linear' schedule. Got {schedule!r}."
            )
