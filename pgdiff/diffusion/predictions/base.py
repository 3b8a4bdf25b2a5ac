"""What a network's raw output means, and how it becomes the clean estimate x0_hat.

With `x = alpha * x0 + sigma * epsilon`; `alpha` and `sigma` broadcast against `x`. The rest of the
package knows only x0_hat.
"""

from collections.abc import Callable
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from pgdiff.diffusion.schedules import NoiseSchedule, factors
from pgdiff.validation import PgdiffError

Signal = Float[Tensor, "batch tokens features"]
Factor = Float[Tensor, "#batch tokens #features"]


@runtime_checkable
class Prediction(Protocol):
    """A quantity that a network is trained to give; a frozen, registered dataclass.

    A class that inherits from this one need not write `scale_input`, `of_features` and `check`.
    """

    def scale_input(self, x: Signal, alpha: Factor, sigma: Factor) -> Signal:
        """What the network sees of `x`: the sample itself."""
        return x

    def to_x0(self, output: Signal, x: Signal, alpha: Factor, sigma: Factor) -> Signal:
        """Clean estimate from the network's output at `x`; affine in the output."""
        ...

    def target(self, x0: Signal, epsilon: Signal, alpha: Factor, sigma: Factor) -> Signal:
        """What the output should be; linear in `x0` and `epsilon`."""
        ...

    def gain(self, alpha: Factor, sigma: Factor) -> Factor:
        """How far x0_hat moves when the output moves by one, without its sign.

        It turns a loss weight on the error of x0_hat into one on the error of the output.
        """
        ...

    def of_features(self, factor: Float[Tensor, " features"]) -> "Prediction":
        """The same where normalised features are made so much larger or smaller.

        Args:
            factor: of each feature (`Normalizer.factor`).
        """
        return self

    def check(self, schedule: NoiseSchedule) -> None:
        """Refuse a schedule under which the clean estimate is wrong or undefined at some level."""
        return None


def check_law(
    name: str,
    schedule: NoiseSchedule,
    law: Callable[[Tensor, Tensor], Tensor],
    *,
    fault: str,
) -> None:
    """Refuse a schedule unless a law of its alpha and sigma is 1 at every level.

    Args:
        name: the prediction's name.
        schedule: signal and noise at a level.
        law: what should be 1, from alpha and sigma.
        fault: what a schedule that breaks the law does, for the message.

    Raises:
        PgdiffError: the law is broken.
    """
    level = torch.linspace(0, 1, 101, dtype=torch.float64)
    value = law(schedule.alpha(level), schedule.sigma(level))
    if not torch.allclose(value, torch.ones_like(value), atol=1e-6):
        raise PgdiffError(
            f"`prediction` must not be '{name}' with a schedule that {fault}. Got {schedule!r}. "
            "'x0' and 'edm' fit every schedule."
        )


def clean_estimate(
    network: Callable[[Signal, Float[Tensor, "#batch tokens"]], Signal],
    x: Signal,
    level: Float[Tensor, "#batch tokens"],
    *,
    schedule: NoiseSchedule,
    prediction: Prediction,
) -> Signal:
    """Clean estimate x0_hat of noisy tokens: the network between the prediction's two ends."""
    alpha, sigma = factors(schedule, level)
    output = network(prediction.scale_input(x, alpha, sigma), level)
    return prediction.to_x0(output, x, alpha, sigma)
