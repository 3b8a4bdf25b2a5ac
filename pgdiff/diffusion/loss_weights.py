"""Loss weights: how much an error counts at a noise level.

Papers give the weight of the squared error of x0_hat. Times `gain^2` it is that of the error of
the network's output, which is what the loss sees; the signal-to-noise ratio is `(alpha / sigma)^2`.
"""

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from pgdiff.registry import register
from pgdiff.validation import check_range

Factor = Float[Tensor, "batch tokens #features"]


@runtime_checkable
class LossWeight(Protocol):
    """Weight of the squared error of a network's output; a frozen, registered dataclass."""

    def weight(self, alpha: Factor, sigma: Factor, gain: Factor) -> Factor:
        """Finite weight of every token.

        Args:
            alpha: factor of the clean value.
            sigma: standard deviation of the noise; 0 at clean tokens.
            gain: how far x0_hat moves when the output moves by one; times its square, a weight on
                the error of x0_hat becomes one on the error of the output.
        """
        ...


@register("loss_weight", "uniform")
@dataclass(frozen=True)
class UniformWeight:
    """Every level's error of the output counts alike."""

    def weight(self, alpha: Factor, sigma: Factor, gain: Factor) -> Factor:
        """One."""
        return torch.ones_like(alpha)


@register("loss_weight", "x0")
@dataclass(frozen=True)
class CleanWeight:
    """Every level's error of x0_hat counts alike, whatever the network's output is."""

    def weight(self, alpha: Factor, sigma: Factor, gain: Factor) -> Factor:
        """The square of the gain."""
        return gain.square()


@register("loss_weight", "min_snr")
@dataclass(frozen=True, kw_only=True)
class MinSnrWeight:
    """`min(SNR, limit)` on the error of x0_hat (Hang et al. 2023, section 3.4).

    Attributes:
        limit: the signal-to-noise ratio above which no level counts more; 5 in that paper.
    """

    limit: float = 5.0

    def __post_init__(self) -> None:
        check_range("limit", self.limit, low=0.0, open_low=True)

    def weight(self, alpha: Factor, sigma: Factor, gain: Factor) -> Factor:
        """The limit at clean tokens, times the square of the gain."""
        return self.limit * _share(alpha, sigma, self.limit) * gain.square()


@register("loss_weight", "edm")
@dataclass(frozen=True, kw_only=True)
class EDMWeight:
    """`(s^2 + sigma_data^2) / (s * sigma_data)^2` with `s = sigma / alpha`, on the error of x0_hat.

    Karras et al. (2022), table 1: with `EDMPrediction` of the same `sigma_data` the error of the
    output counts alike at every level.

    Attributes:
        sigma_data: standard deviation of the normalised data.
        sigma_min: the `s` below which the weight grows no more, so that it stays finite; 0.002 is
            the smallest at which that paper samples.
    """

    sigma_data: float = 0.5
    sigma_min: float = 0.002

    def __post_init__(self) -> None:
        check_range("sigma_data", self.sigma_data, low=0.0, open_low=True)
        check_range("sigma_min", self.sigma_min, low=0.0, open_low=True)

    def weight(self, alpha: Factor, sigma: Factor, gain: Factor) -> Factor:
        """Multiplied out, so that alpha may be 0."""
        sigma = torch.maximum(sigma, alpha * self.sigma_min)
        spread = torch.hypot(alpha * self.sigma_data, sigma)
        return (gain * spread / (sigma * self.sigma_data)).square()


@register("loss_weight", "fused_snr")
@dataclass(frozen=True, kw_only=True)
class FusedSnrWeight:
    """Min-SNR weight in which a clean past counts as signal.

    Chen et al. (2024), "Diffusion Forcing", appendix B.1, by the paper's formulas; the published
    code decays the past once more and starts it otherwise. For causal models whose tokens have
    levels of their own. Under pure noise the weight is not 0: epsilon, whose gain is large there,
    is a poor prediction for it.

    Attributes:
        limit: the signal-to-noise ratio above which no level counts more.
        decay: how much of the past's signal a token keeps for the next one.
    """

    limit: float = 5.0
    decay: float = 0.9

    def __post_init__(self) -> None:
        check_range("limit", self.limit, low=0.0, open_low=True)
        check_range("decay", self.decay, low=0.0, high=1.0, open_high=True)

    def weight(self, alpha: Factor, sigma: Factor, gain: Factor) -> Factor:
        """`limit * S'_t`, times the square of the gain."""
        share = _share(alpha, sigma, self.limit)
        token = torch.arange(alpha.shape[1], device=alpha.device, dtype=alpha.dtype)
        # Past_t-1 = decay * Past_t-2 + (1 - decay) * S_t-1 from nothing, written as a sum.
        age = token[:, None] - 1 - token
        kept = (1 - self.decay) * torch.where(age >= 0, self.decay ** age.clamp(min=0), 0.0)
        past = kept @ share
        # S'_t = 1 - (1 - S_t) (1 - past), multiplied out: a small S_t keeps its digits.
        return self.limit * (share + past * (1 - share)) * gain.square()


def _share(alpha: Tensor, sigma: Tensor, limit: float) -> Tensor:
    """`min(SNR, limit) / limit`, from 0 to 1 (the paper's S_t); 1 at clean tokens."""
    return ((alpha / sigma).square() / limit).clamp(max=1.0)
