"""What the diffusion code is compared with: exact answers, written without it."""

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from hypothesis import strategies as st
from torch import Tensor

from pgdiff.diffusion import DDIM, CosineSchedule, LinearSchedule

DOUBLE = torch.float64


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@dataclass(frozen=True)
class FlowSchedule:
    """Rectified flow: variance is not preserved, alpha(1) is 0."""

    def alpha(self, level: Tensor) -> Tensor:
        return 1 - level

    def sigma(self, level: Tensor) -> Tensor:
        return level


@dataclass(frozen=True)
class ExplodingSchedule:
    """Variance exploding, as in EDM: the signal is never scaled."""

    largest: float = 80.0

    def alpha(self, level: Tensor) -> Tensor:
        return torch.ones_like(level)

    def sigma(self, level: Tensor) -> Tensor:
        return self.largest * level**3


SCHEDULES = {
    "cosine": CosineSchedule(),
    "linear": LinearSchedule(),
    "flow": FlowSchedule(),
    "exploding": ExplodingSchedule(),
}


def ar1(tokens: int, correlation: float = 0.95) -> Tensor:
    """Covariance `correlation ** |i - j|`."""
    index = torch.arange(tokens, dtype=DOUBLE)
    return correlation ** (index[:, None] - index).abs()


@dataclass(frozen=True)
class Gaussian:
    """Data of a known Gaussian over all tokens and features, and its exact denoiser."""

    mean: Tensor  # [tokens, features]
    covariance: Tensor  # [tokens * features, tokens * features]
    schedule: Any

    @classmethod
    def ar1(cls, schedule: Any, *, tokens: int = 8) -> "Gaussian":
        """AR(1) over tokens in each of two features, which are correlated with each other."""
        between = torch.tensor([[1.0, 0.3], [0.3, 0.5]], dtype=DOUBLE)
        mean = torch.linspace(-1.0, 1.5, 2 * tokens, dtype=DOUBLE).reshape(tokens, 2)
        return cls(mean, torch.kron(ar1(tokens), between), schedule)

    @property
    def size(self) -> int:
        return self.mean.numel()

    def factors(self, level: Tensor) -> tuple[Tensor, Tensor]:
        """alpha and sigma `[tokens * features]` at levels `[tokens]`."""
        features = self.mean.shape[1]
        spread = level.to(DOUBLE).repeat_interleave(features)
        return self.schedule.alpha(spread), self.schedule.sigma(spread)

    def marginal(self, level: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and covariance of the noisy sample at levels `[tokens]`."""
        alpha, sigma = self.factors(level)
        covariance = alpha[:, None] * self.covariance * alpha + torch.diag(sigma.square())
        return alpha * self.mean.reshape(-1), covariance

    def denoise(self, x: Tensor, level: Tensor) -> Tensor:
        """E[x0 | x] at the levels of the first row of the batch, exact for every token's own."""
        assert (level == level[:1]).all(), "one level row for the whole batch"
        alpha, _ = self.factors(level[0])
        mean, covariance = self.marginal(level[0])
        gain = torch.linalg.solve(covariance, alpha[:, None] * self.covariance).T
        clean = self.mean.reshape(-1) + (x.reshape(len(x), -1) - mean) @ gain.T
        return clean.reshape(x.shape)


def affine(function: Callable[[Tensor], Tensor], shape: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Matrix and offset of an affine map of `[batch, *shape]`, by pushing the unit vectors."""
    size = shape[0] * shape[1]
    inputs = torch.cat([torch.zeros(1, size, dtype=DOUBLE), torch.eye(size, dtype=DOUBLE)])
    outputs = function(inputs.reshape(-1, *shape)).reshape(-1, size)
    return (outputs[1:] - outputs[0]).T, outputs[0]


def scalar_loop(
    denoise: Callable[[Tensor, Tensor], Tensor],
    column: Sequence[float],
    shape: tuple[int, int, int],
    source: torch.Generator,
    *,
    schedule: Any,
    solver: Any,
) -> Tensor:
    """Textbook sampling with one noise level for all: numbers for levels, no matrix.

    The formulas are those of the papers, in the order of operations of the solvers, because the
    result is to be equal to the last bit.
    """
    x = schedule.sigma(torch.tensor(column[0])) * torch.randn(shape, generator=source)
    for t, s in itertools.pairwise(column):
        t, s = torch.tensor(t), torch.tensor(s)
        alpha, sigma = schedule.alpha(t), schedule.sigma(t)
        alpha_to, sigma_to = schedule.alpha(s), schedule.sigma(s)
        x0 = denoise(x, t.expand(1, shape[1]))
        if isinstance(solver, DDIM):
            epsilon = (x - alpha * x0) / sigma
            if solver.eta == 0:
                x = alpha_to * x0 + sigma_to * epsilon
                continue
            noise = torch.randn(shape, generator=source)
            kept = alpha / alpha_to * (sigma_to / sigma)
            fresh = solver.eta**2 * (1 - kept.square())
            x = alpha_to * x0 + sigma_to * ((1 - fresh).sqrt() * epsilon + fresh.sqrt() * noise)
        else:
            noise = torch.randn(shape, generator=source)
            ratio = sigma_to / sigma
            kept = alpha / alpha_to * ratio
            fresh = 1 - kept.square()
            x = kept * ratio * x + alpha_to * fresh * x0 + sigma_to * fresh.sqrt() * noise
    return x


@st.composite
def monotone_matrices(draw: Any, *, batch: int | None = None) -> Tensor:
    """Level matrices `[rows, tokens]` or `[rows, batch, tokens]` with many stalls."""
    rows = draw(st.integers(2, 6))
    tokens = draw(st.integers(1, 5))
    columns = []
    for _ in range(tokens * (batch or 1)):
        values = draw(
            st.lists(
                st.sampled_from([0.0, 0.1, 0.25, 0.4999, 0.5, 0.9, 1.0]),
                min_size=rows - 1,
                max_size=rows - 1,
            )
        )
        columns.append([*sorted(values, reverse=True), 0.0])
    matrix = torch.tensor(columns).T
    return matrix if batch is None else matrix.reshape(rows, batch, tokens)


def shrink(x: Tensor, level: Tensor) -> Tensor:
    """A nonlinear denoiser; tokens hear their neighbours, batch rows are apart."""
    return torch.tanh(x * (1.2 - level[..., None])) + 0.1 * torch.roll(x, 1, dims=1)
