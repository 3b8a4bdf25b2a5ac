"""DPM-Solver++ (Lu et al. 2022, "DPM-Solver++: fast solver for guided sampling")."""

from dataclasses import dataclass

import torch

from pgdiff.core.registry import register
from pgdiff.core.validation import PgdiffError
from pgdiff.diffusion.solvers.base import Factor, Levels, Signal, Step
from pgdiff.diffusion.solvers.ddim import ddim

LEAST_RISE = 1e-3
"""Smallest length of the last step, relative to the present one, for a second-order step. The slope
of a shorter one would amplify rounding errors of the estimates."""


@dataclass(frozen=True, eq=False)
class History:
    """The last clean estimate of every token.

    Attributes:
        x0_hat: clean estimate at the start of the token's last step.
        log_ratio: `log(alpha / sigma)` at that estimate; -infinite if the token has no last step or
            if the estimate is from pure noise.
    """

    x0_hat: Signal
    log_ratio: Factor


@register("solver", "dpm_solver")
@dataclass(frozen=True, kw_only=True)
class DPMSolver:
    """DPM-Solver++, algorithm 2 (2M): linear extrapolation of each token's last two estimates.

    A step needs one call of the network. A token that stays keeps its last estimate, so that a
    pause does not change its path. First-order steps are: a token's first step, steps from levels
    with infinite `log(alpha / sigma)`, the step after such a step or after one less than a
    thousandth as long, and the last step into level 0, which returns the clean estimate itself.

    Attributes:
        order: order of the method: 1, which equals DDIM, or 2.

    Example:
        >>> from pgdiff import Sampling
        >>> from pgdiff.diffusion import DPMSolver, LogSnrSpacing
        >>> sampling = Sampling(steps=10, solver=DPMSolver(), spacing=LogSnrSpacing())
    """

    order: int = 2

    def __post_init__(self) -> None:
        if isinstance(self.order, bool) or self.order not in (1, 2):
            raise PgdiffError(f"`order` must be 1 or 2. Got {self.order!r}.")

    def begin(self, levels: Levels) -> None:
        """Return None: the first step has no history."""

    def step(self, at: Step, state: History | None) -> tuple[Signal, History | None]:
        """Return the first-order step with a correction from the last two estimates."""
        first = ddim(at)
        if self.order == 1:
            return first, None
        last = state or History(at.x0_hat, torch.full_like(at.log_ratio, -torch.inf))
        # The distance between the two estimates; with churn the last step ended elsewhere.
        last_rise = at.log_ratio - last.log_ratio
        # With r = last rise / rise and D = x0_hat + (x0_hat - last) / (2 r), the step of the
        # algorithm, (sigma_to / sigma) x - alpha_to (exp(-rise) - 1) D, is DDIM's with D instead
        # of x0_hat. With an infinite last rise it is DDIM's step.
        corrected = at.second_order & (last_rise > LEAST_RISE * at.rise)
        half = torch.where(corrected, at.rise / (2 * last_rise), 0.0)
        stepped = first + (at.alpha_to - at.alpha * at.ratio) * half * (at.x0_hat - last.x0_hat)
        x0_hat = torch.where(at.moving, at.x0_hat, last.x0_hat)
        return stepped, History(x0_hat, torch.where(at.moving, at.log_ratio, last.log_ratio))
