"""Stochastic churn (Karras et al. 2022, "Elucidating the design space", algorithm 2)."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch

from pgdiff.diffusion.schedules import NoiseSchedule
from pgdiff.diffusion.solvers.base import FIRST_ORDER_BELOW, Factor, Levels, Signal, Solver, Step
from pgdiff.diffusion.solvers.heun import Heun
from pgdiff.registry import from_config, register
from pgdiff.validation import PgdiffError, check_range


@register("solver", "churn")
@dataclass(frozen=True, kw_only=True)
class Churn:
    """Raise a token's noise a little before each step, then let another solver take the step.

    The noise rises by a factor `1 + min(churn / N, sqrt(2) - 1)` in units of `sigma / alpha`, with
    N the number of rows in which this token moves; never above level 1. The inner solver starts
    from the raised point and from its level. Tokens that stay, whose `sigma / alpha` is not within
    `[low, high]`, or whose alpha is near 0, are left as they are.

    The defaults are those of policy-guided diffusion's code (Jackson et al. 2024), for 256 rows; in
    fewer than 194 every row rises by the most, sqrt(2).
    It takes the predictor's step from the point before the churn, which is not the algorithm's.

    Attributes:
        churn: S_churn of the paper, how much noise is added in all; 0 adds none.
        low: S_tmin, least `sigma / alpha` that is raised.
        high: S_tmax, largest.
        noise_scale: S_noise, standard deviation of the fresh noise; a little above 1 makes up for
            what networks remove too much.
        solver: takes the step from the raised point.
    """

    churn: float = 80.0
    low: float = 0.05
    high: float = 50.0
    noise_scale: float = 1.003
    solver: Solver = field(default_factory=Heun)

    def __post_init__(self) -> None:
        if isinstance(self.solver, Mapping):  # as YAML and the command line have it
            object.__setattr__(self, "solver", from_config("solver", self.solver))
        if not isinstance(self.solver, Solver):
            raise PgdiffError(f"`solver` must be a solver, such as Heun(). Got {self.solver!r}.")
        check_range("churn", self.churn, low=0.0)
        check_range("low", self.low, low=0.0)
        check_range("high", self.high, low=self.low)
        check_range("noise_scale", self.noise_scale, low=0.0)

    def check(self, *, schedule: NoiseSchedule, distilled: bool) -> None:
        """Refuse what the inner solver refuses."""
        if hasattr(self.solver, "check"):
            self.solver.check(schedule=schedule, distilled=distilled)

    def begin(self, levels: Levels) -> tuple[Factor, Any]:
        """Every token's factor less 1, and the inner solver's state."""
        rows = (levels[1:] < levels[:-1]).sum(dim=0).clamp(min=1)
        gamma = (self.churn / rows.to(levels.dtype)).clamp(max=math.sqrt(2) - 1)
        return gamma[..., None], self.solver.begin(levels)

    def step(self, at: Step, state: tuple[Factor, Any]) -> tuple[Signal, tuple[Factor, Any]]:
        """Raise the noise, then step from there."""
        gamma, inner = state
        stepped, inner = self.solver.step(self._raised(at, gamma), inner)
        return stepped, (gamma, inner)

    def _raised(self, at: Step, gamma: Factor) -> Step:
        """Return the step from the churned point; its estimate is made there."""
        alpha = at.alpha.clamp(min=FIRST_ORDER_BELOW)
        scale = at.sigma / alpha
        within = (scale >= self.low) & (scale <= self.high) & (at.alpha >= FIRST_ORDER_BELOW)
        churned = at.moving & within & (gamma > 0)
        log_snr = at.schedule.log_snr(at.level) - 2 * torch.log1p(gamma[..., 0])
        # `level_at` may round to just below where the token was.
        level_hat = torch.maximum(at.schedule.level_at(log_snr), at.level)
        point = replace(at, level=torch.where(churned[..., 0], level_hat, at.level))
        # The forward law from the level to the raised one, with the noise scaled.
        share = point.alpha / alpha
        added = (point.sigma.square() - (share * at.sigma).square()).clamp(min=0.0).sqrt()
        x_hat = share * at.x + self.noise_scale * added * at.noise()
        return replace(point, x=torch.where(churned, x_hat, at.x))
