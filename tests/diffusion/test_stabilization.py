"""A label that differs from the true level: its definition, and its bias."""

import pytest
import torch
from oracles import DOUBLE, SCHEDULES, Gaussian, affine, ar1, generator, relative, shrink
from torch import Tensor

from pgdiff.core.validation import PgdiffError
from pgdiff.diffusion import DDIM, sample
from pgdiff.diffusion.level_schedules import Autoregressive, Pyramid
from pgdiff.diffusion.sampler import stabilized

TOKENS, STEPS = 8, 50


def covariance_error(levels: Tensor, stabilization: float) -> float:
    """Return the covariance error from pure noise with the exact denoiser of AR(1) data."""
    mean = torch.zeros(TOKENS, 1, dtype=DOUBLE)
    data = Gaussian(mean, ar1(TOKENS), SCHEDULES["linear"])
    matrix, _ = affine(
        lambda start: sample(
            data.denoise,
            noise_schedule=data.noise_schedule,
            levels=levels,
            shape=(len(start), TOKENS, 1),
            generators=[generator(0)],
            solver=DDIM(),
            stabilization=stabilization,
            start=start,
            dtype=DOUBLE,
        ),
        (TOKENS, 1),
    )
    return relative(matrix @ matrix.T, data.covariance)


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(("level", "expected"), [(0.0, 0.090), (0.01, 0.095), (0.1, 0.244)])
def test_the_bias_of_an_autoregressive_schedule(level: float, expected: float) -> None:
    """At levels 10 and 100 of 1,000 it equals independent numbers (linear schedule, 50 steps)."""
    column = torch.linspace(1.0, 0.0, STEPS + 1, dtype=DOUBLE)
    error = covariance_error(Autoregressive().matrix(column, tokens=TOKENS), level)
    print(f"\nlabel {level}: covariance error {error:.4f}")
    assert error == pytest.approx(expected, abs=1.5e-3)


@pytest.mark.usefixtures("unchecked")
def test_more_steps_do_not_take_the_bias_away() -> None:
    """The bias remains when the error of first order is extrapolated away."""
    limits = []
    for label in (0.0, 0.1):
        coarse, fine = (
            covariance_error(
                Autoregressive().matrix(
                    torch.linspace(1.0, 0.0, steps + 1, dtype=DOUBLE), tokens=TOKENS
                ),
                label,
            )
            for steps in (60, 120)
        )
        limits.append(2 * fine - coarse)
        print(f"\nlabel {label}, 60, 120 and many steps: {coarse:.4f} {fine:.4f} {limits[-1]:.4f}")
    assert abs(limits[0]) < 0.01 and limits[1] > 0.15


def test_clean_tokens_are_labelled_noisy_and_left_as_they_are() -> None:
    seen = []

    def denoise(x: Tensor, level: Tensor) -> Tensor:
        seen.append((x, level))
        return shrink(x, level)

    noise_schedule = SCHEDULES["cosine"]
    x = torch.randn(2, 3, 3, generator=generator(0))
    level = torch.tensor([[0.0, 0.4, 1.0]])
    x0_hat = stabilized(denoise, 0.2, noise_schedule=noise_schedule)(x, level)
    ((passed_x, passed_level),) = seen
    assert passed_level.tolist() == [[pytest.approx(0.2), pytest.approx(0.4), 1.0]]
    alpha = noise_schedule.alpha(torch.tensor(0.2))
    torch.testing.assert_close(passed_x[:, 0], alpha * x[:, 0])
    assert torch.equal(passed_x[:, 1:], x[:, 1:])
    assert torch.equal(x0_hat[:, 0], x[:, 0])
    assert torch.equal(x0_hat[:, 1:], shrink(passed_x, passed_level)[:, 1:])


def test_level_0_changes_nothing() -> None:
    assert stabilized(shrink, 0.0, noise_schedule=SCHEDULES["cosine"]) is shrink
    column = torch.linspace(1.0, 0.0, 6)
    levels = Pyramid().matrix(column, tokens=4)
    drawn = [
        sample(
            shrink,
            noise_schedule=SCHEDULES["cosine"],
            levels=levels,
            shape=(2, 4, 3),
            generators=[generator(0)],
            solver=DDIM(),
            stabilization=level,
        )
        for level in (0.0, 0.3)
    ]
    assert not torch.equal(drawn[0], drawn[1])


def test_a_level_out_of_range_is_named() -> None:
    for level in [-0.1, 1.0, float("nan")]:
        with pytest.raises(PgdiffError, match="`stabilization` must be"):
            stabilized(shrink, level, noise_schedule=SCHEDULES["cosine"])
