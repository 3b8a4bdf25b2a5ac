"""Oracles for the diffusion code: exact answers, written without it."""

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from hypothesis import strategies as st
from torch import Tensor

from pgdiff.diffusion import DDIM, CosineSchedule, EDMSchedule, FlowSchedule, LinearSchedule
from pgdiff.diffusion.solvers import Step

DOUBLE = torch.float64


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


SCHEDULES = {
    "cosine": CosineSchedule(),
    "linear": LinearSchedule(),
    "flow": FlowSchedule(),
    "exploding": EDMSchedule(),
}


def ar1(tokens: int, correlation: float = 0.95) -> Tensor:
    """Return the covariance `correlation ** |i - j|`."""
    index = torch.arange(tokens, dtype=DOUBLE)
    return correlation ** (index[:, None] - index).abs()


@dataclass(frozen=True)
class Gaussian:
    """Gaussian data with a known law over all tokens and features, and its exact denoiser."""

    mean: Tensor  # [tokens, features]
    covariance: Tensor  # [tokens * features, tokens * features]
    noise_schedule: Any

    @classmethod
    def ar1(cls, noise_schedule: Any, *, tokens: int = 8) -> "Gaussian":
        """Return AR(1) data over tokens in two features that are correlated with each other."""
        between = torch.tensor([[1.0, 0.3], [0.3, 0.5]], dtype=DOUBLE)
        mean = torch.linspace(-1.0, 1.5, 2 * tokens, dtype=DOUBLE).reshape(tokens, 2)
        return cls(mean, torch.kron(ar1(tokens), between), noise_schedule)

    @property
    def size(self) -> int:
        return self.mean.numel()

    def factors(self, level: Tensor) -> tuple[Tensor, Tensor]:
        """Return alpha and sigma `[..., tokens * features]` at levels `[..., tokens]`."""
        spread = level.to(DOUBLE).repeat_interleave(self.mean.shape[1], dim=-1)
        return self.noise_schedule.alpha(spread), self.noise_schedule.sigma(spread)

    def marginal(self, level: Tensor) -> tuple[Tensor, Tensor]:
        """Return mean and covariance of the noisy sample at levels `[..., tokens]`."""
        alpha, sigma = self.factors(level)
        covariance = alpha[..., :, None] * self.covariance * alpha[..., None, :]
        return alpha * self.mean.reshape(-1), covariance + torch.diag_embed(sigma.square())

    def denoise(self, x: Tensor, level: Tensor) -> Tensor:
        """Return E[x0 | x], exact for the level of each token; `level` is `[rows, tokens]`.

        The batch is `rows` groups of equal size, one after the other, each of one row of levels.
        """
        alpha, _ = self.factors(level)
        mean, covariance = self.marginal(level)
        gain = torch.linalg.solve(covariance, alpha[..., None] * self.covariance)
        residual = x.reshape(len(level), -1, self.size) - mean[:, None]
        return (self.mean.reshape(-1) + residual @ gain).reshape(x.shape)

    def flow_to_clean(self, x: Tensor, level: Tensor) -> Tensor:
        """Return the end of the probability flow through `x`, the consistency function; one level.

        The marginals' covariances commute, so that the flow stretches along their eigenvectors.
        """
        assert level.unique().numel() == 1
        alpha, sigma = self.factors(level[0])
        size, along = torch.linalg.eigh(self.covariance)
        stretch = (size / (alpha[0].square() * size + sigma[0].square())).sqrt()
        residual = x.reshape(len(x), -1) - alpha * self.mean.reshape(-1)
        return (self.mean.reshape(-1) + residual @ (along * stretch) @ along.T).reshape(x.shape)


def affine(function: Callable[[Tensor], Tensor], shape: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Return matrix and offset of an affine map of `[batch, *shape]`, from the unit vectors."""
    size = shape[0] * shape[1]
    inputs = torch.cat([torch.zeros(1, size, dtype=DOUBLE), torch.eye(size, dtype=DOUBLE)])
    outputs = function(inputs.reshape(-1, *shape)).reshape(-1, size)
    return (outputs[1:] - outputs[0]).T, outputs[0]


def step_law(
    data: Gaussian,
    levels: Tensor,
    solver: Any,
    estimate: Callable[[Tensor, Tensor], Tensor] | None = None,
) -> tuple[Tensor, Tensor]:
    """Return mean and covariance of a solver's samples from the true marginal of the first row.

    Row by row, without any Monte Carlo error: the law goes through the row's own affine map of `x`
    and of one draw of fresh noise. Not for solvers that remember samples of earlier rows. The clean
    estimate is the exact denoiser's if None.
    """
    estimate = estimate or data.denoise
    levels = levels.to(DOUBLE)
    mean, covariance = data.marginal(levels[0])
    state = solver.begin(levels[:, None])
    zero, unit = torch.zeros(data.size, data.size, dtype=DOUBLE), torch.eye(data.size, dtype=DOUBLE)
    shape = (-1, *data.mean.shape)
    x = torch.cat([zero[:1], unit, zero]).reshape(shape)
    noise = torch.cat([zero[:1], zero, unit]).reshape(shape)
    for level, level_to in itertools.pairwise(levels[:, None]):
        draws = iter([noise])
        step = Step(x, level, level_to, data.noise_schedule, estimate, lambda d=draws: next(d))
        stepped, state = solver.step(step, state)
        outputs = step.keep(stepped).reshape(len(x), -1)
        of_x, of_noise = (outputs[1:] - outputs[0]).T.chunk(2, dim=1)
        mean = of_x @ mean + outputs[0]
        covariance = of_x @ covariance @ of_x.T + of_noise @ of_noise.T
    return mean, covariance


def relative(got: Tensor, expected: Tensor) -> float:
    return float((got - expected).norm() / expected.norm())


def order(steps: Sequence[int], errors: Sequence[float]) -> float:
    """Return the order of convergence: least squares of log error against log steps."""
    x, y = torch.tensor(steps, dtype=DOUBLE).log(), torch.tensor(errors, dtype=DOUBLE).log()
    x = x - x.mean()
    return float(-(x * (y - y.mean())).sum() / x.square().sum())


def one_step(
    solver: Any,
    noise_schedule: Any,
    x: Tensor,
    x0_hat: Tensor,
    level: Tensor,
    level_to: Tensor,
    *,
    noise: Tensor | None = None,
) -> Tensor:
    """Return a solver's first step for a constant clean estimate."""
    given = torch.zeros_like(x) if noise is None else noise
    step = Step(x, level, level_to, noise_schedule, lambda x, level: x0_hat, lambda: given)
    stepped: Tensor = solver.step(step, solver.begin(torch.stack([level, level_to])))[0]
    return stepped


def scalar_loop(
    denoise: Callable[[Tensor, Tensor], Tensor],
    column: Sequence[float],
    shape: tuple[int, int, int],
    source: torch.Generator,
    *,
    noise_schedule: Any,
    solver: Any,
) -> Tensor:
    """Sample as in textbooks, with one noise level for all tokens: numbers for levels, no matrix.

    The formulas are those of the papers, in the order of operations of the solvers, because the
    result must be equal to the last bit.
    """
    x = noise_schedule.sigma(torch.tensor(column[0])) * torch.randn(shape, generator=source)
    for t, s in itertools.pairwise(column):
        t, s = torch.tensor(t), torch.tensor(s)
        alpha, sigma = noise_schedule.alpha(t), noise_schedule.sigma(t)
        alpha_to, sigma_to = noise_schedule.alpha(s), noise_schedule.sigma(s)
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
def monotone_matrices(draw: Any, *, batch: int | None = None, first: float | None = 1.0) -> Tensor:
    """Return level matrices `[rows, tokens]` or `[rows, batch, tokens]` with many stalls.

    The first row is `first`, or any levels if None.
    """
    rows = draw(st.integers(2, 6))
    tokens = draw(st.integers(1, 5))
    free = rows - 1 - (first is not None)
    columns = []
    for _ in range(tokens * (batch or 1)):
        values = draw(
            st.lists(
                st.sampled_from([0.0, 0.1, 0.25, 0.4999, 0.5, 0.9, 1.0]),
                min_size=free,
                max_size=free,
            )
        )
        start = [] if first is None else [first]
        columns.append([*start, *sorted(values, reverse=True), 0.0])
    matrix = torch.tensor(columns).T
    return matrix if batch is None else matrix.reshape(rows, batch, tokens)


def shrink(x: Tensor, level: Tensor) -> Tensor:
    """Denoise nonlinearly; tokens depend on their neighbours, batch rows are independent."""
    return torch.tanh(x * (1.2 - level[..., None])) + 0.1 * torch.roll(x, 1, dims=1)
