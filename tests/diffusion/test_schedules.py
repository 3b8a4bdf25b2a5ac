import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from oracles import DOUBLE

from pgdiff.diffusion import CosineSchedule, LinearSchedule, NoiseSchedule
from pgdiff.registry import from_config, to_config
from pgdiff.validation import PgdiffError

PARTS = [
    CosineSchedule(),
    CosineSchedule(offset=0.0),
    CosineSchedule(offset=0.5),
    LinearSchedule(),
    LinearSchedule(beta_min=1.0, beta_max=1.0),
]
each = pytest.mark.parametrize("schedule", PARTS, ids=repr)


@each
@pytest.mark.parametrize("dtype", [torch.float32, DOUBLE])
def test_ends_are_exact_and_between_them_it_is_monotone(
    schedule: NoiseSchedule, dtype: torch.dtype
) -> None:
    level = torch.linspace(0, 1, 2001, dtype=dtype)
    alpha, sigma = schedule.alpha(level), schedule.sigma(level)
    assert alpha.dtype == sigma.dtype == dtype
    assert alpha[0] == 1 and sigma[0] == 0
    slack = 0.0 if dtype == DOUBLE else 1e-6
    assert (alpha.diff() <= slack).all() and (sigma.diff() >= -slack).all()
    assert alpha[-1] < alpha[1000] < alpha[0] and sigma[-1] > sigma[1000] > sigma[0]
    if isinstance(schedule, CosineSchedule):
        assert alpha[-1] == 0 and sigma[-1] == 1


@each
@settings(max_examples=40, deadline=None, derandomize=True)
@given(level=st.floats(0.0, 1.0))
def test_variance_is_preserved(schedule: NoiseSchedule, level: float) -> None:
    at = torch.tensor(level, dtype=DOUBLE)
    total = schedule.alpha(at).square() + schedule.sigma(at).square()
    assert abs(float(total) - 1) < 1e-12


@each
@pytest.mark.parametrize("shape", [(), (3,), (2, 3), (2, 1, 3, 1), (0,)])
def test_any_shape_elementwise(schedule: NoiseSchedule, shape: tuple[int, ...]) -> None:
    level = torch.rand(shape, generator=torch.Generator().manual_seed(0), dtype=DOUBLE)
    for part in (schedule.alpha, schedule.sigma):
        assert part(level).shape == shape
        one_by_one = [part(one) for one in level.reshape(-1)]
        torch.testing.assert_close(
            part(level).reshape(-1), torch.tensor(one_by_one, dtype=DOUBLE), rtol=1e-14, atol=0
        )


@each
def test_float32_keeps_small_sigmas(schedule: NoiseSchedule) -> None:
    """`sqrt(1 - alpha^2)` as it stands would lose all digits near level 0."""
    level = torch.logspace(-6, 0, 61, dtype=torch.float32)
    error = (schedule.sigma(level) / schedule.sigma(level.double()) - 1).abs().max()
    print(f"\nfloat32 sigma of {schedule}: largest relative error {float(error):.1e}")
    assert error < 2e-6


def test_cosine_is_nichol_and_dhariwals() -> None:
    def f(t: float, s: float = 0.008) -> float:  # eq. 17
        return math.cos((t + s) / (1 + s) * math.pi / 2) ** 2

    for level in (0.0, 1e-3, 0.1, 0.37, 0.5, 0.9, 0.999, 1.0):
        alpha_bar = CosineSchedule().alpha(torch.tensor(level, dtype=DOUBLE)).square()
        assert float(alpha_bar) == pytest.approx(f(level) / f(0.0), abs=1e-14)


def test_linear_is_the_limit_of_ddpms_thousand_steps() -> None:
    errors = []
    for steps in (1000, 4000):
        # The betas of Ho et al. for 1,000 steps, and the same rates in finer steps.
        beta = torch.linspace(1e-4, 0.02, steps, dtype=DOUBLE) * (1000 / steps)
        discrete = torch.cumprod(1 - beta, dim=0).sqrt()
        level = torch.arange(1, steps + 1, dtype=DOUBLE) / steps
        errors.append(float((LinearSchedule().alpha(level) - discrete).abs().max()))
    print(f"\nlinear, |alpha - discrete alpha|: {errors[0]:.2e} (1,000), {errors[1]:.2e} (4,000)")
    # log(1 - beta) differs from -beta by beta^2 / 2, and a sum over steps from the integral by at
    # most one beta: both are of first order in the step.
    assert errors[0] < 1.1e-3
    assert errors[0] / errors[1] == pytest.approx(4.0, rel=0.1)


@each
def test_config_round_trip(schedule: NoiseSchedule) -> None:
    config = to_config(schedule)
    assert config["name"] in ("cosine", "linear")
    assert from_config("schedule", config) == schedule


def test_bad_settings_are_named() -> None:
    for offset in (-0.1, 1.5, math.nan):
        with pytest.raises(PgdiffError, match="`offset`"):
            CosineSchedule(offset=offset)
    for beta_min in (0.0, -1.0, math.inf):
        with pytest.raises(PgdiffError, match="`beta_min`"):
            LinearSchedule(beta_min=beta_min)
    with pytest.raises(PgdiffError, match=r"`beta_max` must be a number in \[5\.0"):
        LinearSchedule(beta_min=5.0, beta_max=4.0)
    with pytest.raises(PgdiffError, match="Did you mean 'cosine'"):
        from_config("schedule", {"name": "cosin"})
