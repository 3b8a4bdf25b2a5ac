"""Stochastic churn: the tokens that are raised, by how much, and the start of the step."""

from itertools import product
from typing import Any

import pytest
import torch
from oracles import DOUBLE, SCHEDULES, generator
from torch import Tensor

from pgdiff.core.validation import PgdiffError
from pgdiff.diffusion import DDIM, Churn, DPMSolver, EDMSchedule, Heun, Step, full_sequence, sample


def watched(
    solver: Churn, noise_schedule: Any, level: Tensor, level_to: Tensor, seed: int = 0
) -> tuple[Step, Tensor, Tensor, Tensor, Tensor]:
    """Take one step; return its input, the noise, the first estimate's input, and the result."""
    source = generator(seed)
    tokens = level.shape[-1]
    x, noise = torch.randn(2, 4, tokens, 2, generator=source, dtype=DOUBLE)
    points = []

    def estimate(x: Tensor, level: Tensor) -> Tensor:
        points.append((x, level))
        return torch.tanh(x)

    at = Step(x, level[None], level_to[None], noise_schedule, estimate, lambda: noise)
    state = solver.begin(torch.stack([level[None], level_to[None]]))
    stepped, _ = solver.step(at, state)
    return at, noise, *points[0], stepped


def test_the_inner_solver_starts_from_the_churned_point() -> None:
    """The step starts where the estimate was made; elsewhere x and level would not fit."""
    for name, inner in product(sorted(SCHEDULES), [DDIM(), Heun(), DPMSolver()]):
        noise_schedule = SCHEDULES[name]
        solver = Churn(churn=0.2, low=1e-9, high=1e9, noise_scale=1.1, solver=inner)
        level = torch.tensor([0.2, 0.4, 0.6], dtype=DOUBLE)
        at, noise, x_hat, level_hat, stepped = watched(solver, noise_schedule, level, level / 2)
        # In x / alpha and sigma / alpha, with one row: the factor is 1.2.
        now, raised = (
            noise_schedule.sigma(v) / noise_schedule.alpha(v) for v in (level, level_hat[0])
        )
        torch.testing.assert_close(raised, 1.2 * now, rtol=1e-9, atol=0)
        unit = at.x / at.alpha + 1.1 * now[:, None] * (1.2**2 - 1) ** 0.5 * noise
        right = noise_schedule.alpha(level_hat)[..., None] * unit
        error = float((x_hat - right).abs().max())
        print(f"{name}, {inner}: churned point, largest error {error:.1e}")
        assert error < 1e-9
        after = Step(x_hat, level_hat, at.level_to, noise_schedule, at.estimate, at.noise)
        assert torch.equal(stepped, inner.step(after, None)[0])


def test_churn_keeps_the_forward_law() -> None:
    """With noise of deviation 1, churn goes from `sigma` to `sigma_hat` around the same x0."""
    for name in sorted(SCHEDULES):
        noise_schedule = SCHEDULES[name]
        solver = Churn(churn=0.3, low=0.0, high=1e9, noise_scale=1.0, solver=DDIM())
        level = torch.linspace(0.05, 1.0, 20, dtype=DOUBLE)
        at, noise, x_hat, level_hat, _ = watched(solver, noise_schedule, level, 0 * level)
        # x_hat = share x + added noise; solve for the two.
        share = noise_schedule.alpha(level_hat) / noise_schedule.alpha(level)
        stays = level_hat[0] == level
        share = torch.where(stays, 1.0, share)[..., None]
        added = ((x_hat - share * at.x) / noise)[0, :, 0]
        variance = (share[0, :, 0] * noise_schedule.sigma(level)) ** 2 + added**2
        right = noise_schedule.sigma(level_hat[0]) ** 2
        torch.testing.assert_close(variance, right, rtol=1e-7, atol=1e-12)


def test_only_moving_tokens_within_the_limits_are_raised() -> None:
    noise_schedule = EDMSchedule()
    scale = torch.tensor([60.0, 50.0, 10.0, 1.0, 0.05, 0.04], dtype=DOUBLE)
    level = noise_schedule.level_at(-2 * scale.log())
    solver = Churn(low=0.049, high=50.1)
    level_to = level / 2
    level_to[2] = level[2]
    at, _, x_hat, level_hat, _ = watched(solver, noise_schedule, level, level_to)
    raised = [False, True, False, True, True, False]
    assert (level_hat[0] > level).tolist() == raised
    assert (x_hat != at.x).any(dim=-1).any(dim=0).tolist() == raised


def test_never_above_level_1_nor_from_alpha_0() -> None:
    for name in sorted(SCHEDULES):
        noise_schedule = SCHEDULES[name]
        level = torch.tensor([1.0, 1 - 1e-9, 1 - 1e-4, 0.99, 0.9], dtype=DOUBLE)
        solver = Churn(churn=1e9, low=0.0, high=1e12)
        at, _, x_hat, level_hat, stepped = watched(solver, noise_schedule, level, level / 2)
        assert (level_hat <= 1).all() and (level_hat[0] >= level).all()
        assert torch.isfinite(stepped).all()
        nothing_left = noise_schedule.alpha(level) < 1e-6
        assert torch.equal(x_hat[:, nothing_left], at.x[:, nothing_left])


def test_every_token_shares_the_churn_out_over_its_own_rows() -> None:
    levels = torch.tensor(
        [[1.0, 1.0, 0.5, 0.0], [0.8, 1.0, 0.5, 0.0], [0.4, 1.0, 0.2, 0.0], [0.0, 0.0, 0.0, 0.0]]
    )[:, None]
    gamma, inner = Churn(churn=0.6).begin(levels)
    assert inner is None
    torch.testing.assert_close(gamma.flatten(), torch.tensor([0.2, 2**0.5 - 1, 0.3, 2**0.5 - 1]))


def check_without_churn_it_is_the_inner_solver(inner: Any) -> None:
    def run(solver: Any) -> Tensor:
        return sample(
            lambda x, level: torch.tanh(x),
            noise_schedule=SCHEDULES["cosine"],
            levels=full_sequence(steps=6, tokens=2),
            shape=(3, 2, 2),
            generators=[generator(0)],
            solver=solver,
        )

    assert torch.equal(run(Churn(churn=0.0, solver=inner)), run(inner))


def test_without_churn_it_is_the_inner_solver() -> None:
    for inner in [DDIM(), Heun(), DPMSolver()]:
        check_without_churn_it_is_the_inner_solver(inner)


@pytest.mark.usefixtures("unchecked")
def test_the_inner_solver_may_be_described_and_must_be_one() -> None:
    assert Churn(solver={"name": "ddim", "eta": 0.5}).solver == DDIM(eta=0.5)  # type: ignore[arg-type]
    with pytest.raises(PgdiffError, match="`solver` must be a solver"):
        Churn(solver="ddim")  # type: ignore[arg-type]
