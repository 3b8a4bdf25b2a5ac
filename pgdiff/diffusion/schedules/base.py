"""The noise schedule protocol: signal and noise of a token at a noise level.

A noisy token is `x = alpha(level) * x0 + sigma(level) * epsilon`. Level 0 is clean, level 1 the
schedule's noisiest. All formulas are elementwise, so that every token may have a separate level.
"""

from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from pgdiff.core.validation import PgdiffError, check_range

LEAK = 1e-3
"""Largest allowed signal share `alpha^2 / (alpha^2 + sigma^2)` at level 1."""


@runtime_checkable
class NoiseSchedule(Protocol):
    """Signal and noise at levels in [0, 1], elementwise for tensors of any shape.

    Example:
        >>> import torch
        >>> from pgdiff.diffusion import CosineSchedule, NoiseSchedule
        >>> isinstance(CosineSchedule(), NoiseSchedule)
        True
    """

    def alpha(self, level: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        """Return the factor of the clean value: 1 at level 0, never rising."""
        ...

    def sigma(self, level: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        """Return the standard deviation of the noise: 0 at level 0, rising."""
        ...

    def log_snr(self, level: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        """Return `log(alpha^2 / sigma^2)`: infinite at level 0, falling; -infinite at alpha 0."""
        ...

    def level_at(self, log_snr: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        """Return the inverse of `log_snr`, clamped to [0, 1]."""
        ...


def factors(
    noise_schedule: NoiseSchedule, level: Float[Tensor, "#batch tokens"]
) -> tuple[Float[Tensor, "#batch tokens 1"], Float[Tensor, "#batch tokens 1"]]:
    """Return alpha and sigma of every token, broadcastable against its features."""
    return noise_schedule.alpha(level)[..., None], noise_schedule.sigma(level)[..., None]


def add_noise(
    noise_schedule: NoiseSchedule,
    x0: Float[Tensor, "batch tokens features"],
    epsilon: Float[Tensor, "batch tokens features"],
    level: Float[Tensor, "#batch tokens"],
) -> Float[Tensor, "batch tokens features"]:
    """Return the noisy sample `alpha * x0 + sigma * epsilon` at every token's level."""
    alpha, sigma = factors(noise_schedule, level)
    return alpha * x0 + sigma * epsilon


def level_of_noise(noise_schedule: NoiseSchedule, deviation: float) -> float:
    """Return the level at which `sigma / alpha` equals a standard deviation.

    At this level a sample divided by alpha is its clean value plus noise of that deviation.

    Args:
        noise_schedule: signal and noise at a level.
        deviation: standard deviation of the noise, in normalised units, above 0.

    Example:
        >>> from pgdiff.diffusion import FlowSchedule, level_of_noise
        >>> round(level_of_noise(FlowSchedule(), 1.0), 6)
        0.5
    """
    check_range("deviation", deviation, low=0.0, open_low=True)
    log_snr = -2 * torch.tensor(deviation, dtype=torch.float64).log()
    return float(noise_schedule.level_at(log_snr))


def check_leak(noise_schedule: NoiseSchedule, *, allow_leak: bool) -> None:
    """Raise if a schedule has signal left at its noisiest level.

    Sampling starts from pure noise. With signal left at level 1 this start has the wrong
    distribution, and the error remains in every sample with any solver (Lin et al. 2024, "Common
    diffusion noise schedules and sample steps are flawed").

    Raises:
        PgdiffError: more than 0.1 % of the variance at level 1 is signal, for data of variance 1.
    """
    share = float(torch.sigmoid(noise_schedule.log_snr(torch.ones((), dtype=torch.float64))))
    if share > LEAK and not allow_leak:
        raise PgdiffError(
            f"The signal's share of the variance at level 1 must be at most {LEAK:g}, because "
            f"sampling starts there from pure noise. Got {share:.3g} for {noise_schedule!r}. Use "
            "more noise, or pass allow_leak=True."
        )
