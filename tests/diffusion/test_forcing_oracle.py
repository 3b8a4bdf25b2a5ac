"""Diffusion Forcing's schedules with the exact denoiser of AR(1) data, with known errors.

Tokens of one feature, correlation 0.95, eight of them, the linear schedule, DDIM from noise alone.
The expected figures were computed without this package, for 1,000 levels.
"""

import pytest
import torch
from oracles import DOUBLE, SCHEDULES, Gaussian, affine, ar1, generator, order, relative
from torch import Tensor

from pgdiff.diffusion import DDIM, sample
from pgdiff.diffusion.level_schedules import (
    Autoregressive,
    FullSequence,
    LevelSchedule,
    Pyramid,
    Trapezoid,
)

pytestmark = pytest.mark.usefixtures("unchecked")  # thousands of rows: checks take most time

TOKENS, STEPS = 8, (10, 50, 200, 1000)
DATA = Gaussian(torch.zeros(TOKENS, 1, dtype=DOUBLE), ar1(TOKENS), SCHEDULES["linear"])
EXPECTED: dict[str, tuple[LevelSchedule, tuple[float, ...] | None]] = {
    "full": (FullSequence(), (0.259, 0.058, 0.015, 0.003)),
    "pyramid": (Pyramid(slope=1.0), (0.281, 0.058, 0.015, 0.003)),
    "autoregressive": (Autoregressive(), (0.371, 0.090, 0.024, 0.005)),
    "trapezoid": (Trapezoid(slope=1.0), None),
}


def covariance_error(levels: Tensor) -> float:
    matrix, _ = affine(
        lambda start: sample(
            DATA.denoise,
            noise_schedule=DATA.noise_schedule,
            levels=levels,
            shape=(len(start), TOKENS, 1),
            generators=[generator(0)],
            solver=DDIM(),
            start=start,
            dtype=DOUBLE,
        ),
        (TOKENS, 1),
    )
    return relative(matrix @ matrix.T, DATA.covariance)


@pytest.mark.parametrize("name", EXPECTED)
def test_errors_are_the_known_ones_and_of_first_order(name: str) -> None:
    noise_schedule, expected = EXPECTED[name]
    errors = []
    for steps in STEPS:
        column = torch.linspace(1.0, 0.0, steps + 1, dtype=DOUBLE)
        errors.append(covariance_error(noise_schedule.matrix(column, tokens=TOKENS)))
    fitted = order(STEPS, errors)
    listed = "  ".join(f"{n}: {e:.4f}" for n, e in zip(STEPS, errors, strict=True))
    print(f"\n{name}: {listed}; order {fitted:.3f}")
    if expected is not None:
        assert errors == [pytest.approx(value, abs=1.5e-3) for value in expected]
    assert abs(fitted - 1) < 0.1
