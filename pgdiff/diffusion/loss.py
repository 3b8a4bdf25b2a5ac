"""The training loss, with a noise level for every token."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from pgdiff.core.registry import register
from pgdiff.core.validation import check_range
from pgdiff.diffusion.predictions import Prediction
from pgdiff.diffusion.schedules import NoiseSchedule, factors

Factor = Float[Tensor, "batch tokens #features"]


@runtime_checkable
class LossWeight(Protocol):
    """A weight of the squared error of a network's output; a frozen, registered dataclass."""

    def weight(self, alpha: Factor, sigma: Factor, gain: Factor) -> Factor:
        """Return a finite weight for every token.

        Args:
            alpha: factor of the clean value.
            sigma: standard deviation of the noise; 0 at clean tokens.
            gain: change of x0_hat for a unit change of the output. Its square turns a weight on the
                error of x0_hat into a weight on the error of the output.
        """
        ...


@register("loss_weight", "uniform")
@dataclass(frozen=True)
class UniformWeight:
    """Equal weight of the output's error at every level.

    Example:
        >>> from pgdiff.diffusion import DiffusionProcess, UniformWeight
        >>> DiffusionProcess(loss_weight=UniformWeight()).loss_weight
        UniformWeight()
    """

    def weight(self, alpha: Factor, sigma: Factor, gain: Factor) -> Factor:
        """Return 1."""
        return torch.ones_like(alpha)


@register("loss_weight", "x0")
@dataclass(frozen=True)
class CleanWeight:
    """Equal weight of x0_hat's error at every level, for any prediction.

    Example:
        >>> from pgdiff.diffusion import CleanWeight, DiffusionProcess, VPrediction
        >>> process = DiffusionProcess(prediction=VPrediction(), loss_weight=CleanWeight())
    """

    def weight(self, alpha: Factor, sigma: Factor, gain: Factor) -> Factor:
        """Return the square of the gain."""
        return gain.square()


@register("loss_weight", "min_snr")
@dataclass(frozen=True, kw_only=True)
class MinSnrWeight:
    """Weight `min(SNR, limit)` on the error of x0_hat (Hang et al. 2023, section 3.4).

    Attributes:
        limit: signal-to-noise ratio above which the weight is constant; 5 in the paper.

    Example:
        >>> import torch
        >>> from pgdiff.diffusion import MinSnrWeight
        >>> alpha, sigma = torch.tensor([[[0.8]]]), torch.tensor([[[0.6]]])
        >>> round(float(MinSnrWeight(limit=5.0).weight(alpha, sigma, torch.ones(1, 1, 1))), 3)
        1.778
    """

    limit: float = 5.0

    def __post_init__(self) -> None:
        check_range("limit", self.limit, low=0.0, open_low=True)

    def weight(self, alpha: Factor, sigma: Factor, gain: Factor) -> Factor:
        """Return the weight, `limit` at clean tokens, times the square of the gain."""
        return self.limit * _share(alpha, sigma, self.limit) * gain.square()


@register("loss_weight", "edm")
@dataclass(frozen=True, kw_only=True)
class EDMWeight:
    """EDM's weight on the error of x0_hat (Karras et al. 2022, table 1).

    The weight is `(s^2 + sigma_data^2) / (s * sigma_data)^2` with `s = sigma / alpha`. With an
    `EDMPrediction` of equal `sigma_data`, the error of the output has equal weight at every level.

    Attributes:
        sigma_data: standard deviation of the normalised data.
        sigma_min: value of `s` below which the weight stays constant and so finite; 0.002 is the
            smallest `s` at which the paper samples.

    Example:
        >>> from pgdiff.diffusion import DiffusionProcess, EDMPrediction, EDMWeight
        >>> process = DiffusionProcess(
        ...     prediction=EDMPrediction(sigma_data=1.0), loss_weight=EDMWeight(sigma_data=1.0)
        ... )
    """

    sigma_data: float = 0.5
    sigma_min: float = 0.002

    def __post_init__(self) -> None:
        check_range("sigma_data", self.sigma_data, low=0.0, open_low=True)
        check_range("sigma_min", self.sigma_min, low=0.0, open_low=True)

    def weight(self, alpha: Factor, sigma: Factor, gain: Factor) -> Factor:
        """Return the weight times the square of the gain, multiplied out so that alpha may be 0."""
        sigma = torch.maximum(sigma, alpha * self.sigma_min)
        spread = torch.hypot(alpha * self.sigma_data, sigma)
        return (gain * spread / (sigma * self.sigma_data)).square()


@register("loss_weight", "fused_snr")
@dataclass(frozen=True, kw_only=True)
class FusedSnrWeight:
    """Min-SNR weight in which clean past tokens count as signal.

    Chen et al. (2024), "Diffusion Forcing", appendix B.1, by the paper's formulas; the published
    code decays the past once more and starts it differently. Use it for causal models with a level
    for each token. The weight is not 0 at pure noise: combine it with another prediction than
    epsilon, whose gain is large there.

    Attributes:
        limit: signal-to-noise ratio above which the weight is constant.
        decay: share of the past's signal that a token passes on to the next, in [0, 1).

    Example:
        >>> from pgdiff.diffusion import DiffusionProcess, ForcingLevels, FusedSnrWeight
        >>> process = DiffusionProcess(
        ...     level_distribution=ForcingLevels(), loss_weight=FusedSnrWeight(decay=0.9)
        ... )
    """

    limit: float = 5.0
    decay: float = 0.9

    def __post_init__(self) -> None:
        check_range("limit", self.limit, low=0.0, open_low=True)
        check_range("decay", self.decay, low=0.0, high=1.0, open_high=True)

    def weight(self, alpha: Factor, sigma: Factor, gain: Factor) -> Factor:
        """Return `limit * S'_t`, times the square of the gain."""
        share = _share(alpha, sigma, self.limit)
        token = torch.arange(alpha.shape[1], device=alpha.device, dtype=alpha.dtype)
        # Past_t-1 = decay * Past_t-2 + (1 - decay) * S_t-1 from 0, written as a sum.
        age = token[:, None] - 1 - token
        kept = (1 - self.decay) * torch.where(age >= 0, self.decay ** age.clamp(min=0), 0.0)
        past = kept @ share
        # S'_t = 1 - (1 - S_t) (1 - past), multiplied out: a small S_t keeps its digits.
        return self.limit * (share + past * (1 - share)) * gain.square()


def _share(alpha: Tensor, sigma: Tensor, limit: float) -> Tensor:
    """Return `min(SNR, limit) / limit`, from 0 to 1 (the paper's S_t); 1 at clean tokens."""
    return ((alpha / sigma).square() / limit).clamp(max=1.0)


Signal = Float[Tensor, "batch tokens features"]
Level = Float[Tensor, "batch tokens"]


def diffusion_loss(
    network: Callable[[Signal, Level], Signal],
    x0: Signal,
    level: Level,
    epsilon: Signal,
    *,
    noise_schedule: NoiseSchedule,
    prediction: Prediction,
    given: Bool[Tensor, "batch tokens features"],
    valid: Bool[Tensor, "batch tokens"] | None = None,
    loss_weight: LossWeight | None = None,
) -> Float[Tensor, ""]:
    """Return the mean squared error of the network's output, without given features and padding.

    Args:
        network: raw output at a noisy sample and its levels.
        x0: clean, normalised tokens.
        level: level of every token.
        epsilon: standard normal noise.
        noise_schedule: signal and noise at a level.
        prediction: meaning of the output.
        given: given features, which are clean in the input and have weight 0 in the loss. Tokens
            given as a whole get level 0.
        valid: False at padding, which has weight 0 too.
        loss_weight: weight of an error by level; uniform if None.

    Example:
        >>> import torch
        >>> from pgdiff.diffusion import CosineSchedule, X0Prediction, diffusion_loss
        >>> x0, level = torch.ones(2, 3, 1), torch.full((2, 3), 0.5)
        >>> loss = diffusion_loss(
        ...     lambda x, level: torch.zeros_like(x), x0, level, torch.zeros_like(x0),
        ...     noise_schedule=CosineSchedule(), prediction=X0Prediction(), given=x0 < 0,
        ... )
        >>> float(loss)
        1.0
    """
    total, count = diffusion_loss_terms(
        network,
        x0,
        level,
        epsilon,
        noise_schedule=noise_schedule,
        prediction=prediction,
        given=given,
        valid=valid,
        loss_weight=loss_weight,
    )
    return total / count.clamp(min=1.0)


def diffusion_loss_terms(
    network: Callable[[Signal, Level], Signal],
    x0: Signal,
    level: Level,
    epsilon: Signal,
    *,
    noise_schedule: NoiseSchedule,
    prediction: Prediction,
    given: Bool[Tensor, "batch tokens features"],
    valid: Bool[Tensor, "batch tokens"] | None = None,
    loss_weight: LossWeight | None = None,
) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
    """Return the sum of weighted squared errors and the number of features that count.

    The sums and the counts of parts of a batch, such as those of several processes, add up to the
    loss of the whole batch. The arguments are those of `diffusion_loss`.
    """
    level = torch.where(given.all(dim=-1), 0.0, level)
    alpha, sigma = factors(noise_schedule, level)
    x = torch.where(given, x0, alpha * x0 + sigma * epsilon)
    output = network(prediction.scale_input(x, alpha, sigma), level)
    error = output - prediction.target(x0, epsilon, alpha, sigma)
    weight = (loss_weight or UniformWeight()).weight(alpha, sigma, prediction.gain(alpha, sigma))
    counted = (~given).to(x0.dtype)
    if valid is not None:
        counted = counted * valid[..., None]
    # Divide by the number of features, not by the sum of weights, so that weights scale the loss.
    return (counted * weight * error.square()).sum(), counted.sum()
