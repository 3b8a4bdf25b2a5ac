"""EDM's preconditioned network."""

from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from pgdiff.diffusion.predictions.base import Factor, Prediction, Signal
from pgdiff.registry import register
from pgdiff.validation import check_range


@register("prediction", "edm")
@dataclass(frozen=True, kw_only=True)
class EDMPrediction(Prediction):
    """Input and target of the network have variance one at every level. Fits every schedule.

    Karras et al. (2022), table 1, last column, gives c_in, c_skip and c_out for samples
    `x0 + s * epsilon`. Such a one is `x / alpha` with `s = sigma / alpha`; put in and multiplied
    out, the formulas hold for any alpha and sigma, and at alpha 0 and sigma 0. With `sigma_data` 1
    and a variance-preserving schedule the output is v with its sign changed.

    Attributes:
        sigma_data: standard deviation of the normalised data; 0.5 is that paper's, 1 fits the
            "standard" normaliser. Of each feature where they differ, `[features]`.
    """

    sigma_data: float | Float[Tensor, " features"] = 0.5

    def __post_init__(self) -> None:
        told = self.sigma_data
        for deviation in told.tolist() if isinstance(told, Tensor) else [told]:
            check_range("sigma_data", deviation, low=0.0, open_low=True)

    def of_features(self, factor: Float[Tensor, " features"]) -> "EDMPrediction":
        """With deviations as small as the fields are made."""
        if bool((factor == 1).all()):
            return self
        return replace(self, sigma_data=self.sigma_data * factor)

    def _data(self, like: Tensor) -> float | Tensor:
        known = self.sigma_data
        return known.to(like) if isinstance(known, Tensor) else known

    def _spread(self, alpha: Tensor, sigma: Tensor) -> Tensor:
        """Standard deviation of the sample."""
        return torch.hypot(alpha * self._data(alpha), sigma)

    def scale_input(self, x: Signal, alpha: Factor, sigma: Factor) -> Signal:
        """c_in: the sample at unit variance."""
        return x / self._spread(alpha, sigma)

    def to_x0(self, output: Signal, x: Signal, alpha: Factor, sigma: Factor) -> Signal:
        """c_skip and c_out: the best guess that is linear in `x`, and a share of the output."""
        skip = alpha * (self._data(x) / self._spread(alpha, sigma)) ** 2
        return skip * x + self.gain(alpha, sigma) * output

    def target(self, x0: Signal, epsilon: Signal, alpha: Factor, sigma: Factor) -> Signal:
        """`(x0 - skip * x) / gain`, of which a factor sigma cancels."""
        mixed = sigma / self._data(x0) * x0 - alpha * self._data(x0) * epsilon
        return mixed / self._spread(alpha, sigma)

    def gain(self, alpha: Factor, sigma: Factor) -> Factor:
        """c_out, the standard deviation of that linear guess's error."""
        return sigma * self._data(sigma) / self._spread(alpha, sigma)
