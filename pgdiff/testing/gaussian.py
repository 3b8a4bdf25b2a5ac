"""Data of a known Gaussian law: what a solver must reproduce, without any network."""

from dataclasses import dataclass

import torch
from torch import Tensor

from pgdiff.diffusion.schedules import NoiseSchedule

DOUBLE = torch.float64


@dataclass(frozen=True, eq=False)
class Gaussian:
    """A Gaussian over tokens of one feature, neighbours correlated, and its exact functions.

    Attributes:
        schedule: signal and noise at a level.
        tokens: number of tokens.
        correlation: of neighbouring tokens.
    """

    schedule: NoiseSchedule
    tokens: int = 4
    correlation: float = 0.8

    @property
    def mean(self) -> Tensor:
        """`[tokens]`."""
        return torch.linspace(-0.5, 1.0, self.tokens, dtype=DOUBLE)

    @property
    def covariance(self) -> Tensor:
        """`[tokens, tokens]`."""
        place = torch.arange(self.tokens, dtype=DOUBLE)
        covariance: Tensor = self.correlation ** (place[:, None] - place).abs()
        return covariance

    def marginal(self, level: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and covariance of the noisy sample at levels `[tokens]`."""
        alpha, sigma = self.schedule.alpha(level), self.schedule.sigma(level)
        covariance = alpha[:, None] * self.covariance * alpha + torch.diag(sigma.square())
        return alpha * self.mean, covariance

    def denoise(self, x: Tensor, level: Tensor) -> Tensor:
        """Mean of the clean sample at `x`, for one row of levels `[1, tokens]`."""
        mean, covariance = self.marginal(level[0])
        alpha = self.schedule.alpha(level[0])
        gain: Tensor = torch.linalg.solve(covariance, alpha[:, None] * self.covariance)
        return (self.mean + (x[..., 0] - mean) @ gain)[..., None]

    def consistency(self, x: Tensor, level: Tensor) -> Tensor:
        """End of the probability flow through `x`, all tokens at one level.

        The flow keeps a sample's place among the standard deviations: it multiplies what is off the
        mean by the root of the covariance and by that root's inverse at the level.
        """
        alpha, sigma = self.schedule.alpha(level[0, :1]), self.schedule.sigma(level[0, :1])
        variance, vectors = torch.linalg.eigh(self.covariance)
        factor = (variance / (alpha.square() * variance + sigma.square())).sqrt()
        off = (x[..., 0] - alpha * self.mean) @ vectors
        clean: Tensor = self.mean + (factor * off) @ vectors.T
        return clean[..., None]
