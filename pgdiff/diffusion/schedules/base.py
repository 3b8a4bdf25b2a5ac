"""What a noise schedule is: how much signal and noise a token holds at a noise level.

A noisy token is `x = alpha(level) * x0 + sigma(level) * epsilon`. Level 0 is clean, level 1 the
schedule's noisiest. All formulas are elementwise, so that every token may have a level of its own.
"""

from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from pgdiff.validation import PgdiffError, check_range

LEAK = 1e-3
"""Most of the signal's share `alpha^2 / (alpha^2 + sigma^2)` that may be left at level 1."""


@runtime_checkable
class NoiseSchedule(Protocol):
    """Signal and noise at a level in [0, 1]; any shape in, the same shape out."""

    def alpha(self, level: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        """Factor of the clean value: 1 at level 0, never rising."""
        ...

    def sigma(self, level: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        """Standard deviation of the noise: 0 at level 0, rising."""
        ...

    def log_snr(self, level: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        """`log(alpha^2 / sigma^2)`: infinite at level 0, falling; -infinite where alpha is 0."""
        ...

    def level_at(self, log_snr: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        """Inverse of `log_snr`, clamped to [0, 1]."""
        ...


def factors(
    schedule: NoiseSchedule, level: Float[Tensor, "#batch tokens"]
) -> tuple[Float[Tensor, "#batch tokens 1"], Float[Tensor, "#batch tokens 1"]]:
    """Return alpha and sigma of every token, broadcastable against its features."""
    return schedule.alpha(level)[..., None], schedule.sigma(level)[..., None]


def add_noise(
    schedule: NoiseSchedule,
    x0: Float[Tensor, "batch tokens features"],
    epsilon: Float[Tensor, "batch tokens features"],
    level: Float[Tensor, "#batch tokens"],
) -> Float[Tensor, "batch tokens features"]:
    """Return the noisy sample `alpha * x0 + sigma * epsilon` at every token's level."""
    alpha, sigma = factors(schedule, level)
    return alpha * x0 + sigma * epsilon


def level_of_noise(schedule: NoiseSchedule, deviation: float) -> float:
    """Level at which a sample, divided by alpha, is its clean value plus noise of this deviation.

    Args:
        schedule: signal and noise at a level.
        deviation: standard deviation of the noise, in normalised units, above 0.
    """
    check_range("deviation", deviation, low=0.0, open_low=True)
    log_snr = -2 * torch.tensor(deviation, dtype=torch.float64).log()
    return float(schedule.level_at(log_snr))


def check_leak(schedule: NoiseSchedule, *, allow_leak: bool) -> None:
    """Refuse a schedule whose noisiest level still holds signal.

    Sampling starts from noise alone. Where data still shine through level 1, that start has the
    wrong law, and the error stays in every sample whatever the solver (Lin et al. 2024, "Common
    diffusion noise schedules and sample steps are flawed").

    Raises:
        PgdiffError: more than 0.1 % of the variance at level 1 is signal, for data of variance 1.
    """
    share = float(torch.sigmoid(schedule.log_snr(torch.ones((), dtype=torch.float64))))
    if share > LEAK and not allow_leak:
        raise PgdiffError(
            f"The signal's share of the variance at level 1 must be at most {LEAK:g}, because "
            f"sampling starts there from noise alone. Got {share:.3g} for {schedule!r}. Use more "
            "noise, or pass allow_leak=True."
        )
