"""The coefficients of one step, against the papers and against Gaussian conditioning."""

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from oracles import DOUBLE, SCHEDULES, generator

from pgdiff.diffusion import DDIM, DDPM
from pgdiff.registry import from_config, to_config

fast = settings(max_examples=60, deadline=None, derandomize=True)
names = st.sampled_from(sorted(SCHEDULES))
levels = st.floats(1e-3, 1.0)


def coefficients(solver: Any, schedule: Any, t: float, s: float) -> np.ndarray:
    """Factors of x, x0_hat and noise in the step from t to s."""
    unit = torch.eye(3, dtype=DOUBLE)[:, :, None]  # row k: only input k is 1; features 1
    x, x0_hat, noise = (unit[:, k : k + 1] for k in range(3))
    at, to = torch.full((1, 1, 1), t, dtype=DOUBLE), torch.full((1, 1, 1), s, dtype=DOUBLE)
    stepped = solver.step(x, x0_hat, at, to, schedule=schedule, noise=noise)
    return stepped.reshape(-1).numpy()


def factors(schedule: Any, level: float) -> tuple[float, float]:
    at = torch.tensor(level, dtype=DOUBLE)
    return float(schedule.alpha(at)), float(schedule.sigma(at))


@fast
@given(name=names, t=levels, share=st.floats(0.0, 0.999))
def test_ddpm_is_gaussian_conditioning(name: str, t: float, share: float) -> None:
    """x_s given x_t and x0, from their joint covariance; x0 has unit variance."""
    schedule, s = SCHEDULES[name], t * share
    (a_t, s_t), (a_s, s_s) = factors(schedule, t), factors(schedule, s)
    assume(a_s > 1e-3 and s_t > 0.02)  # or the solution below loses the digits, not the solver
    # x_t = (a_t / a_s) x_s + independent noise, hence their covariance.
    cov_st = a_t / a_s * (a_s**2 + s_s**2)
    joint = np.array(
        [[a_s**2 + s_s**2, cov_st, a_s], [cov_st, a_t**2 + s_t**2, a_t], [a_s, a_t, 1]]
    )
    gain = np.linalg.solve(joint[1:, 1:], joint[1:, 0])
    variance = joint[0, 0] - gain @ joint[1:, 0]
    got = coefficients(DDPM(), schedule, t, s)
    size = max(1.0, s_s)
    np.testing.assert_allclose(got[:2], gain, rtol=1e-7, atol=1e-8 * size)
    # Variances, because a square root would double the digits that the subtraction loses.
    np.testing.assert_allclose(got[2] ** 2, max(variance, 0.0), rtol=1e-6, atol=1e-9 * size**2)


def test_ddpm_is_hos_equations_between_neighbouring_steps() -> None:
    """Eq. 6 and 7 with Ho et al.'s own betas."""
    beta = np.linspace(1e-4, 0.02, 1000)
    bar = np.concatenate([[1.0], np.cumprod(1 - beta)])

    class Tabulated:
        def alpha(self, level: torch.Tensor) -> torch.Tensor:
            return torch.from_numpy(bar[(level * 1000).round().long().numpy()]).sqrt()

        def sigma(self, level: torch.Tensor) -> torch.Tensor:
            return torch.from_numpy(1 - bar[(level * 1000).round().long().numpy()]).sqrt()

    for step in (1, 2, 10, 500, 999, 1000):
        b, now, before = beta[step - 1], bar[step], bar[step - 1]
        of_x0 = np.sqrt(before) * b / (1 - now)
        of_x = np.sqrt(1 - b) * (1 - before) / (1 - now)
        variance = (1 - before) / (1 - now) * b
        got = coefficients(DDPM(), Tabulated(), step / 1000, (step - 1) / 1000)
        np.testing.assert_allclose(got, [of_x, of_x0, np.sqrt(variance)], rtol=1e-9, atol=1e-12)


@fast
@given(name=names, t=levels, share=st.floats(0.0, 1.0))
def test_ddim_at_eta_one_is_ddpm(name: str, t: float, share: float) -> None:
    schedule, s = SCHEDULES[name], t * share
    ddpm, ddim = (coefficients(solver, schedule, t, s) for solver in (DDPM(), DDIM(eta=1.0)))
    size = max(1.0, factors(schedule, s)[1])
    np.testing.assert_allclose(ddim[:2], ddpm[:2], rtol=1e-10, atol=1e-10)
    np.testing.assert_allclose(ddim[2] ** 2, ddpm[2] ** 2, rtol=1e-10, atol=1e-10 * size**2)
    if share < 0.999:
        np.testing.assert_allclose(ddim[2], ddpm[2], rtol=1e-10, atol=1e-10)


@fast
@given(name=names, t=levels, share=st.floats(0.0, 1.0), eta=st.floats(0.0, 1.0))
def test_ddim_reaches_the_levels_marginal(name: str, t: float, share: float, eta: float) -> None:
    """With the true x0 and any eta, `x` at s has mean alpha_s x0 and variance sigma_s^2."""
    schedule, s = SCHEDULES[name], t * share
    (a_t, s_t), (a_s, s_s) = factors(schedule, t), factors(schedule, s)
    of_x, of_x0, of_noise = coefficients(DDIM(eta=eta), schedule, t, s)
    assert of_x * a_t + of_x0 == pytest.approx(a_s, abs=1e-10)
    assert (of_x * s_t) ** 2 + of_noise**2 == pytest.approx(s_s**2, rel=1e-10, abs=1e-12)


@fast
@given(name=names, t=levels, share=st.floats(0.0, 1.0))
def test_ddim_is_eulers_step_in_the_noise_to_signal_ratio(
    name: str, t: float, share: float
) -> None:
    schedule, s = SCHEDULES[name], t * share
    (a_t, s_t), (a_s, s_s) = factors(schedule, t), factors(schedule, s)
    assume(a_t > 1e-3)
    # y = x / alpha, r = sigma / alpha: dy/dr = (y - x0) / r.
    of_y = 1 + (s_s / a_s - s_t / a_t) / (s_t / a_t)
    got = coefficients(DDIM(), schedule, t, s)
    size = max(1.0, s_t / a_t)
    np.testing.assert_allclose(
        got, [of_y * a_s / a_t, (1 - of_y) * a_s, 0.0], rtol=1e-9, atol=1e-10 * size
    )


@pytest.mark.parametrize("solver", [DDIM(), DDIM(eta=0.3), DDIM(eta=1.0), DDPM()], ids=repr)
@pytest.mark.parametrize("name", sorted(SCHEDULES))
def test_levels_that_stay_give_finite_steps(solver: Any, name: str) -> None:
    level = torch.tensor([0.0, 1e-12, 0.3, 1.0])[None, :, None]
    x, x0_hat, noise = torch.randn(3, 5, 4, 2, generator=generator(0))
    stepped = solver.step(x, x0_hat, level, level, schedule=SCHEDULES[name], noise=noise)
    assert torch.isfinite(stepped).all()
    torch.testing.assert_close(stepped[:, 2], x[:, 2], rtol=1e-3, atol=1e-3)


def test_stochastic_says_whether_noise_is_drawn() -> None:
    assert [s.stochastic for s in (DDIM(), DDIM(eta=0.1), DDPM())] == [False, True, True]


def test_config_round_trip() -> None:
    for solver in (DDIM(eta=0.25), DDPM()):
        assert from_config("solver", to_config(solver)) == solver
