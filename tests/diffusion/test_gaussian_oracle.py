"""Convergence of the sampled law to the data's, with the exact denoiser of Gaussian data.

DDIM is then an affine map of the noise: its mean and covariance follow from the images of the unit
vectors, without any Monte Carlo error.
"""

from collections.abc import Callable
from itertools import product
from typing import Any

import pytest
import torch
from oracles import DOUBLE, SCHEDULES, Gaussian, affine, generator, order, relative, step_law
from torch import Tensor

from pgdiff.core.validation import PgdiffError
from pgdiff.diffusion import DDIM, DDPM, Inpainting, sample
from pgdiff.diffusion.level_schedules import (
    Autoregressive,
    FullSequence,
    LevelSchedule,
    Pyramid,
    Trapezoid,
)
from pgdiff.diffusion.solvers import Churn, Consistency

pytestmark = pytest.mark.usefixtures("unchecked")  # thousands of rows: checks take most time

STEPS = (10, 20, 40, 80)
TOKENS = 8


# Uniform in the level; the delays grow with the number of steps, so that refining follows one path.
MATRICES: dict[str, Callable[[int], LevelSchedule]] = {
    "full": lambda steps: FullSequence(),
    "pyramid": lambda steps: Pyramid(slope=steps / 20),
    "trapezoid": lambda steps: Trapezoid(slope=steps / 10),
    "autoregressive": lambda steps: Autoregressive(),
}


def levels_of(matrix: str, steps: int) -> Tensor:
    column = torch.linspace(1.0, 0.0, steps + 1, dtype=DOUBLE)
    return MATRICES[matrix](steps).matrix(column, tokens=TOKENS)


def run(
    data: Gaussian, levels: Tensor, start: Tensor, *, solver: Any, known: Inpainting | None = None
) -> Tensor:
    return sample(
        data.denoise,
        noise_schedule=data.noise_schedule,
        levels=levels,
        shape=(len(start), *data.mean.shape),
        generators=[generator(0)],
        solver=solver,
        start=start,
        inpainting=known,
        dtype=DOUBLE,
    )


def ddim_law(data: Gaussian, levels: Tensor) -> tuple[Tensor, Tensor]:
    """Return mean and covariance of samples from the true marginal of the first row."""
    matrix, offset = affine(
        lambda start: run(data, levels, start, solver=DDIM()), tuple(data.mean.shape)
    )
    mean, covariance = data.marginal(levels[0])
    return matrix @ mean + offset, matrix @ covariance @ matrix.T


def report(name: str, errors: list[float]) -> float:
    fitted = order(STEPS, errors)
    listed = "  ".join(f"{n}: {e:.5f}" for n, e in zip(STEPS, errors, strict=True))
    print(f"\n{name}: covariance error at steps {listed}; order {fitted:.3f}")
    return fitted


def test_ddim_converges_at_first_order() -> None:
    for matrix, name in product(MATRICES, ["cosine", "linear", "flow"]):
        data = Gaussian.ar1(SCHEDULES[name], tokens=TOKENS)
        errors = []
        for steps in STEPS:
            mean, covariance = ddim_law(data, levels_of(matrix, steps))
            errors.append(relative(covariance, data.covariance))
            torch.testing.assert_close(mean, data.mean.reshape(-1), rtol=1e-9, atol=1e-9)
        fitted = report(f"DDIM, {name}, {matrix}", errors)
        assert abs(fitted - 1) < 0.15
        assert errors[-1] < errors[0] / 6


def test_the_order_tends_to_one() -> None:
    data = Gaussian.ar1(SCHEDULES["linear"], tokens=TOKENS)
    errors = [
        relative(ddim_law(data, levels_of("full", n))[1], data.covariance) for n in (320, 640)
    ]
    fitted = order((320, 640), errors)
    print(f"\nDDIM, linear, full: 320: {errors[0]:.5f}  640: {errors[1]:.5f}; order {fitted:.4f}")
    assert abs(fitted - 1) < 0.02 and errors[1] < 0.006


def test_a_step_that_used_one_level_for_all_tokens_would_not_converge() -> None:
    """If the denoiser gets a neighbour's level, the error of the test above stops falling."""
    data = Gaussian.ar1(SCHEDULES["cosine"], tokens=TOKENS)
    errors = []
    for steps in STEPS:
        levels = levels_of("pyramid", steps)

        def shifted(x: Tensor, level: Tensor) -> Tensor:
            return data.denoise(x, level.roll(1, dims=-1))

        matrix, _ = affine(
            lambda start, levels=levels, shifted=shifted: sample(
                shifted,
                noise_schedule=data.noise_schedule,
                levels=levels,
                shape=(len(start), *data.mean.shape),
                generators=[generator(0)],
                solver=DDIM(),
                start=start,
                dtype=DOUBLE,
            ),
            tuple(data.mean.shape),
        )
        covariance = matrix @ data.marginal(levels[0])[1] @ matrix.T
        errors.append(relative(covariance, data.covariance))
    report("DDIM, cosine, pyramid, wrong levels", errors)
    assert errors[3] > 0.9 * errors[2]


def test_stochastic_solvers_converge() -> None:
    for matrix, solver in product(["full", "pyramid"], [DDPM(), DDIM(eta=1.0), DDIM(eta=0.5)]):
        data = Gaussian.ar1(SCHEDULES["cosine"], tokens=TOKENS)
        errors = []
        for steps in STEPS:
            mean, covariance = step_law(data, levels_of(matrix, steps), solver)
            errors.append(relative(covariance, data.covariance))
            torch.testing.assert_close(mean, data.mean.reshape(-1), rtol=1e-9, atol=1e-9)
        assert abs(report(f"{solver}, cosine, {matrix}", errors) - 1) < 0.15


def test_step_law_is_ddims_law() -> None:
    data = Gaussian.ar1(SCHEDULES["linear"], tokens=TOKENS)
    levels = levels_of("pyramid", 10)
    for one, two in zip(ddim_law(data, levels), step_law(data, levels, DDIM()), strict=True):
        torch.testing.assert_close(one, two, rtol=1e-9, atol=1e-9)


def test_samples_have_the_law_of_their_steps() -> None:
    """100,000 samples have the propagated mean and covariance, within 5 standard errors."""
    for solver in [
        DDPM(),
        DDPM(variance="large"),
        DDIM(eta=1.0),
        Churn(),
        Churn(churn=3.0, solver=DDIM()),
    ]:
        data, count = Gaussian.ar1(SCHEDULES["linear"], tokens=4), 100_000
        levels = levels_of("pyramid", 10)[:, :4]
        first, last = data.marginal(levels[0]), step_law(data, levels, solver)
        noise = torch.randn(count, data.size, generator=generator(1), dtype=DOUBLE)
        start = first[0] + noise @ torch.linalg.cholesky(first[1]).T
        x = run(data, levels, start.reshape(count, 4, 2), solver=solver).reshape(count, -1)
        mean, covariance = last
        variance = covariance.diag()
        mean_error = (x.mean(dim=0) - mean) / (variance / count).sqrt()
        spread = ((variance[:, None] * variance + covariance.square()) / count).sqrt()
        covariance_error = (torch.cov(x.T) - covariance) / spread
        print(
            f"\n{solver}: largest error in standard errors, "
            f"mean {float(mean_error.abs().max()):.2f}, "
            f"covariance {float(covariance_error.abs().max()):.2f}"
        )
        assert mean_error.abs().max() < 5 and covariance_error.abs().max() < 5


@pytest.mark.parametrize("steps", [1, 2, 5])
def test_consistency_with_the_exact_function_gives_the_exact_law(steps: int) -> None:
    """The exact function gives the law from pure noise in any number of steps; means do not."""
    data = Gaussian.ar1(SCHEDULES["cosine"], tokens=4)
    levels = levels_of("full", steps)[:, :4]
    mean, covariance = step_law(data, levels, Consistency(), data.flow_to_clean)
    error = relative(covariance, data.covariance)
    _, of_means = step_law(data, levels, Consistency(force=True))
    print(
        f"\nconsistency, {steps} steps: covariance error {error:.1e}, of a denoiser in its place "
        f"{relative(of_means, data.covariance):.3f}"
    )
    torch.testing.assert_close(mean, data.mean.reshape(-1), rtol=1e-12, atol=1e-12)
    assert error < 1e-12 and relative(of_means, data.covariance) > 0.05

    options: dict[str, Any] = {
        "noise_schedule": data.noise_schedule,
        "levels": levels,
        "shape": (50_000, 4, 2),
        "generators": [generator(0)],
        "dtype": DOUBLE,
    }
    x = sample(data.flow_to_clean, solver=Consistency(), distilled=True, **options)
    assert relative(torch.cov(x.reshape(len(x), -1).T), data.covariance) < 0.02
    with pytest.raises(PgdiffError, match="distilled"):
        sample(data.denoise, solver=Consistency(), **options)
    sample(data.denoise, solver=Consistency(force=True), **options)


def check_with_known_tokens_the_law_is_the_conditional_one(matrix: str) -> None:
    """Level 0 for known tokens is exact conditioning, for any levels of the other tokens."""
    data = Gaussian.ar1(SCHEDULES["cosine"], tokens=TOKENS)
    mask = torch.zeros(1, TOKENS, 2, dtype=torch.bool)
    mask[:, [0, 5]] = True
    values = torch.full((1, TOKENS, 2), 0.7, dtype=DOUBLE)
    given = mask[0].reshape(-1)
    cross, inner = data.covariance[~given][:, given], data.covariance[given][:, given]
    gain = torch.linalg.solve(inner, cross.T).T
    true_covariance = data.covariance[~given][:, ~given] - gain @ cross.T
    residual = values[0].reshape(-1)[given] - data.mean.reshape(-1)[given]
    true_mean = data.mean.reshape(-1)[~given] + gain @ residual

    errors = []
    for steps in STEPS:
        levels = levels_of(matrix, steps)
        matrix_, offset = affine(
            lambda start, levels=levels: run(
                data, levels, start, solver=DDIM(), known=Inpainting(mask, values)
            ),
            tuple(data.mean.shape),
        )
        free = matrix_[~given][:, ~given]  # the first row is pure noise, mean 0 and variance 1
        errors.append(relative(free @ free.T, true_covariance))
        torch.testing.assert_close(offset[~given], true_mean, rtol=1e-9, atol=1e-9)
        assert torch.equal(offset[given], values[0].reshape(-1)[given])
    assert abs(report(f"DDIM, cosine, {matrix}, two tokens known", errors) - 1) < 0.15


def test_with_known_tokens_the_law_is_the_conditional_one() -> None:
    for matrix in MATRICES:
        check_with_known_tokens_the_law_is_the_conditional_one(matrix)
