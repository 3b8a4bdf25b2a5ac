"""The prediction protocol: a network's raw output and its conversion to the clean estimate x0_hat.

Noisy tokens are `x = alpha * x0 + sigma * epsilon`; `alpha` and `sigma` broadcast against `x`. The
rest of the package uses x0_hat only.
"""

from collections.abc import Callable
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from pgdiff.core.validation import PgdiffError
from pgdiff.diffusion.schedules import NoiseSchedule, factors

Signal = Float[Tensor, "batch tokens features"]
Factor = Float[Tensor, "#batch tokens #features"]


@runtime_checkable
class Prediction(Protocol):
    """The quantity that a network is trained to output; a frozen, registered dataclass.

    Subclasses inherit `scale_input`, `of_features` and `check`.
    """

    def scale_input(self, x: Signal, alpha: Factor, sigma: Factor) -> Signal:
        """Return the network's input for a sample `x`; by default the sample itself."""
        return x

    def to_x0(self, output: Signal, x: Signal, alpha: Factor, sigma: Factor) -> Signal:
        """Return the clean estimate from the network's output at `x`; affine in the output."""
        ...

    def target(self, x0: Signal, epsilon: Signal, alpha: Factor, sigma: Factor) -> Signal:
        """Return the training target of the output; linear in `x0` and `epsilon`."""
        ...

    def gain(self, alpha: Factor, sigma: Factor) -> Factor:
        """Return the absolute change of x0_hat for a unit change of the output.

        It turns a loss weight on the error of x0_hat into a weight on the error of the output.
        """
        ...

    def of_features(self, factor: Float[Tensor, " features"]) -> "Prediction":
        """Return the prediction for normalised features that are multiplied by `factor`.

        Args:
            factor: factor of each feature (`Normalizer.factor`).
        """
        return self

    def check(self, noise_schedule: NoiseSchedule) -> None:
        """Raise if the clean estimate is wrong or undefined at some level of a schedule."""
        return None


def check_law(
    name: str,
    noise_schedule: NoiseSchedule,
    law: Callable[[Tensor, Tensor], Tensor],
    *,
    fault: str,
) -> None:
    """Raise unless a function of a schedule's alpha and sigma is 1 at every level.

    Args:
        name: name of the prediction.
        noise_schedule: signal and noise at a level.
        law: function of alpha and sigma that must be 1.
        fault: property of schedules that violate the law, for the message.
    """
    level = torch.linspace(0, 1, 101, dtype=torch.float64)
    value = law(noise_schedule.alpha(level), noise_schedule.sigma(level))
    if not torch.allclose(value, torch.ones_like(value), atol=1e-6):
        raise PgdiffError(
            f"`prediction` must not be '{name}' with a schedule that {fault}. Got "
            f"{noise_schedule!r}. Use 'x0' or 'edm', which fit every schedule."
        )


def clean_estimate(
    network: Callable[[Signal, Float[Tensor, "#batch tokens"]], Signal],
    x: Signal,
    level: Float[Tensor, "#batch tokens"],
    *,
    noise_schedule: NoiseSchedule,
    prediction: Prediction,
) -> Signal:
    """Return the clean estimate x0_hat of noisy tokens from a network and its prediction."""
    alpha, sigma = factors(noise_schedule, level)
    output = network(prediction.scale_input(x, alpha, sigma), level)
    return prediction.to_x0(output, x, alpha, sigma)
