"""Prediction of the noise."""

from dataclasses import dataclass

import torch

from pgdiff.core.registry import register
from pgdiff.core.validation import PgdiffError
from pgdiff.diffusion.predictions.base import Factor, Prediction, Signal
from pgdiff.diffusion.schedules import NoiseSchedule


@register("prediction", "epsilon")
@dataclass(frozen=True)
class EpsilonPrediction(Prediction):
    """Prediction of the noise (Ho et al. 2020): `x0 = (x - sigma * epsilon) / alpha`.

    It fits schedules with signal left at level 1, such as the linear one.

    Example:
        >>> from pgdiff import DiffusionProcess
        >>> from pgdiff.diffusion import EpsilonPrediction, LinearSchedule
        >>> process = DiffusionProcess(
        ...     noise_schedule=LinearSchedule(), prediction=EpsilonPrediction()
        ... )
    """

    def to_x0(self, output: Signal, x: Signal, alpha: Factor, sigma: Factor) -> Signal:
        """Return `(x - sigma * output) / alpha`."""
        return (x - sigma * output) / alpha

    def target(self, x0: Signal, epsilon: Signal, alpha: Factor, sigma: Factor) -> Signal:
        """Return the noise."""
        return epsilon

    def gain(self, alpha: Factor, sigma: Factor) -> Factor:
        """Return `sigma / alpha`."""
        return sigma / alpha

    def check(self, noise_schedule: NoiseSchedule) -> None:
        """Raise if a schedule has no signal at level 1, where x0 would be 0/0."""
        if float(noise_schedule.alpha(torch.ones((), dtype=torch.float64))) < 1e-6:
            raise PgdiffError(
                "`prediction` must not be 'epsilon' with a schedule whose alpha(1) is 0, because "
                f"the clean value is undefined there. Got {noise_schedule!r}. Use 'x0' or 'edm', "
                "or the 'linear' schedule."
            )
