"""What a network's raw output means, and how it becomes the clean estimate x0_hat.

With `x = alpha * x0 + sigma * epsilon`; `alpha` and `sigma` broadcast against `x`. The rest of the
package knows only x0_hat.
"""

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from pgdiff.diffusion.schedules import NoiseSchedule
from pgdiff.registry import register
from pgdiff.validation import PgdiffError

Signal = Float[Tensor, "batch tokens features"]
Factor = Float[Tensor, "#batch tokens 1"]


@runtime_checkable
class Prediction(Protocol):
    """A quantity that a network is trained to give."""

    def to_x0(self, output: Signal, x: Signal, alpha: Factor, sigma: Factor) -> Signal:
        """Clean estimate from the network's output at `x`."""
        ...

    def target(self, x0: Signal, epsilon: Signal, alpha: Factor, sigma: Factor) -> Signal:
        """What the output should be."""
        ...

    def check(self, schedule: NoiseSchedule) -> None:
        """Refuse a schedule under which the clean estimate is undefined at some level."""
        ...


@register("prediction", "x0")
@dataclass(frozen=True)
class X0Prediction:
    """The network gives the clean value itself."""

    def to_x0(self, output: Signal, x: Signal, alpha: Factor, sigma: Factor) -> Signal:
        """The output."""
        return output

    def target(self, x0: Signal, epsilon: Signal, alpha: Factor, sigma: Factor) -> Signal:
        """The clean value."""
        return x0

    def check(self, schedule: NoiseSchedule) -> None:
        """Any schedule will do."""


@register("prediction", "epsilon")
@dataclass(frozen=True)
class EpsilonPrediction:
    """The network gives the noise (Ho et al. 2020): `x0 = (x - sigma * epsilon) / alpha`."""

    def to_x0(self, output: Signal, x: Signal, alpha: Factor, sigma: Factor) -> Signal:
        """Solve for the clean value."""
        return (x - sigma * output) / alpha

    def target(self, x0: Signal, epsilon: Signal, alpha: Factor, sigma: Factor) -> Signal:
        """The noise."""
        return epsilon

    def check(self, schedule: NoiseSchedule) -> None:
        """Refuse a schedule that holds no signal at level 1: x0 would be 0/0 there."""
        if float(schedule.alpha(torch.ones((), dtype=torch.float64))) < 1e-6:
            raise PgdiffError(
                "`prediction` must not be 'epsilon' with a schedule whose alpha(1) is 0, because "
                "pure noise says nothing about the clean value. Use 'x0' or 'v', or the "
                f"'linear' schedule. Got {schedule!r}."
            )


@register("prediction", "v")
@dataclass(frozen=True)
class VPrediction:
    """The network gives `v = alpha * epsilon - sigma * x0` (Salimans & Ho 2022, appendix D).

    For variance-preserving schedules, where `alpha^2 + sigma^2 = 1`.
    """

    def to_x0(self, output: Signal, x: Signal, alpha: Factor, sigma: Factor) -> Signal:
        """`x0 = alpha * x - sigma * v`."""
        return alpha * x - sigma * output

    def target(self, x0: Signal, epsilon: Signal, alpha: Factor, sigma: Factor) -> Signal:
        """The velocity of the sample as the angle between signal and noise turns."""
        return alpha * epsilon - sigma * x0

    def check(self, schedule: NoiseSchedule) -> None:
        """Refuse a schedule that does not preserve variance."""
        level = torch.linspace(0, 1, 11, dtype=torch.float64)
        total = schedule.alpha(level).square() + schedule.sigma(level).square()
        if not torch.allclose(total, torch.ones_like(total), atol=1e-6):
            raise PgdiffError(
                "`prediction` must not be 'v' with a schedule that does not preserve variance "
                f"(alpha^2 + sigma^2 = 1). Got {schedule!r}."
            )
