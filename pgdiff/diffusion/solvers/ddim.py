"""DDIM (Song et al. 2021, "Denoising diffusion implicit models")."""

from dataclasses import dataclass

import torch

from pgdiff.diffusion.schedules import NoiseSchedule
from pgdiff.diffusion.solvers.base import Level, Signal
from pgdiff.registry import register
from pgdiff.validation import check_range


@register("solver", "ddim")
@dataclass(frozen=True, kw_only=True)
class DDIM:
    """Eq. 12 of the paper in terms of the clean estimate, with eq. 16's noise.

    At `eta` 0 this is the Euler step in `sigma / alpha`, of first order; at `eta` 1 it has DDPM's
    law.

    Attributes:
        eta: share of DDPM's fresh noise, in [0, 1].
    """

    eta: float = 0.0

    def __post_init__(self) -> None:
        check_range("eta", self.eta, low=0.0, high=1.0)

    @property
    def stochastic(self) -> bool:
        """Whether fresh noise is drawn."""
        return self.eta > 0

    def step(
        self,
        x: Signal,
        x0_hat: Signal,
        level: Level,
        level_to: Level,
        *,
        schedule: NoiseSchedule,
        noise: Signal | None,
    ) -> Signal:
        """Keep the estimated noise, less what is drawn afresh."""
        alpha, sigma = schedule.alpha(level), schedule.sigma(level)
        alpha_to, sigma_to = schedule.alpha(level_to), schedule.sigma(level_to)
        epsilon = (x - alpha * x0_hat) / torch.where(sigma > 0, sigma, 1.0)
        if noise is None:
            return alpha_to * x0_hat + sigma_to * epsilon
        # Eq. 16, for any schedule: `fresh` is eta^2 times the share that DDPM's posterior variance
        # has of sigma_to^2. Divisors are taken as one where a token does not change.
        ratio = sigma_to / torch.where(sigma > 0, sigma, 1.0)
        kept = alpha / torch.where(alpha_to > 0, alpha_to, 1.0) * ratio
        fresh = self.eta**2 * (1 - kept.square()).clamp(min=0.0)
        return alpha_to * x0_hat + sigma_to * ((1 - fresh).sqrt() * epsilon + fresh.sqrt() * noise)
