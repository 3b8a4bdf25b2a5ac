"""The prediction of EDM's preconditioned network."""

from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from pgdiff.core.registry import register
from pgdiff.core.validation import check_range
from pgdiff.diffusion.predictions.base import Factor, Prediction, Signal


@register("prediction", "edm")
@dataclass(frozen=True, kw_only=True)
class EDMPrediction(Prediction):
    """EDM's preconditioning: the network's input and target have variance 1 at every level.

    Karras et al. (2022), table 1, last column, gives c_in, c_skip and c_out for samples
    `x0 + s * epsilon`. With `x / alpha` for the sample and `s = sigma / alpha` the formulas hold
    for any alpha and sigma, also at 0, and so for every schedule. With `sigma_data` 1 and a
    variance-preserving schedule the output is -v.

    Attributes:
        sigma_data: standard deviation of the normalised data, or `[features]`, one for each
            feature. The paper uses 0.5; 1 fits the "standard" normaliser.

    Example:
        >>> import torch
        >>> from pgdiff.diffusion import EDMPrediction
        >>> x, one, zero = torch.full((1, 1, 1), 3.0), torch.ones(1, 1, 1), torch.zeros(1, 1, 1)
        >>> EDMPrediction().to_x0(zero, x, alpha=one, sigma=zero).item()
        3.0
    """

    sigma_data: float | Float[Tensor, " features"] = 0.5

    def __post_init__(self) -> None:
        value = self.sigma_data
        for deviation in value.tolist() if isinstance(value, Tensor) else [value]:
            check_range("sigma_data", deviation, low=0.0, open_low=True)

    def of_features(self, factor: Float[Tensor, " features"]) -> "EDMPrediction":
        """Return the prediction with `sigma_data` multiplied by the features' factors."""
        if bool((factor == 1).all()):
            return self
        return replace(self, sigma_data=self.sigma_data * factor)

    def _data(self, like: Tensor) -> float | Tensor:
        value = self.sigma_data
        return value.to(like) if isinstance(value, Tensor) else value

    def _spread(self, alpha: Tensor, sigma: Tensor) -> Tensor:
        """Return the standard deviation of the sample."""
        return torch.hypot(alpha * self._data(alpha), sigma)

    def scale_input(self, x: Signal, alpha: Factor, sigma: Factor) -> Signal:
        """Return the sample at unit variance (c_in)."""
        return x / self._spread(alpha, sigma)

    def to_x0(self, output: Signal, x: Signal, alpha: Factor, sigma: Factor) -> Signal:
        """Return the best linear estimate from `x` (c_skip) plus the scaled output (c_out)."""
        skip = alpha * (self._data(x) / self._spread(alpha, sigma)) ** 2
        return skip * x + self.gain(alpha, sigma) * output

    def target(self, x0: Signal, epsilon: Signal, alpha: Factor, sigma: Factor) -> Signal:
        """Return `(x0 - skip * x) / gain`, in which a factor sigma cancels."""
        mixed = sigma / self._data(x0) * x0 - alpha * self._data(x0) * epsilon
        return mixed / self._spread(alpha, sigma)

    def gain(self, alpha: Factor, sigma: Factor) -> Factor:
        """Return the standard deviation of the linear estimate's error (c_out)."""
        return sigma * self._data(sigma) / self._spread(alpha, sigma)
