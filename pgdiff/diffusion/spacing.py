"""Spacings: the noise levels that a token visits from noise to data.

A spacing returns one falling column of levels; a level schedule sets the rows of each token.
"""

import math
from dataclasses import dataclass
from fractions import Fraction
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from pgdiff.core.registry import register
from pgdiff.core.validation import PgdiffError, check_positive_int, check_range
from pgdiff.diffusion.schedules import NoiseSchedule

Column = Float[Tensor, " rows"]
DOUBLE = torch.float64


@runtime_checkable
class Spacing(Protocol):
    """A rule for the noise levels between steps; a frozen, registered dataclass."""

    def levels(self, steps: int, *, noise_schedule: NoiseSchedule) -> Column:
        """Return `steps + 1` levels in float64, falling strictly from exactly 1 to exactly 0."""
        ...


@register("spacing", "uniform")
@dataclass(frozen=True)
class UniformSpacing:
    """Equal steps of the level.

    Example:
        >>> from pgdiff.diffusion import CosineSchedule, UniformSpacing
        >>> UniformSpacing().levels(4, noise_schedule=CosineSchedule()).tolist()
        [1.0, 0.75, 0.5, 0.25, 0.0]
    """

    def levels(self, steps: int, *, noise_schedule: NoiseSchedule) -> Column:
        """Return equally spaced levels for any schedule."""
        return torch.linspace(1.0, 0.0, check_positive_int("steps", steps) + 1, dtype=DOUBLE)


@register("spacing", "log_snr")
@dataclass(frozen=True, kw_only=True)
class LogSnrSpacing:
    """Equal steps of the logarithm of the signal-to-noise ratio, then one step to clean.

    The ratio itself runs from 0 to infinity, so that the steps lie between two bounds (Lu et al.
    2022, "DPM-Solver", section 3.4). Sampling starts from pure noise: the first level is 1 instead
    of the level at `low`, so that the first step is longer if the schedule is noisier than `low`.
    In between is almost no signal, and an additional call of the network would be of no use.

    Attributes:
        high: log_snr from which the last step goes to level 0.
        low: log_snr at the noisy end, raised to the log_snr of level 1 if that is higher.

    Example:
        >>> from pgdiff.diffusion import CosineSchedule, LogSnrSpacing
        >>> levels = LogSnrSpacing(high=6.0).levels(4, noise_schedule=CosineSchedule())
        >>> levels.shape, float(levels[0]), float(levels[-1])
        (torch.Size([5]), 1.0, 0.0)
    """

    high: float = 12.0
    low: float = -12.0

    def __post_init__(self) -> None:
        check_range("low", self.low)
        check_range("high", self.high, low=self.low, open_low=True)

    def levels(self, steps: int, *, noise_schedule: NoiseSchedule) -> Column:
        """Return levels at equal distances in log_snr, except for the first and the last step."""
        low = max(self.low, _log_snr_at_1(noise_schedule))
        if low >= self.high:
            raise PgdiffError(
                f"`high` must be above the log_snr of level 1, {low:.4g} for {noise_schedule!r}. "
                f"Got {self.high}."
            )
        steps = check_positive_int("steps", steps)
        log_snr = torch.linspace(low, self.high, steps, dtype=DOUBLE)
        return _column(log_snr, noise_schedule, "high")


@register("spacing", "karras")
@dataclass(frozen=True, kw_only=True)
class KarrasSpacing:
    """Equal steps of a root of `sigma / alpha` (Karras et al. 2022, eq. 5), then one to clean.

    It fits any schedule, because only the ratio of noise to signal matters. As in `LogSnrSpacing`
    the first level is 1 instead of the level at `sigma_max`.

    Attributes:
        sigma_min: `sigma / alpha` from which the last step goes to level 0.
        sigma_max: `sigma / alpha` at the noisy end, lowered to the ratio of level 1 if that is
            smaller.
        rho: root; larger values place more levels near clean, 1 gives equal steps of `sigma /
            alpha`.

    Example:
        >>> from pgdiff.diffusion import EDMSchedule, KarrasSpacing
        >>> levels = KarrasSpacing().levels(4, noise_schedule=EDMSchedule())
        >>> levels.shape, float(levels[0]), float(levels[-1])
        (torch.Size([5]), 1.0, 0.0)
    """

    sigma_min: float = 0.002
    sigma_max: float = 80.0
    rho: float = 7.0

    def __post_init__(self) -> None:
        check_range("sigma_min", self.sigma_min, low=0.0, open_low=True)
        check_range("sigma_max", self.sigma_max, low=self.sigma_min, open_low=True)
        check_range("rho", self.rho, low=1.0)

    def levels(self, steps: int, *, noise_schedule: NoiseSchedule) -> Column:
        """Return the levels whose `sigma / alpha` follows eq. 5."""
        reached = math.exp(min(-_log_snr_at_1(noise_schedule) / 2, math.log(self.sigma_max)))
        if reached <= self.sigma_min:
            raise PgdiffError(
                f"`sigma_min` must be below sigma / alpha of level 1, {reached:.4g} for "
                f"{noise_schedule!r}. Got {self.sigma_min}."
            )
        steps = check_positive_int("steps", steps)
        ends = reached ** (1 / self.rho), self.sigma_min ** (1 / self.rho)
        ratio = torch.linspace(*ends, steps, dtype=DOUBLE) ** self.rho
        return _column(-2 * ratio.log(), noise_schedule, "sigma_min")


@register("spacing", "trailing")
@dataclass(frozen=True, kw_only=True)
class TrailingSpacing:
    """Equal steps of a discrete-time code, counted down from its noisiest level ("trailing").

    Of N steps row m has level `round(K - m K / N) / K`, half to even: every level is an entry of a
    table of K = `train_steps` levels (Lin et al. 2024, "Common diffusion noise schedules and sample
    steps are flawed", table 2).

    Attributes:
        train_steps: number of noise levels in training.

    Example:
        >>> from pgdiff.diffusion import CosineSchedule, TrailingSpacing
        >>> TrailingSpacing(train_steps=10).levels(3, noise_schedule=CosineSchedule()).tolist()
        [1.0, 0.7, 0.3, 0.0]
    """

    train_steps: int = 1000

    def __post_init__(self) -> None:
        check_positive_int("train_steps", self.train_steps)

    def levels(self, steps: int, *, noise_schedule: NoiseSchedule) -> Column:
        """Return levels on the training grid, for any schedule."""
        size = self.train_steps
        if check_positive_int("steps", steps) > size:
            raise PgdiffError(f"`steps` must be at most `train_steps`, {size}. Got {steps}.")
        # Fractions round halves exactly; floats would not.
        entries = [round(Fraction(size * left, steps)) for left in range(steps, -1, -1)]
        return torch.tensor(entries, dtype=DOUBLE) / size


def _log_snr_at_1(noise_schedule: NoiseSchedule) -> float:
    return float(noise_schedule.log_snr(torch.ones((), dtype=DOUBLE)))


def _column(log_snr: Tensor, noise_schedule: NoiseSchedule, field: str) -> Column:
    """Return the levels at rising `log_snr`, with the first one set to 1 and a last 0."""
    levels = torch.cat([noise_schedule.level_at(log_snr), torch.zeros(1, dtype=DOUBLE)])
    levels[0] = 1.0
    if not (levels.diff() < 0).all():
        raise PgdiffError(
            f"`{field}` must leave room for {len(log_snr)} different levels of "
            f"{noise_schedule!r}. Got two equal levels. Use fewer steps, or a wider range."
        )
    return levels
