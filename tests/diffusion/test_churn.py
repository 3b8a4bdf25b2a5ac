"""Stochastic churn: which tokens are raised, by how much, and that the step starts from there."""

from typing import Any

import pytest
import torch
from oracles import DOUBLE, SCHEDULES, generator
from torch import Tensor

from pgdiff.diffusion import DDIM, Churn, DPMSolver, EDMSchedule, Heun, Step, full_sequence, sample
from pgdiff.validation import PgdiffError


def watched(
    solver: Churn, schedule: Any, level: Tensor, level_to: Tensor, seed: int = 0
) -> tuple[Step, Tensor, Tensor, Tensor, Tensor]:
    """One step: what was given, the noise, where the first estimate was made, and the result."""
    source = generator(seed)
    tokens = level.shape[-1]
    x, noise = torch.randn(2, 4, tokens, 2, generator=source, dtype=DOUBLE)
    points = []

    def estimate(x: Tensor, level: Tensor) -> Tensor:
        points.append((x, level))
        return torch.tanh(x)

    at = Step(x, level[None], level_to[None], schedule, estimate, lambda: noise)
    state = solver.begin(torch.stack([level[None], level_to[None]]))
    stepped, _ = solver.step(at, state)
    return at, noise, *points[0], stepped


@pytest.mark.parametrize("name", sorted(SCHEDULES))
@pytest.mark.parametrize("inner", [DDIM(), Heun(), DPMSolver()], ids=repr)
def test_the_inner_solver_starts_from_the_churned_point(name: str, inner: Any) -> None:
    """Not from where the token was: there x and level would be of different noises."""
    schedule = SCHEDULES[name]
    solver = Churn(churn=0.2, low=1e-9, high=1e9, noise_scale=1.1, solver=inner)
    level = torch.tensor([0.2, 0.4, 0.6], dtype=DOUBLE)
    at, noise, x_hat, level_hat, stepped = watched(solver, schedule, level, level / 2)
    # In x / alpha and sigma / alpha, with one row: the factor is 1.2.
    now, raised = (schedule.sigma(v) / schedule.alpha(v) for v in (level, level_hat[0]))
    torch.testing.assert_close(raised, 1.2 * now, rtol=1e-9, atol=0)
    unit = at.x / at.alpha + 1.1 * now[:, None] * (1.2**2 - 1) ** 0.5 * noise
    right = schedule.alpha(level_hat)[..., None] * unit
    error = float((x_hat - right).abs().max())
    print(f"{name}, {inner}: churned point, largest error {error:.1e}")
    assert error < 1e-9
    after = Step(x_hat, level_hat, at.level_to, schedule, at.estimate, at.noise)
    assert torch.equal(stepped, inner.step(after, None)[0])


@pytest.mark.parametrize("name", sorted(SCHEDULES))
def test_churn_keeps_the_forward_law(name: str) -> None:
    """With noise of standard deviation 1: from `sigma` to `sigma_hat` around the same x0."""
    schedule = SCHEDULES[name]
    solver = Churn(churn=0.3, low=0.0, high=1e9, noise_scale=1.0, solver=DDIM())
    level = torch.linspace(0.05, 1.0, 20, dtype=DOUBLE)
    at, noise, x_hat, level_hat, _ = watched(solver, schedule, level, 0 * level)
    # x_hat = share x + added noise; read the two off.
    share = schedule.alpha(level_hat) / schedule.alpha(level)
    stays = level_hat[0] == level
    share = torch.where(stays, 1.0, share)[..., None]
    added = ((x_hat - share * at.x) / noise)[0, :, 0]
    variance = (share[0, :, 0] * schedule.sigma(level)) ** 2 + added**2
    right = schedule.sigma(level_hat[0]) ** 2
    torch.testing.assert_close(variance, right, rtol=1e-7, atol=1e-12)


def test_only_moving_tokens_within_the_limits_are_raised() -> None:
    schedule = EDMSchedule()
    scale = torch.tensor([60.0, 50.0, 10.0, 1.0, 0.05, 0.04], dtype=DOUBLE)
    level = schedule.level_at(-2 * scale.log())
    solver = Churn(low=0.049, high=50.1)
    level_to = level / 2
    level_to[2] = level[2]
    at, _, x_hat, level_hat, _ = watched(solver, schedule, level, level_to)
    raised = [False, True, False, True, True, False]
    assert (level_hat[0] > level).tolist() == raised
    assert (x_hat != at.x).any(dim=-1).any(dim=0).tolist() == raised


@pytest.mark.parametrize("name", sorted(SCHEDULES))
def test_never_above_level_1_nor_from_alpha_0(name: str) -> None:
    schedule = SCHEDULES[name]
    level = torch.tensor([1.0, 1 - 1e-9, 1 - 1e-4, 0.99, 0.9], dtype=DOUBLE)
    solver = Churn(churn=1e9, low=0.0, high=1e12)
    at, _, x_hat, level_hat, stepped = watched(solver, schedule, level, level / 2)
    assert (level_hat <= 1).all() and (level_hat[0] >= level).all()
    assert torch.isfinite(stepped).all()
    nothing_left = schedule.alpha(level) < 1e-6
    assert torch.equal(x_hat[:, nothing_left], at.x[:, nothing_left])


def test_every_token_shares_the_churn_out_over_its_own_rows() -> None:
    levels = torch.tensor(
        [[1.0, 1.0, 0.5, 0.0], [0.8, 1.0, 0.5, 0.0], [0.4, 1.0, 0.2, 0.0], [0.0, 0.0, 0.0, 0.0]]
    )[:, None]
    gamma, inner = Churn(churn=0.6).begin(levels)
    assert inner is None
    torch.testing.assert_close(gamma.flatten(), torch.tensor([0.2, 2**0.5 - 1, 0.3, 2**0.5 - 1]))


@pytest.mark.parametrize("inner", [DDIM(), Heun(), DPMSolver()], ids=repr)
def test_without_churn_it_is_the_inner_solver(inner: Any) -> None:
    def run(solver: Any) -> Tensor:
        return sample(
            lambda x, level: torch.tanh(x),
            schedule=SCHEDULES["cosine"],
            levels=full_sequence(steps=6, tokens=2),
            shape=(3, 2, 2),
            generators=[generator(0)],
            solver=solver,
        )

    assert torch.equal(run(Churn(churn=0.0, solver=inner)), run(inner))


@pytest.mark.usefixtures("unchecked")
def test_the_inner_solver_may_be_described_and_must_be_one() -> None:
    assert Churn(solver={"name": "ddim", "eta": 0.5}).solver == DDIM(eta=0.5)  # type: ignore[arg-type]
    with pytest.raises(PgdiffError, match="`solver` must be a solver"):
        Churn(solver="ddim")  # type: ignore[arg-type]
