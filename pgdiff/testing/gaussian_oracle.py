"""Gaussian data with an exact denoiser, which a solver must reproduce."""

from dataclasses import dataclass

import torch
from torch import Tensor

from pgdiff.diffusion.schedules import NoiseSchedule

DOUBLE = torch.float64


@dataclass(frozen=True, eq=False)
class Gaussian:
    """A Gaussian over correlated tokens of one feature, with its exact denoiser.

    Attributes:
        noise_schedule: signal and noise at a level.
        tokens: number of tokens.
        correlation: correlation of neighbouring tokens.
    """

    noise_schedule: NoiseSchedule
    tokens: int = 4
    correlation: float = 0.8

    @property
    def mean(self) -> Tensor:
        """Mean, `[tokens]`."""
        return torch.linspace(-0.5, 1.0, self.tokens, dtype=DOUBLE)

    @property
    def covariance(self) -> Tensor:
        """Covariance, `[tokens, tokens]`."""
        index = torch.arange(self.tokens, dtype=DOUBLE)
        covariance: Tensor = self.correlation ** (index[:, None] - index).abs()
        return covariance

    def marginal(self, level: Tensor) -> tuple[Tensor, Tensor]:
        """Return mean and covariance of the noisy sample at levels `[tokens]`."""
        alpha, sigma = self.noise_schedule.alpha(level), self.noise_schedule.sigma(level)
        covariance = alpha[:, None] * self.covariance * alpha + torch.diag(sigma.square())
        return alpha * self.mean, covariance

    def denoise(self, x: Tensor, level: Tensor) -> Tensor:
        """Return the mean of the clean sample given `x`, for one row of levels `[1, tokens]`."""
        mean, covariance = self.marginal(level[0])
        alpha = self.noise_schedule.alpha(level[0])
        gain: Tensor = torch.linalg.solve(covariance, alpha[:, None] * self.covariance)
        return (self.mean + (x[..., 0] - mean) @ gain)[..., None]

    def consistency(self, x: Tensor, level: Tensor) -> Tensor:
        """Return the end of the probability flow through `x`, with all tokens at one level.

        Along the flow the deviation from the mean stays constant in units of the standard
        deviation: it is multiplied by the root of the clean covariance and by the inverse root of
        the covariance at the level.
        """
        alpha, sigma = (
            self.noise_schedule.alpha(level[0, :1]),
            self.noise_schedule.sigma(level[0, :1]),
        )
        variance, vectors = torch.linalg.eigh(self.covariance)
        factor = (variance / (alpha.square() * variance + sigma.square())).sqrt()
        off = (x[..., 0] - alpha * self.mean) @ vectors
        clean: Tensor = self.mean + (factor * off) @ vectors.T
        return clean[..., None]
