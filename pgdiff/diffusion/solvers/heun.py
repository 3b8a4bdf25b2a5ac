"""Heun's method (Karras et al. 2022, "Elucidating the design space", algorithm 1)."""

from dataclasses import dataclass, replace

import torch

from pgdiff.core.registry import register
from pgdiff.diffusion.solvers.base import FIRST_ORDER_BELOW, Levels, Signal, Step
from pgdiff.diffusion.solvers.ddim import ddim


@register("solver", "heun")
@dataclass(frozen=True)
class Heun:
    """Trapezoidal rule for the probability-flow equation in `x / alpha` and `sigma / alpha`.

    Each row calls the network twice: at the sample, and at the result of the first-order step, with
    unmoved tokens unchanged. The second call is left out if no token needs it: steps into level 0
    and from an alpha near 0 are of first order. The method is unsuitable for rows in which the
    noise falls by orders of magnitude, since the error of the second call grows by that factor.

    Example:
        >>> from pgdiff import Sampling
        >>> from pgdiff.diffusion import Heun, KarrasSpacing
        >>> sampling = Sampling(steps=16, solver=Heun(), spacing=KarrasSpacing())
    """

    def begin(self, levels: Levels) -> None:
        """Return None: the solver has no state."""

    def step(self, at: Step, state: None) -> tuple[Signal, None]:
        """Return the step with the mean of the noise estimates at both ends."""
        first = ddim(at)
        if not at.second_order.any():
            return first, None
        end = replace(at, x=at.keep(first), level=at.level_to)
        # d(x / alpha) = epsilon d(sigma / alpha), and `first` is the step with constant epsilon.
        alpha = at.alpha.clamp(min=FIRST_ORDER_BELOW)
        fall = at.sigma_to - at.sigma * at.alpha_to / alpha
        corrected = first + fall / 2 * (end.epsilon - at.epsilon)
        return torch.where(at.second_order, corrected, first), None
