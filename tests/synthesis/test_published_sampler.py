"""The churned sampler of Karras et al. (2022), without two defects of public code.

The reference is the paper's algorithm 2 in sigmas, with equal noise.
"""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from pgdiff.diffusion import Churn, EDMSchedule, Guidance, NoiseSource
from pgdiff.diffusion.sampler import prepare, run
from pgdiff.diffusion.solvers import Step
from pgdiff.diffusion.spacing import KarrasSpacing

DOUBLE = torch.float64
STEPS, SHAPE = 32, (6, 5, 3)
CHURN, LOW, HIGH, NOISE = 80.0, 0.05, 50.0, 1.003


def network(x: Tensor, sigma: Tensor | float) -> Tensor:
    """Return a clean estimate that is nonlinear and depends on the noise level."""
    scale = 1 / (1 + torch.as_tensor(sigma, dtype=x.dtype) ** 2)
    return torch.tanh(scale * x) + 0.3 * scale * torch.roll(x, 1, dims=1)


def draws() -> list[Tensor]:
    """Return the noise of the start and of every step, in order."""
    source = torch.Generator().manual_seed(0)
    return [torch.randn(SHAPE, generator=source, dtype=DOUBLE) for _ in range(STEPS + 1)]


def published(noise: list[Tensor], *, predictor_from_churned: bool = True) -> Tensor:
    """Sample with algorithm 2, `sigma(t) = t` and eq. 5's steps from 80 to 0.002, then to 0."""
    ends = 80 ** (1 / 7), 0.002 ** (1 / 7)
    sigmas = [(ends[0] + i / (STEPS - 1) * (ends[1] - ends[0])) ** 7 for i in range(STEPS)] + [0.0]
    given = iter(noise)
    x = sigmas[0] * next(given)
    for i in range(STEPS):
        now, then = sigmas[i], sigmas[i + 1]
        gamma = min(CHURN / STEPS, 2**0.5 - 1) if LOW <= now <= HIGH else 0.0
        # Noise is drawn in every step, as in the public codes, and used in churned steps.
        fresh = next(given)
        raised = now * (1 + gamma)
        x_hat = x + (raised**2 - now**2) ** 0.5 * NOISE * fresh
        slope = (x_hat - network(x_hat, raised)) / raised
        after = (x_hat if predictor_from_churned else x) + (then - raised) * slope
        if then:
            other = (after - network(after, then)) / then
            after = (x_hat if predictor_from_churned else x) + (then - raised) * (slope + other) / 2
        x = after
    return x


def sampled(solver: Any) -> Tensor:
    """Return samples of the library with noise injected in that order."""
    noise_schedule = EDMSchedule()
    column = KarrasSpacing().levels(STEPS, noise_schedule=noise_schedule)
    prepared = prepare(
        lambda x, level: network(x, noise_schedule.sigma(level)[..., None]),
        noise_schedule=noise_schedule,
        levels=column[:, None].expand(-1, SHAPE[1]),
        shape=SHAPE,
        groups=1,
        solver=solver,
        dtype=DOUBLE,
    )
    noise = NoiseSource.from_seeds(0, batch=SHAPE[0])
    return run(prepared, noise.replay(draws()))


def test_the_churned_steps_are_those_of_the_paper() -> None:
    result, wanted = sampled(Churn()), published(draws())
    error = float((result - wanted).abs().max())
    print(f"\n{STEPS} churned Heun steps: largest difference {error:.1e}")
    assert wanted.abs().max() > 0.5
    assert error < 1e-5


class FromBefore(Churn):
    """A predictor that starts from the point before the churn, as in a public code."""

    def step(self, at: Step, state: Any) -> tuple[Tensor, Any]:
        gamma, inner = state
        raised = self._raised(at, gamma)
        estimate = raised.x0_hat
        wrong = replace(
            raised,
            x=at.x,
            estimate=lambda x, level: _first(x, at.x, estimate, at),
        )
        stepped, inner = self.solver.step(wrong, inner)
        return stepped, (gamma, inner)


def _first(x: Tensor, before: Tensor, estimate: Tensor, at: Step) -> Tensor:
    return estimate if x is before else at.estimate(x, at.level_to)


def test_a_predictor_from_before_the_churn_would_be_found() -> None:
    wanted = published(draws())
    assert float((published(draws(), predictor_from_churned=False) - wanted).abs().max()) > 0.05
    result = sampled(FromBefore())
    assert float((result - wanted).abs().max()) > 0.05


def without_parentheses(gradient: Tensor) -> Tensor:
    """Return `g / norm + 1e-8`, as in a public code."""
    return gradient / torch.linalg.vector_norm(gradient, dim=2, keepdim=True) + 1e-8


@pytest.mark.parametrize("direction", ["ours", "published"])
def test_a_normalised_gradient_of_zero_moves_nothing(direction: str) -> None:
    guide = Guidance(objective=lambda x, level: x.sum(dim=(1, 2)), normalize_gradient="step")
    gradient = torch.randn(4, 5, 3, generator=torch.Generator().manual_seed(0), dtype=DOUBLE)
    gradient[:, 2] = 0
    gradient[:, 3, 1:] = 0  # along one feature only
    result = guide.direction(gradient) if direction == "ours" else without_parentheses(gradient)
    size = torch.linalg.vector_norm(result, dim=2)
    moved = torch.tensor([1.0, 1.0, 0.0, 1.0, 1.0], dtype=DOUBLE).expand(4, 5)
    right = torch.allclose(size, moved, rtol=0, atol=1e-12) and bool((result[:, 3, 1:] == 0).all())
    assert right == (direction == "ours")
