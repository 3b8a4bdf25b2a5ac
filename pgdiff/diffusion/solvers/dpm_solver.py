"""DPM-Solver++ (Lu et al. 2022, "DPM-Solver++: fast solver for guided sampling")."""

from dataclasses import dataclass

import torch

from pgdiff.diffusion.solvers.base import Factor, Levels, Signal, Step
from pgdiff.diffusion.solvers.ddim import ddim
from pgdiff.registry import register
from pgdiff.validation import PgdiffError

LEAST_RISE = 1e-3
"""A last step shorter than this share of the present one tells nothing: the line through its ends
would magnify the estimate's rounding by what it is shorter."""


@dataclass(frozen=True, eq=False)
class History:
    """What every token's last step left.

    Attributes:
        x0_hat: the clean estimate at its start.
        log_ratio: `log(alpha / sigma)` where that was made; -infinite where nothing is to be learnt
            from it, because there was none yet or it was made of noise alone.
    """

    x0_hat: Signal
    log_ratio: Factor


@register("solver", "dpm_solver")
@dataclass(frozen=True, kw_only=True)
class DPMSolver:
    """Algorithm 2 (2M) of the paper: a line through every token's last two clean estimates.

    One call of the network a step. A token that stays keeps its last estimate and step, so that it
    goes on as if it had not stayed. A token's first step is of first order; so are steps from
    where `log(alpha / sigma)` is not finite, the one after such a step or after one less than a
    thousandth as long, and the last into level 0, which gives the clean estimate itself.

    Attributes:
        order: 1, which equals DDIM, or 2.
    """

    order: int = 2

    def __post_init__(self) -> None:
        if isinstance(self.order, bool) or self.order not in (1, 2):
            raise PgdiffError(f"`order` must be 1 or 2. Got {self.order!r}.")

    def begin(self, levels: Levels) -> None:
        """Before the first step there is no history."""

    def step(self, at: Step, state: History | None) -> tuple[Signal, History | None]:
        """First-order step, plus its error as far as the last two estimates tell."""
        first = ddim(at)
        if self.order == 1:
            return first, None
        last = state or History(at.x0_hat, torch.full_like(at.log_ratio, -torch.inf))
        # Between the two estimates, wherever the last step ended: churn raises a token again.
        last_rise = at.log_ratio - last.log_ratio
        # With r = last rise / rise and D = x0_hat + (x0_hat - last) / (2 r), the step of the
        # algorithm, (sigma_to / sigma) x - alpha_to (exp(-rise) - 1) D, is DDIM's with D in the
        # place of x0_hat. A last rise that is infinite leaves DDIM's.
        learnt = at.second_order & (last_rise > LEAST_RISE * at.rise)
        half = torch.where(learnt, at.rise / (2 * last_rise), 0.0)
        stepped = first + (at.alpha_to - at.alpha * at.ratio) * half * (at.x0_hat - last.x0_hat)
        x0_hat = torch.where(at.moving, at.x0_hat, last.x0_hat)
        return stepped, History(x0_hat, torch.where(at.moving, at.log_ratio, last.log_ratio))
