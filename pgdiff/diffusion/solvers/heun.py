"""Heun's method (Karras et al. 2022, "Elucidating the design space", algorithm 1)."""

from dataclasses import dataclass, replace

import torch

from pgdiff.diffusion.solvers.base import FIRST_ORDER_BELOW, Levels, Signal, Step
from pgdiff.diffusion.solvers.ddim import ddim
from pgdiff.registry import register


@register("solver", "heun")
@dataclass(frozen=True)
class Heun:
    """Trapezoid for the probability-flow equation in `x / alpha` and `sigma / alpha`.

    Two calls of the network a row: where the tokens are, and where the first-order step takes
    those that move, with the others as they are. The second is left out if no token needs it:
    into level 0, and from an alpha near 0, the step is of first order. The method is not made for
    rows in which the noise falls by orders of magnitude: the second call's error grows by that.
    """

    def begin(self, levels: Levels) -> None:
        """Nothing is remembered."""

    def step(self, at: Step, state: None) -> tuple[Signal, None]:
        """Half of the way with the noise estimated here, half with that estimated there."""
        first = ddim(at)
        if not at.second_order.any():
            return first, None
        there = replace(at, x=at.keep(first), level=at.level_to)
        # d(x / alpha) = epsilon d(sigma / alpha), and `first` is the step with epsilon held.
        alpha = at.alpha.clamp(min=FIRST_ORDER_BELOW)
        fall = at.sigma_to - at.sigma * at.alpha_to / alpha
        corrected = first + fall / 2 * (there.epsilon - at.epsilon)
        return torch.where(at.second_order, corrected, first), None
