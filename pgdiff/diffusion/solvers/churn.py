"""Stochastic churn (Karras et al. 2022, "Elucidating the design space", algorithm 2)."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch

from pgdiff.core.registry import from_config, register
from pgdiff.core.validation import PgdiffError, check_range
from pgdiff.diffusion.schedules import NoiseSchedule
from pgdiff.diffusion.solvers.base import FIRST_ORDER_BELOW, Factor, Levels, Signal, Solver, Step
from pgdiff.diffusion.solvers.heun import Heun


@register("solver", "churn")
@dataclass(frozen=True, kw_only=True)
class Churn:
    """Noise that is added before each step of another solver.

    The noise rises by a factor `1 + min(churn / N, sqrt(2) - 1)` in units of `sigma / alpha`, with
    N the number of rows in which the token moves, but not above level 1. The inner solver starts
    from the noisier sample and its level. Tokens are left unchanged if they stay, if their `sigma /
    alpha` is outside `[low, high]`, or if their alpha is near 0.

    The defaults are those of policy-guided diffusion's code (Jackson et al. 2024) for 256 rows; in
    samplings of fewer than 194 rows the factor is sqrt(2) in every row. That code takes the
    predictor's step from the sample before the churn, unlike the algorithm.

    Attributes:
        churn: S_churn of the paper, total amount of added noise; 0 adds none.
        low: S_tmin, smallest `sigma / alpha` at which noise is added.
        high: S_tmax, largest `sigma / alpha` at which noise is added.
        noise_scale: S_noise, standard deviation of the added noise; slightly above 1 it compensates
            that networks remove too much noise.
        solver: solver of the step from the noisier sample.

    Example:
        >>> from pgdiff import Sampling
        >>> from pgdiff.diffusion import Churn, Heun
        >>> sampling = Sampling(steps=64, solver=Churn(churn=20.0, solver=Heun()))
    """

    churn: float = 80.0
    low: float = 0.05
    high: float = 50.0
    noise_scale: float = 1.003
    solver: Solver = field(default_factory=Heun)

    def __post_init__(self) -> None:
        if isinstance(self.solver, Mapping):  # from YAML and the command line
            object.__setattr__(self, "solver", from_config("solver", self.solver))
        if not isinstance(self.solver, Solver):
            raise PgdiffError(f"`solver` must be a solver, such as Heun(). Got {self.solver!r}.")
        check_range("churn", self.churn, low=0.0)
        check_range("low", self.low, low=0.0)
        check_range("high", self.high, low=self.low)
        check_range("noise_scale", self.noise_scale, low=0.0)

    def check(self, *, noise_schedule: NoiseSchedule, distilled: bool) -> None:
        """Raise if the inner solver does not fit."""
        if hasattr(self.solver, "check"):
            self.solver.check(noise_schedule=noise_schedule, distilled=distilled)

    def begin(self, levels: Levels) -> tuple[Factor, Any]:
        """Return every token's factor minus 1, and the inner solver's state."""
        rows = (levels[1:] < levels[:-1]).sum(dim=0).clamp(min=1)
        gamma = (self.churn / rows.to(levels.dtype)).clamp(max=math.sqrt(2) - 1)
        return gamma[..., None], self.solver.begin(levels)

    def step(self, at: Step, state: tuple[Factor, Any]) -> tuple[Signal, tuple[Factor, Any]]:
        """Add noise, then take the inner solver's step."""
        gamma, inner = state
        stepped, inner = self.solver.step(self._raised(at, gamma), inner)
        return stepped, (gamma, inner)

    def _raised(self, at: Step, gamma: Factor) -> Step:
        """Return the step from the noisier sample."""
        alpha = at.alpha.clamp(min=FIRST_ORDER_BELOW)
        scale = at.sigma / alpha
        within = (scale >= self.low) & (scale <= self.high) & (at.alpha >= FIRST_ORDER_BELOW)
        churned = at.moving & within & (gamma > 0)
        log_snr = at.noise_schedule.log_snr(at.level) - 2 * torch.log1p(gamma[..., 0])
        # `level_at` may round to just below the token's level.
        level_hat = torch.maximum(at.noise_schedule.level_at(log_snr), at.level)
        point = replace(at, level=torch.where(churned[..., 0], level_hat, at.level))
        # The forward process from the level to the raised one, with scaled noise.
        share = point.alpha / alpha
        added = (point.sigma.square() - (share * at.sigma).square()).clamp(min=0.0).sqrt()
        x_hat = share * at.x + self.noise_scale * added * at.noise()
        return replace(point, x=torch.where(churned, x_hat, at.x))
