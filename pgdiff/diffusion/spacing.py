"""Spacings: which levels a token visits from noise to data.

A spacing gives one falling column of levels; a level schedule says when each token walks down it.
"""

import math
from dataclasses import dataclass
from fractions import Fraction
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from pgdiff.diffusion.schedules import NoiseSchedule
from pgdiff.registry import register
from pgdiff.validation import PgdiffError, check_positive_int, check_range

Column = Float[Tensor, " rows"]
DOUBLE = torch.float64


@runtime_checkable
class Spacing(Protocol):
    """Where the steps lie; a frozen, registered dataclass."""

    def levels(self, steps: int, *, schedule: NoiseSchedule) -> Column:
        """Return `steps + 1` levels in float64, falling strictly from exactly 1 to exactly 0."""
        ...


@register("spacing", "uniform")
@dataclass(frozen=True)
class UniformSpacing:
    """Equal steps of the level."""

    def levels(self, steps: int, *, schedule: NoiseSchedule) -> Column:
        """Return the same column for every schedule."""
        return torch.linspace(1.0, 0.0, check_positive_int("steps", steps) + 1, dtype=DOUBLE)


@register("spacing", "log_snr")
@dataclass(frozen=True, kw_only=True)
class LogSnrSpacing:
    """Equal steps of the logarithm of the signal-to-noise ratio, then one step to clean.

    The ratio itself runs from 0 to infinity, so that the steps lie between two bounds (Lu et al.
    2022, "DPM-Solver", section 3.4). Sampling starts from noise alone: the first level is 1 in
    place of that at `low`, so the first step is longer where the schedule is noisier than `low`.
    Between the two there is next to no signal, and a call of the network would learn nothing.

    Attributes:
        high: log_snr from which the last step goes to level 0.
        low: log_snr at the noisy end, raised to that of level 1 if the schedule ends before.
    """

    high: float = 12.0
    low: float = -12.0

    def __post_init__(self) -> None:
        check_range("low", self.low)
        check_range("high", self.high, low=self.low, open_low=True)

    def levels(self, steps: int, *, schedule: NoiseSchedule) -> Column:
        """Return levels at equal distances in log_snr, but for the first and the last step."""
        low = max(self.low, _log_snr_at_1(schedule))
        if low >= self.high:
            raise PgdiffError(
                f"`high` must be above the log_snr of level 1, which is {low:.4g} for "
                f"{schedule!r}. Got {self.high}."
            )
        steps = check_positive_int("steps", steps)
        log_snr = torch.linspace(low, self.high, steps, dtype=DOUBLE)
        return _column(log_snr, schedule, "high")


@register("spacing", "karras")
@dataclass(frozen=True, kw_only=True)
class KarrasSpacing:
    """Equal steps of a root of `sigma / alpha` (Karras et al. 2022, eq. 5), then one to clean.

    For any schedule, because only the ratio of noise to signal counts. As in `LogSnrSpacing` the
    first level is 1 in place of that at `sigma_max`.

    Attributes:
        sigma_min: `sigma / alpha` from which the last step goes to level 0.
        sigma_max: `sigma / alpha` at the noisy end, lowered to that of level 1 if the schedule ends
            before.
        rho: how much the levels crowd towards clean; 1 is equal steps of `sigma / alpha`.
    """

    sigma_min: float = 0.002
    sigma_max: float = 80.0
    rho: float = 7.0

    def __post_init__(self) -> None:
        check_range("sigma_min", self.sigma_min, low=0.0, open_low=True)
        check_range("sigma_max", self.sigma_max, low=self.sigma_min, open_low=True)
        check_range("rho", self.rho, low=1.0)

    def levels(self, steps: int, *, schedule: NoiseSchedule) -> Column:
        """Return the levels at which `sigma / alpha` is eq. 5's."""
        reached = math.exp(min(-_log_snr_at_1(schedule) / 2, math.log(self.sigma_max)))
        if reached <= self.sigma_min:
            raise PgdiffError(
                f"`sigma_min` must be below the sigma / alpha of level 1, which is {reached:.4g} "
                f"for {schedule!r}. Got {self.sigma_min}."
            )
        steps = check_positive_int("steps", steps)
        ends = reached ** (1 / self.rho), self.sigma_min ** (1 / self.rho)
        ratio = torch.linspace(*ends, steps, dtype=DOUBLE) ** self.rho
        return _column(-2 * ratio.log(), schedule, "sigma_min")


@register("spacing", "trailing")
@dataclass(frozen=True, kw_only=True)
class TrailingSpacing:
    """Equal steps of a discrete-time code, counted down from its noisiest ("trailing" elsewhere).

    Of N steps row m has level `round(K - m K / N) / K`, half to even: every level is an entry of a
    table of K = `train_steps` (Lin et al. 2024, "Common diffusion noise schedules and sample steps
    are flawed", table 2).

    Attributes:
        train_steps: number of noise levels in training.
    """

    train_steps: int = 1000

    def __post_init__(self) -> None:
        check_positive_int("train_steps", self.train_steps)

    def levels(self, steps: int, *, schedule: NoiseSchedule) -> Column:
        """Return levels on the grid of training, the same for every schedule."""
        size = self.train_steps
        if check_positive_int("steps", steps) > size:
            raise PgdiffError(f"`steps` must be at most `train_steps`, {size}. Got {steps}.")
        # In fractions: in floats a half would be rounded by chance.
        entries = [round(Fraction(size * left, steps)) for left in range(steps, -1, -1)]
        return torch.tensor(entries, dtype=DOUBLE) / size


def _log_snr_at_1(schedule: NoiseSchedule) -> float:
    return float(schedule.log_snr(torch.ones((), dtype=DOUBLE)))


def _column(log_snr: Tensor, schedule: NoiseSchedule, field: str) -> Column:
    """Levels at `log_snr`, which rises, but 1 first, and then 0."""
    levels = torch.cat([schedule.level_at(log_snr), torch.zeros(1, dtype=DOUBLE)])
    levels[0] = 1.0
    if not (levels.diff() < 0).all():
        raise PgdiffError(
            f"`{field}` must leave room for {len(log_snr)} different levels of {schedule!r}. Got a "
            "step so small that two of them are equal."
        )
    return levels
