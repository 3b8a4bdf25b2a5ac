"""The coefficients of one step, against the papers and against Gaussian conditioning."""

import itertools
import json
from itertools import product
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from oracles import DOUBLE, SCHEDULES, generator, shrink
from torch import Tensor

from pgdiff.core.registry import from_config, to_config
from pgdiff.core.validation import PgdiffError
from pgdiff.diffusion import (
    DDIM,
    DDPM,
    Churn,
    Consistency,
    DPMSolver,
    Heun,
    SigmoidSchedule,
    Solver,
    Step,
    TabulatedSchedule,
    full_sequence,
    sample,
)

SOLVERS = [
    DDIM(),
    DDIM(eta=0.3),
    DDIM(eta=1.0),
    DDPM(),
    DDPM(variance="large"),
    DPMSolver(),
    DPMSolver(order=1),
    Heun(),
    Churn(),
    Churn(churn=4.0, low=0.0, high=1e9, solver=DPMSolver()),
    Consistency(),
]
TABLE = tuple((torch.cos(torch.linspace(0.1, 1.57, 50, dtype=DOUBLE)) ** 2).tolist())
ALL = SCHEDULES | {
    "sigmoid": SigmoidSchedule(),
    "tabulated": TabulatedSchedule(alphas_cumprod=TABLE),
}

fast = settings(max_examples=60, deadline=None, derandomize=True)
names = st.sampled_from(sorted(SCHEDULES))
levels = st.floats(1e-3, 1.0)


def step_of(noise_schedule: Any, x: Tensor, x0_hat: Tensor, t: Any, s: Any, noise: Tensor) -> Step:
    """Return a step from t to s whose estimate is `x0_hat` everywhere."""
    at, to = (torch.as_tensor(level, dtype=x.dtype).reshape(1, -1) for level in (t, s))
    return Step(x, at, to, noise_schedule, lambda *_: x0_hat, lambda: noise)


def coefficients(solver: Any, noise_schedule: Any, t: float, s: float) -> np.ndarray:
    """Return the factors of x, x0_hat and noise in the step from t to s."""
    unit = torch.eye(3, dtype=DOUBLE)[:, :, None]  # row k: only input k is 1; features 1
    x, x0_hat, noise = (unit[:, k : k + 1] for k in range(3))
    stepped, _ = solver.step(step_of(noise_schedule, x, x0_hat, t, s, noise), None)
    return stepped.reshape(-1).numpy()


def factors(noise_schedule: Any, level: float) -> tuple[float, float]:
    at = torch.tensor(level, dtype=DOUBLE)
    return float(noise_schedule.alpha(at)), float(noise_schedule.sigma(at))


@fast
@given(name=names, t=levels, share=st.floats(0.0, 0.999))
def test_ddpm_is_gaussian_conditioning(name: str, t: float, share: float) -> None:
    """It is x_s given x_t and x0, from their joint covariance; x0 has unit variance."""
    noise_schedule, s = SCHEDULES[name], t * share
    (a_t, s_t), (a_s, s_s) = factors(noise_schedule, t), factors(noise_schedule, s)
    assume(a_s > 1e-3 and s_t > 0.02)  # else the solution below loses the digits, not the solver
    # x_t = (a_t / a_s) x_s + independent noise, hence their covariance.
    cov_st = a_t / a_s * (a_s**2 + s_s**2)
    joint = np.array(
        [[a_s**2 + s_s**2, cov_st, a_s], [cov_st, a_t**2 + s_t**2, a_t], [a_s, a_t, 1]]
    )
    gain = np.linalg.solve(joint[1:, 1:], joint[1:, 0])
    variance = joint[0, 0] - gain @ joint[1:, 0]
    got = coefficients(DDPM(), noise_schedule, t, s)
    size = max(1.0, s_s)
    np.testing.assert_allclose(got[:2], gain, rtol=1e-7, atol=1e-8 * size)
    # Variances, because a square root would double the digits that the subtraction loses.
    np.testing.assert_allclose(got[2] ** 2, max(variance, 0.0), rtol=1e-6, atol=1e-9 * size**2)


def test_ddpm_is_hos_equations_between_neighbouring_steps() -> None:
    """They are eq. 6 and 7 with Ho et al.'s betas."""
    beta = np.linspace(1e-4, 0.02, 1000)
    bar = np.concatenate([[1.0], np.cumprod(1 - beta)])

    table = TabulatedSchedule(alphas_cumprod=tuple(bar[1:].tolist()))
    for step in (1, 2, 10, 500, 999, 1000):
        b, now, before = beta[step - 1], bar[step], bar[step - 1]
        of_x0 = np.sqrt(before) * b / (1 - now)
        of_x = np.sqrt(1 - b) * (1 - before) / (1 - now)
        variance = (1 - before) / (1 - now) * b
        for name, noise in (("small", variance), ("large", b if step > 1 else 0.0)):
            solver = DDPM(variance=name)
            got = coefficients(solver, table, step / 1000, (step - 1) / 1000)
            np.testing.assert_allclose(got, [of_x, of_x0, np.sqrt(noise)], rtol=1e-9, atol=1e-12)


@fast
@given(name=names, t=levels, share=st.floats(0.01, 0.99))
def test_ddpms_large_variance_is_what_the_forward_law_adds(
    name: str, t: float, share: float
) -> None:
    noise_schedule, s = SCHEDULES[name], t * share
    (a_t, s_t), (a_s, s_s) = factors(noise_schedule, t), factors(noise_schedule, s)
    small, large = (
        coefficients(DDPM(variance=v), noise_schedule, t, s) for v in ("small", "large")
    )
    np.testing.assert_array_equal(large[:2], small[:2])
    added = s_t**2 - (a_t / a_s * s_s) ** 2
    np.testing.assert_allclose(large[2] ** 2, added, rtol=1e-7, atol=1e-12 * s_t**2)


@fast
@given(name=names, t=levels, share=st.floats(0.0, 1.0))
def test_ddim_at_eta_one_is_ddpm(name: str, t: float, share: float) -> None:
    noise_schedule, s = SCHEDULES[name], t * share
    ddpm, ddim = (coefficients(solver, noise_schedule, t, s) for solver in (DDPM(), DDIM(eta=1.0)))
    size = max(1.0, factors(noise_schedule, s)[1])
    np.testing.assert_allclose(ddim[:2], ddpm[:2], rtol=1e-10, atol=1e-10)
    np.testing.assert_allclose(ddim[2] ** 2, ddpm[2] ** 2, rtol=1e-10, atol=1e-10 * size**2)
    if share < 0.999:
        np.testing.assert_allclose(ddim[2], ddpm[2], rtol=1e-10, atol=1e-10)


@fast
@given(name=names, t=levels, share=st.floats(0.0, 1.0), eta=st.floats(0.0, 1.0))
def test_ddim_reaches_the_levels_marginal(name: str, t: float, share: float, eta: float) -> None:
    """With the true x0 and any eta, `x` at s has mean alpha_s x0 and variance sigma_s^2."""
    noise_schedule, s = SCHEDULES[name], t * share
    (a_t, s_t), (a_s, s_s) = factors(noise_schedule, t), factors(noise_schedule, s)
    of_x, of_x0, of_noise = coefficients(DDIM(eta=eta), noise_schedule, t, s)
    assert of_x * a_t + of_x0 == pytest.approx(a_s, abs=1e-10)
    assert (of_x * s_t) ** 2 + of_noise**2 == pytest.approx(s_s**2, rel=1e-10, abs=1e-12)


@fast
@given(name=names, t=levels, share=st.floats(0.0, 1.0))
def test_ddim_is_eulers_step_in_the_noise_to_signal_ratio(
    name: str, t: float, share: float
) -> None:
    noise_schedule, s = SCHEDULES[name], t * share
    (a_t, s_t), (a_s, s_s) = factors(noise_schedule, t), factors(noise_schedule, s)
    assume(a_t > 1e-3)
    # y = x / alpha, r = sigma / alpha: dy/dr = (y - x0) / r.
    of_y = 1 + (s_s / a_s - s_t / a_t) / (s_t / a_t)
    got = coefficients(DDIM(), noise_schedule, t, s)
    size = max(1.0, s_t / a_t)
    np.testing.assert_allclose(
        got, [of_y * a_s / a_t, (1 - of_y) * a_s, 0.0], rtol=1e-9, atol=1e-10 * size
    )


def test_levels_that_stay_give_finite_steps() -> None:
    for solver, name in product(SOLVERS, sorted(SCHEDULES)):
        level = torch.tensor([[0.0, 1e-12, 0.3, 1.0]])
        x, x0_hat, noise = torch.randn(3, 5, 4, 2, generator=generator(0))
        at = step_of(SCHEDULES[name], x, x0_hat, level, level, noise)
        state = solver.begin(torch.stack([level, level]))
        for _ in range(2):
            stepped, state = solver.step(at, state)
            assert torch.isfinite(stepped).all()
            torch.testing.assert_close(at.keep(stepped), x, rtol=0, atol=0)


def test_into_level_0_is_the_clean_estimate() -> None:
    for solver, name in product(SOLVERS, sorted(SCHEDULES)):
        x, x0_hat, noise = torch.randn(3, 5, 4, 2, generator=generator(0))
        level = torch.tensor([[1e-3, 0.3, 0.9, 1.0]])
        at = step_of(SCHEDULES[name], x, x0_hat, level, 0 * level, noise)
        stepped, _ = solver.step(at, solver.begin(torch.stack([level, 0 * level])))
        assert torch.equal(stepped, x0_hat)


def check_a_whole_run_is_finite_and_its_seeds_own(solver: Any, name: str, dtype: Any) -> None:
    """Runs from level 1, where alpha may be 0 and log SNR infinite, to tiny levels are finite."""
    column = torch.cat([torch.linspace(1, 0.1, 8), torch.tensor([1e-3, 1e-6, 0.0])]).double()
    before = torch.get_rng_state()

    def run(seed: int) -> Tensor:
        return sample(
            lambda x, level: torch.tanh(x),
            noise_schedule=ALL[name],
            levels=column[:, None].expand(-1, 3),
            shape=(2, 3, 2),
            generators=[generator(seed)],
            solver=solver,
            distilled=True,
            dtype=dtype,
        )

    first = run(0)
    assert torch.isfinite(first).all() and first.dtype == dtype
    assert torch.equal(before, torch.get_rng_state())
    if name == "cosine":
        assert torch.equal(first, run(0)) and not torch.equal(first, run(1))


def test_a_whole_run_is_finite_and_its_seeds_own() -> None:
    for solver, name, dtype in product(SOLVERS, sorted(ALL), [torch.float32, DOUBLE]):
        check_a_whole_run_is_finite_and_its_seeds_own(solver, name, dtype)


def test_from_alpha_0_steps_are_of_first_order() -> None:
    for name in ["cosine", "flow", "sigmoid"]:
        x, noise = torch.randn(2, 5, 1, 2, generator=generator(0), dtype=DOUBLE)
        estimates = torch.randn(3, 5, 1, 2, generator=generator(1), dtype=DOUBLE)
        column, solver, state = [1.0, 0.9, 0.8, 0.6], DPMSolver(), None
        same = []
        for x0_hat, (t, s) in zip(estimates, itertools.pairwise(column), strict=True):
            at = step_of(ALL[name], x, x0_hat, t, s, noise)
            stepped, state = solver.step(at, state)
            euler = DDIM().step(at, None)[0]
            if t == 1:
                assert torch.equal(Heun().step(at, None)[0], euler)
            same.append(torch.equal(stepped, euler))
            assert all(torch.isfinite(kept).all() for kept in (stepped, state.x0_hat))
        assert same == [True, True, False]  # the second learns nothing from an infinite rise


def test_order_1_is_ddim() -> None:
    x, x0_hat, noise = torch.randn(3, 5, 4, 2, generator=generator(0))
    at = step_of(SCHEDULES["cosine"], x, x0_hat, [1.0, 0.7, 0.5, 0.2], [0.5, 0.7, 0.4, 0.0], noise)
    assert torch.equal(DPMSolver(order=1).step(at, None)[0], DDIM().step(at, None)[0])


def test_a_token_that_stays_leaves_its_history_alone() -> None:
    noise_schedule, solver = SCHEDULES["linear"], DPMSolver()
    x, x0_hat, other, noise = torch.randn(4, 5, 3, 2, generator=generator(0))
    first = step_of(noise_schedule, x, x0_hat, [0.9, 0.8, 0.7], [0.8, 0.8, 0.5], noise)
    _, before = solver.step(first, None)
    assert before.log_ratio.isinf().flatten().tolist() == [False, True, False]
    second = step_of(noise_schedule, x, other, [0.8, 0.8, 0.5], [0.8, 0.6, 0.1], noise)
    stepped, after = solver.step(second, before)
    assert torch.equal(after.log_ratio[:, 0], before.log_ratio[:, 0])
    assert torch.equal(after.x0_hat[:, 0], before.x0_hat[:, 0])
    assert torch.equal(after.x0_hat[:, 1:], other[:, 1:])
    euler = DDIM().step(second, None)[0]
    assert torch.equal(stepped[:, 1], euler[:, 1])  # its first step
    assert not torch.allclose(stepped[:, 2], euler[:, 2])


def check_heun_calls_twice_a_row_but_not_where_no_token_needs_it(name: str, saved: int) -> None:
    """Rows into level 0, and from alpha 0 (cosine), need one call."""
    calls = []

    def denoise(x: Tensor, level: Tensor) -> Tensor:
        calls.append(level)
        return torch.tanh(x)

    sample(
        denoise,
        noise_schedule=SCHEDULES[name],
        levels=full_sequence(steps=6, tokens=2),
        shape=(1, 2, 2),
        generators=[generator(0)],
        solver=Heun(),
    )
    assert len(calls) == 2 * 6 - saved


def test_heun_calls_twice_a_row_but_not_where_no_token_needs_it() -> None:
    for name, saved in [("linear", 1), ("exploding", 1), ("cosine", 2)]:
        check_heun_calls_twice_a_row_but_not_where_no_token_needs_it(name, saved)


def test_heuns_second_estimate_is_at_the_mixed_corner() -> None:
    noise_schedule = SCHEDULES["linear"]
    x = torch.randn(5, 3, 2, generator=generator(0))
    level, level_to = torch.tensor([[0.9, 0.6, 0.4]]), torch.tensor([[0.7, 0.6, 0.0]])
    points = []

    def estimate(x: Tensor, level: Tensor) -> Tensor:
        points.append((x, level))
        return torch.tanh(x)

    at = Step(x, level, level_to, noise_schedule, estimate, lambda: torch.zeros(5, 3, 2))
    stepped, _ = Heun().step(at, None)
    euler = DDIM().step(at, None)[0]
    (first, here), (second, there) = points
    assert torch.equal(first, x) and torch.equal(here, level)
    assert torch.equal(there, level_to)
    assert torch.equal(second[:, 1], x[:, 1]) and torch.equal(second[:, ::2], euler[:, ::2])
    assert torch.equal(stepped[:, 2], euler[:, 2])
    # The trapezoid by itself, in x / alpha and sigma / alpha.
    (a, s), (a_to, s_to) = factors(noise_schedule, 0.9), factors(noise_schedule, 0.7)
    here_slope = (x[:, 0] / a - torch.tanh(x[:, 0])) / (s / a)
    there_slope = (euler[:, 0] / a_to - torch.tanh(euler[:, 0])) / (s_to / a_to)
    right = a_to * (x[:, 0] / a + (s_to / a_to - s / a) * (here_slope + there_slope) / 2)
    torch.testing.assert_close(stepped[:, 0], right)


def test_consistency_is_refused_without_a_consistency_function() -> None:
    noise_schedule = SCHEDULES["cosine"]
    for solver in (Consistency(), Churn(solver=Consistency())):
        with pytest.raises(PgdiffError, match=r"'consistency' needs .*distilled=True.*force=True"):
            solver.check(noise_schedule=noise_schedule, distilled=False)
        solver.check(noise_schedule=noise_schedule, distilled=True)
    Consistency(force=True).check(noise_schedule=noise_schedule, distilled=False)
    Churn(solver=Heun()).check(noise_schedule=noise_schedule, distilled=False)
    with pytest.raises(PgdiffError, match="consistency function"):
        sample(
            lambda x, level: x,
            noise_schedule=noise_schedule,
            levels=full_sequence(steps=2, tokens=1),
            shape=(1, 1, 1),
            generators=[generator(0)],
            solver=Consistency(),
        )


@pytest.mark.usefixtures("unchecked")
def test_settings_are_refused_by_name() -> None:
    for solver, wrong in [
        (DDIM, {"eta": 1.5}),
        (DDPM, {"variance": "medium"}),
        (DPMSolver, {"order": 3}),
        (DPMSolver, {"order": True}),
        (Churn, {"churn": -1.0}),
        (Churn, {"low": 2.0, "high": 1.0}),
        (Churn, {"noise_scale": -1.0}),
    ]:
        with pytest.raises(PgdiffError, match=list(wrong)[-1]):
            solver(**wrong)


def test_config_round_trip() -> None:
    for solver in SOLVERS:
        assert isinstance(solver, Solver)
        assert from_config("solver", json.loads(json.dumps(to_config(solver)))) == solver


def test_2m_survives_a_move_of_one_rounding_unit() -> None:
    for dtype in [torch.float32, DOUBLE]:
        level = torch.tensor([1.0, 0.6, 0.6, 0.3, 0.0], dtype=dtype)
        level[2] = torch.nextafter(level[1], torch.zeros((), dtype=dtype))
        without = torch.tensor([1.0, 0.6, 0.3, 0.0], dtype=dtype)
        drawn = [
            sample(
                shrink,
                noise_schedule=SCHEDULES["cosine"],
                levels=column[:, None].expand(-1, 3),
                shape=(2, 3, 2),
                generators=[generator(0)],
                solver=DPMSolver(),
                dtype=dtype,
            )
            for column in (level, without)
        ]
        error = float((drawn[0] - drawn[1]).abs().max())
        print(f"\nwith a move of one unit in the last place: {error:.1e} from without")
        assert error < 0.1, "one step of first order more, no more than that"
