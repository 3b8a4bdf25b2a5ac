"""Measurements at a noise level, against the exact laws of Gaussian data."""

from contextlib import nullcontext
from itertools import product
from typing import Any

import numpy as np
import pytest
import torch
from oracles import DOUBLE, SCHEDULES, Gaussian, affine, generator, relative, shrink
from torch import Tensor

from pgdiff.core.validation import PgdiffError
from pgdiff.diffusion import (
    DDIM,
    DDPM,
    Guidance,
    Inpainting,
    Measurement,
    MonteCarlo,
    SamplerStep,
    Solver,
    sample,
)
from pgdiff.diffusion.level_schedules import FullSequence, LevelSchedule, Pyramid
from pgdiff.diffusion.solvers import Churn, DPMSolver, Heun

pytestmark = pytest.mark.usefixtures("unchecked")

TOKENS, DEVIATION = 4, 0.3
SCHEDULE = SCHEDULES["cosine"]
DATA = Gaussian.ar1(SCHEDULE, tokens=TOKENS)
LEVEL = float(SCHEDULE.level_at(-2 * torch.tensor(DEVIATION, dtype=DOUBLE).log()))
MATRICES: dict[str, LevelSchedule] = {"full": FullSequence(), "pyramid": Pyramid(slope=10.0)}


def mask(*, features: int = 2) -> Tensor:
    found = torch.zeros(1, TOKENS, 2, dtype=torch.bool)
    found[:, 0, :features] = True
    return found


def run(
    observed: Measurement, *, matrix: str = "full", steps: int, solver: Solver, start: Tensor | None
) -> Tensor:
    column = torch.linspace(1.0, 0.0, steps + 1, dtype=DOUBLE)
    return sample(
        DATA.denoise,
        noise_schedule=SCHEDULE,
        levels=MATRICES[matrix].matrix(column, tokens=TOKENS),
        shape=(len(observed.values), TOKENS, 2),
        generators=[generator(0)],
        solver=solver,
        measurement=observed,
        start=start,
        dtype=DOUBLE,
    )


@pytest.mark.parametrize("matrix", MATRICES)
def test_plans_of_true_measurements_have_the_datas_law(matrix: str) -> None:
    """DDIM is affine in noise and measurement, of first order, for every measured part."""
    law = DATA.covariance[:2, :2] + DEVIATION**2 * torch.eye(2, dtype=DOUBLE)
    inputs = torch.block_diag(law, torch.eye(2 * TOKENS - 2, dtype=DOUBLE))
    errors = []
    for steps in (20, 40, 80):

        def drawn(start: Tensor, steps: int = steps) -> Tensor:
            seen = Measurement(mask(), start, LEVEL)
            return run(seen, matrix=matrix, steps=steps, solver=DDIM(), start=start)

        found, offset = affine(drawn, (TOKENS, 2))
        errors.append(relative(found @ inputs @ found.T, DATA.covariance))
        measured = torch.cat([DATA.mean[0], torch.zeros(2 * TOKENS - 2, dtype=DOUBLE)])
        torch.testing.assert_close(found @ measured + offset, DATA.mean.reshape(-1))
    print(f"\n{matrix}: covariance error at 20, 40, 80 steps {errors}")
    assert errors[2] < 0.6 * errors[1] < 0.4 * errors[0] and errors[2] < 0.06


def test_given_a_measurement_the_law_is_the_posterior() -> None:
    """40,000 samples with fresh noise agree in 200 steps, whose error is of first order."""
    measured, count = torch.tensor([0.8, -0.4], dtype=DOUBLE), 40_000
    inner = DATA.covariance[:2, :2] + DEVIATION**2 * torch.eye(2, dtype=DOUBLE)
    gain = torch.linalg.solve(inner, DATA.covariance[:2]).T
    mean = DATA.mean.reshape(-1) + gain @ (measured - DATA.mean[0])
    covariance = DATA.covariance - gain @ DATA.covariance[:2]
    values = torch.zeros(count, TOKENS, 2, dtype=DOUBLE)
    values[:, 0] = measured
    x = run(Measurement(mask(), values, LEVEL), steps=200, solver=DDPM(), start=None)
    x = x.reshape(count, -1)
    off, spread = (x.mean(dim=0) - mean).abs().max(), relative(torch.cov(x.T), covariance)
    print(f"\nmean {float(off):.4f} off, covariance {spread:.4f}")
    assert off < 0.02 and spread < 0.04
    # A measurement that is taken as exact would give the first token no spread.
    assert float(torch.cov(x.T)[0, 0]) > 0.5 * float(covariance[0, 0]) > 0.02


def test_in_part_it_has_the_noise_that_its_token_has() -> None:
    """The deviation is sigma about alpha x0, whatever share of it is the measurement's error."""
    x0 = torch.full((50_000, TOKENS, 2), 0.7, dtype=DOUBLE)
    noise = torch.randn(2, *x0.shape, generator=generator(1), dtype=DOUBLE)
    seen = Measurement(mask(features=1), x0 + DEVIATION * noise[0], LEVEL)
    for level in (LEVEL, 0.6, 1.0):
        levels = torch.full((1, TOKENS), level, dtype=DOUBLE)
        held = seen.hold(torch.zeros_like(x0), levels, noise_schedule=SCHEDULE, noise=noise[1])
        alpha, sigma = SCHEDULE.alpha(levels[0, 0]), SCHEDULE.sigma(levels[0, 0])
        assert held[:, 0, 0].mean() == pytest.approx(0.7 * float(alpha), abs=0.02)
        assert held[:, 0, 0].std() == pytest.approx(float(sigma), rel=0.02)
        assert not held[:, 0, 1].any() and not held[:, 1:].any()
    less = torch.full((1, TOKENS), 0.9 * LEVEL, dtype=DOUBLE)
    assert not seen.hold(torch.zeros_like(x0), less, noise_schedule=SCHEDULE, noise=noise[1]).any()


def test_in_part_it_counts_as_it_is_on_few_steps_too() -> None:
    """The column visits the measurement's level, which is more exact than a step across it."""
    for steps, matrix in product([2, 5, 10], MATRICES):
        deviation = 0.05
        level = float(SCHEDULE.level_at(-2 * torch.tensor(deviation, dtype=DOUBLE).log()))
        values = torch.zeros(20_000, TOKENS, 2, dtype=DOUBLE)
        values[:, 0, 0] = measured = 0.8
        x = run(
            Measurement(mask(features=1), values, level),
            matrix=matrix,
            steps=steps,
            solver=DPMSolver(),
            start=None,
        )
        variance = float(DATA.covariance[0, 0])
        gain = variance / (variance + deviation**2)
        mean = float(DATA.mean[0, 0]) + gain * (measured - float(DATA.mean[0, 0]))
        found = x[:, 0, 0]
        print(f"\n{matrix}, {steps} steps: {float(found.mean()):.3f} +- {float(found.std()):.3f}")
        assert float(found.mean()) == pytest.approx(mean, abs=deviation)
        assert float(found.std()) < 1.5 * deviation


def test_columns_of_tokens_measured_in_part_visit_its_level() -> None:
    seen = Measurement(mask(features=1), torch.zeros(1, TOKENS, 2), 0.3)
    rows = {
        (1.0, 0.75, 0.5, 0.25, 0.0): (1.0, 0.75, 0.5, 0.3, 0.0),
        (1.0, 1.0, 0.5, 0.0, 0.0): (1.0, 1.0, 0.3, 0.0, 0.0),
        (1.0, 0.3, 0.1, 0.1, 0.0): (1.0, 0.3, 0.1, 0.1, 0.0),
        (1.0, 0.6, 0.2, 0.2, 0.0): (1.0, 0.6, 0.3, 0.2, 0.0),
        (1.0, 0.0): (1.0, 0.0),  # no row lies between
    }
    for before, after in rows.items():
        column = torch.tensor(before)[:, None, None].expand(-1, 1, TOKENS)
        found = seen.levels(column)
        torch.testing.assert_close(found[:, 0, 0], torch.tensor(after))
        assert torch.equal(found[..., 1:], column[..., 1:])


def test_futures_of_what_is_measured_in_part_are_refused() -> None:
    values, column = torch.zeros(1, TOKENS, 2), torch.linspace(1.0, 0.0, 5)
    guide = Guidance(objective=lambda x, level: x.sum(dim=(1, 2)), gradient_at="denoiser")
    for features, raises in ((2, False), (1, True)):
        expected = pytest.raises(PgdiffError, match="`monte_carlo` must be None if tokens were")
        with expected if raises else nullcontext():
            sample(
                shrink,
                noise_schedule=SCHEDULE,
                levels=MATRICES["pyramid"].matrix(column, tokens=TOKENS),
                shape=(1, TOKENS, 2),
                generators=[generator(0)],
                solver=DDIM(),
                measurement=Measurement(mask(features=features), values, 0.3),
                guidance=[guide],
                monte_carlo=MonteCarlo(),
            )


def check_guides_do_not_move_what_was_measured(features: int, gradient_at: Any) -> None:
    """A plan is to be good from the present state, not from a state that would be better."""
    values, column = torch.full((3, TOKENS, 2), 0.5), torch.linspace(1.0, 0.0, 9)

    def drawn(scale: float) -> Tensor:
        return sample(
            shrink,  # each feature by itself
            noise_schedule=SCHEDULE,
            levels=MATRICES["pyramid"].matrix(column, tokens=TOKENS),
            shape=(3, TOKENS, 2),
            generators=[generator(0)],
            solver=DDIM(),
            measurement=Measurement(mask(features=features), values, 0.3),
            guidance=[
                Guidance(
                    objective=lambda x, level: x.sum(dim=(1, 2)),
                    gradient_at=gradient_at,
                    scale=scale,
                )
            ],
        )

    calm, steered = drawn(0.0), drawn(1.0)
    measured = mask(features=features).expand_as(calm)
    assert torch.equal(calm[measured], steered[measured])
    assert (steered[~measured] > calm[~measured]).all()


def test_guides_do_not_move_what_was_measured() -> None:
    for gradient_at, features in product(["x0", "x", "denoiser"], [1, 2]):
        check_guides_do_not_move_what_was_measured(features, gradient_at)


def test_every_solver_denoises_it() -> None:
    """Every solver denoises it beside an in-painted goal; equal seeds give equal samples."""
    for features, solver in product([1, 2], [DDIM(), DDPM(), Heun(), DPMSolver(), Churn()]):
        values = torch.full((3, TOKENS, 2), 0.5)
        goal = torch.zeros(1, TOKENS, 2, dtype=torch.bool)
        goal[:, -1] = True
        column = torch.linspace(1.0, 0.0, 9)
        drawn = [
            sample(
                shrink,
                noise_schedule=SCHEDULE,
                levels=FullSequence().matrix(column, tokens=TOKENS),
                shape=(3, TOKENS, 2),
                generators=[generator(0)],
                solver=solver,
                inpainting=Inpainting(goal, values),
                measurement=Measurement(mask(features=features), values, 0.3),
            )
            for _ in range(2)
        ]
        assert torch.equal(*drawn)
        assert torch.equal(drawn[0][:, -1], values[:, -1])
        assert not torch.equal(drawn[0][:, 0, 0], values[:, 0, 0])


def test_each_trajectory_may_have_a_level_of_its_own() -> None:
    """Each is sampled as if all had its level; at level 0 the measurement is exact."""
    values = torch.linspace(-1, 1, 3 * TOKENS * 2, dtype=DOUBLE).reshape(3, TOKENS, 2)
    levels = [0.0, 0.2, 0.5]

    column = torch.linspace(1.0, 0.0, 10, dtype=DOUBLE)
    whole = [
        sample(
            shrink,
            noise_schedule=SCHEDULE,
            levels=FullSequence().matrix(column, tokens=TOKENS),
            shape=(3, TOKENS, 2),
            generators=[generator(0)],
            solver=DDIM(),
            measurement=Measurement(mask(), values, level),
            dtype=DOUBLE,
        )
        for level in (torch.tensor(levels), *levels)
    ]
    for row, each in enumerate(whole[1:]):
        torch.testing.assert_close(whole[0][row], each[row], rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(whole[1][:, 0], values[:, 0])


def test_churn_steps_from_where_it_estimates() -> None:
    """A solver that raises a token's noise gets the estimate of the raised sample."""
    calls: list[tuple[Tensor, Tensor]] = []
    steps: list[SamplerStep] = []

    def denoise(x: Tensor, level: Tensor) -> Tensor:
        calls.append((x, level))
        return shrink(x, level)

    column = torch.linspace(1.0, 0.0, 9)
    sample(
        denoise,
        noise_schedule=SCHEDULE,
        levels=FullSequence().matrix(column, tokens=TOKENS),
        shape=(2, TOKENS, 2),
        generators=[generator(0)],
        solver=Churn(churn=8.0, solver=DDIM()),
        measurement=Measurement(mask(), torch.full((2, TOKENS, 2), 0.5), 0.3),
        callback=steps.append,
    )
    raised = 0
    for (x, level), step in zip(calls, steps, strict=True):
        if not step.level_to[0, 0] < step.level[0, 0]:
            continue
        raised += bool(level[0, 0] > step.level[0, 0])
        x0_hat = shrink(x, level)[:, 0]
        now, then = level[:, 0, None], step.level_to[:, 0, None]
        epsilon = (x[:, 0] - SCHEDULE.alpha(now) * x0_hat) / SCHEDULE.sigma(now)
        expected = SCHEDULE.alpha(then) * x0_hat + SCHEDULE.sigma(then) * epsilon
        torch.testing.assert_close(step.x[:, 0], expected, rtol=1e-4, atol=1e-5)
    assert raised > 0, "the measured token is raised above its level when it first moves"


def test_a_measured_token_starts_at_its_level_or_above() -> None:
    column = torch.linspace(1.0, 0.0, 6)
    levels = FullSequence().matrix(column, tokens=TOKENS).clone()
    levels[:, 0] = 0.0
    with pytest.raises(
        PgdiffError, match="at the measurement's level or above in the measured token 0"
    ):
        sample(
            shrink,
            noise_schedule=SCHEDULE,
            levels=levels,
            shape=(2, TOKENS, 2),
            generators=[generator(0)],
            solver=DDIM(),
            measurement=Measurement(mask(), torch.zeros(2, TOKENS, 2), 0.3),
        )


def test_bad_input_is_named() -> None:
    values = torch.zeros(3, TOKENS, 2)
    for level in (1.0, -0.1, float("nan"), torch.tensor([0.1, 1.0, 0.2])):
        with pytest.raises(PgdiffError, match=r"`level` must be a number in \[0.0, 1.0\)"):
            Measurement(mask(), values, level)
    for wrong in ("a", None, ["a"] * 3, torch.full((3, 1), 0.1)):
        with pytest.raises(PgdiffError, match=r"`level` must be a number in \[0.0, 1.0\)"):
            Measurement(mask(), values, wrong)  # type: ignore[arg-type]
    for levels in (torch.tensor([0.1, 0.2]), [0.1, 0.2], np.array([0.1, 0.2])):
        with pytest.raises(PgdiffError, match=r"`level` must have shape \[3\].* Got \[2\]"):
            Measurement(mask(), values, levels)  # type: ignore[arg-type]
    with pytest.raises(PgdiffError, match=r"or the mask a batch of 1. Got \[2, 4, 2\]"):
        Measurement(mask().expand(2, -1, -1), values, 0.3)
    with pytest.raises(PgdiffError, match="`mask` must have dtype bool"):
        Measurement(mask().float(), values, 0.3)
    with pytest.raises(PgdiffError, match=r"`values` must have shape \[batch, tokens, features\]"):
        Measurement(mask()[0], values[0], 0.3)
    with pytest.raises(PgdiffError, match="`mask` and `values` must have the same shape"):
        Measurement(mask(), values[:, 1:], 0.3)
    values[1, 0, 1] = float("nan")
    with pytest.raises(PgdiffError, match="`values` must be finite where they were measured"):
        Measurement(mask(), values, 0.3)
    Measurement(mask(features=1), values, 0.3)
    with pytest.raises(PgdiffError, match="`measurement` must have shape"):
        sample(
            shrink,
            noise_schedule=SCHEDULE,
            levels=FullSequence().matrix(torch.tensor([1.0, 0.0]), tokens=TOKENS),
            shape=(2, TOKENS, 2),
            generators=[generator(0)],
            solver=DDIM(),
            measurement=Measurement(mask(), torch.zeros(3, TOKENS, 2), 0.3),
        )


def test_a_token_is_known_or_measured() -> None:
    values = torch.zeros(2, TOKENS, 2)
    settings: dict[str, Any] = {
        "noise_schedule": SCHEDULE,
        "levels": FullSequence().matrix(torch.tensor([1.0, 0.5, 0.0]), tokens=TOKENS),
        "shape": (2, TOKENS, 2),
        "generators": [generator(0)],
        "solver": DDIM(),
    }
    for features in (1, 2):
        seen = Measurement(mask(features=features), values, 0.3)
        with pytest.raises(PgdiffError, match=r"`inpainting` gives as a whole\. Got token 0"):
            sample(shrink, inpainting=Inpainting(mask(), values), measurement=seen, **settings)
    # In a token that is known in part, the known features are held and measurements are ignored.
    part = Inpainting(mask(features=1), values + 0.7)
    x = sample(shrink, inpainting=part, measurement=Measurement(mask(), values, 0.3), **settings)
    assert (x[:, 0, 0] == 0.7).all()
