"""DDPM's ancestral step (Ho et al. 2020) between any two levels."""

from dataclasses import dataclass

import torch

from pgdiff.diffusion.schedules import NoiseSchedule
from pgdiff.diffusion.solvers.base import Level, Signal
from pgdiff.registry import register


@register("solver", "ddpm")
@dataclass(frozen=True)
class DDPM:
    """Draw from the posterior `q(x_s | x_t, x0_hat)` of s below t (Kingma et al. 2021, eq. 25-29).

    With neighbouring levels of a discrete schedule this is Ho et al.'s eq. 6-7, the smaller of
    their two variances.
    """

    @property
    def stochastic(self) -> bool:
        """Always."""
        return True

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
        """Posterior mean plus fresh noise of the posterior's standard deviation."""
        assert noise is not None
        alpha_t, sigma_t = schedule.alpha(level), schedule.sigma(level)
        alpha_s, sigma_s = schedule.alpha(level_to), schedule.sigma(level_to)
        # Divisors are taken as one where a token does not change.
        ratio = sigma_s / torch.where(sigma_t > 0, sigma_t, 1.0)
        kept = alpha_t / torch.where(alpha_s > 0, alpha_s, 1.0) * ratio
        fresh = (1 - kept.square()).clamp(min=0.0)
        return kept * ratio * x + alpha_s * fresh * x0_hat + sigma_s * fresh.sqrt() * noise
