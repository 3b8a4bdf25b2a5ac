import json
import math
from itertools import product
from typing import Any

import pytest
import torch
from diffusers import DDPMScheduler
from hypothesis import given, settings
from hypothesis import strategies as st
from oracles import DOUBLE
from torch import Tensor

from pgdiff.core.registry import from_config, registered, to_config
from pgdiff.core.validation import PgdiffError
from pgdiff.diffusion import (
    CosineSchedule,
    EDMSchedule,
    FlowSchedule,
    LinearSchedule,
    NoiseSchedule,
    SigmoidSchedule,
    TabulatedSchedule,
)
from pgdiff.diffusion.schedules import add_noise


def diffusers_table(**settings: Any) -> tuple[float, ...]:
    return tuple(DDPMScheduler(**settings).alphas_cumprod.tolist())


PARTS = [
    CosineSchedule(),
    CosineSchedule(offset=0.0),
    CosineSchedule(offset=0.5),
    LinearSchedule(),
    LinearSchedule(beta_min=10.0, beta_max=10.0),
    LinearSchedule(beta_min=0.1, beta_max=300.0),
    SigmoidSchedule(),
    SigmoidSchedule(start=0.0, end=3.0, tau=0.1),
    SigmoidSchedule(start=-1.0, end=3.0, tau=5.0),
    FlowSchedule(),
    EDMSchedule(),
    EDMSchedule(sigma_max=40.0, rho=1.0),
    TabulatedSchedule(alphas_cumprod=diffusers_table()),
    TabulatedSchedule(alphas_cumprod=diffusers_table(beta_schedule="squaredcos_cap_v2")),
    TabulatedSchedule(alphas_cumprod=(0.9, 0.5, 0.01, 0.0)),
]
PRESERVING = [s for s in PARTS if not isinstance(s, EDMSchedule | FlowSchedule)]
PURE_NOISE = [s for s in PARTS if s.alpha(torch.ones(())) == 0]  # nothing is left at level 1


def levels() -> Tensor:
    """Return levels that are evenly spaced, and levels close to both ends."""
    close = torch.logspace(-12, -1, 111, dtype=DOUBLE)
    return torch.cat([torch.linspace(0, 1, 2001, dtype=DOUBLE), close, 1 - close])


def test_every_registered_schedule_is_tested() -> None:
    assert {type(noise_schedule) for noise_schedule in PARTS} == set(
        registered("noise_schedule").values()
    )
    assert all(isinstance(noise_schedule, NoiseSchedule) for noise_schedule in PARTS)
    assert len(PURE_NOISE) == 8


# ------------------------------------------------------------------------------- alpha and sigma


def test_ends_are_exact_and_between_them_it_is_monotone() -> None:
    for noise_schedule, dtype in product(PARTS, [torch.float32, DOUBLE]):
        level = torch.linspace(0, 1, 2001, dtype=dtype)
        alpha, sigma, log_snr = (
            noise_schedule.alpha(level),
            noise_schedule.sigma(level),
            noise_schedule.log_snr(level),
        )
        assert alpha.dtype == sigma.dtype == log_snr.dtype == dtype
        assert alpha[0] == 1 and sigma[0] == 0 and log_snr[0] == math.inf
        slack = 1e-14 if dtype == DOUBLE else 1e-6
        assert (alpha.diff() <= slack).all() and (sigma.diff() >= -slack).all()
        assert (log_snr[1:-1].diff() <= 100 * slack).all()
        assert (log_snr[1:-1:50].diff() < 0).all() and log_snr[-1] < log_snr[-50]
        if noise_schedule in PURE_NOISE:
            assert alpha[-1] == 0 and sigma[-1] == 1 and log_snr[-1] == -math.inf
        else:
            assert alpha[-1] > 0 and torch.isfinite(log_snr[-1])


def test_log_snr_is_that_of_alpha_and_sigma() -> None:
    for noise_schedule in PARTS:
        level = levels()
        log_snr = noise_schedule.log_snr(level)
        finite = torch.isfinite(log_snr)
        expected = 2 * (noise_schedule.alpha(level).log() - noise_schedule.sigma(level).log())
        error = (log_snr - expected)[finite].abs().max()
        print(f"\n{noise_schedule}: log_snr against alpha and sigma {float(error):.1e}")
        assert error < 1e-9
        assert torch.equal(log_snr[~finite], expected[~finite])


@settings(max_examples=40, deadline=None, derandomize=True)
@given(level=st.floats(0.0, 1.0))
def test_variance_is_preserved(level: float) -> None:
    at = torch.tensor(level, dtype=DOUBLE)
    for noise_schedule in PRESERVING:
        total = noise_schedule.alpha(at).square() + noise_schedule.sigma(at).square()
        assert abs(float(total) - 1) < 1e-12


def test_any_shape_elementwise() -> None:
    for noise_schedule, shape in product(PARTS, [(), (3,), (2, 3), (2, 1, 3, 1), (0,), (2, 0)]):
        level = torch.rand(shape, generator=torch.Generator().manual_seed(0), dtype=DOUBLE)
        for part in (
            noise_schedule.alpha,
            noise_schedule.sigma,
            noise_schedule.log_snr,
            noise_schedule.level_at,
        ):
            assert part(level).shape == shape and part(level).dtype == DOUBLE
            one_by_one = torch.tensor([part(one) for one in level.reshape(-1)], dtype=DOUBLE)
            torch.testing.assert_close(part(level).reshape(-1), one_by_one, rtol=1e-13, atol=1e-15)


def test_float32_is_close_to_float64() -> None:
    """A naive formula such as `sqrt(1 - alpha^2)` would lose all digits near level 0."""
    for noise_schedule in PARTS:
        level = torch.cat([torch.logspace(-4, 0, 61), 1 - torch.logspace(-4, 0, 61)])
        errors = {}
        for name in ("alpha", "sigma", "log_snr"):
            part = getattr(noise_schedule, name)
            single, double = part(level).double(), part(level.double())
            finite = torch.isfinite(double) & (double != 0)
            error = (single - double)[finite].abs()
            size = double[finite].abs()
            # The rounding error of an exponential grows with the exponent.
            size = size.clamp(min=1.0) if name == "log_snr" else size * (1 + size.log().abs())
            errors[name] = float((error / size).max())
            assert torch.equal(single[~finite], double[~finite])
        back = noise_schedule.level_at(noise_schedule.log_snr(level.double()).float()).double()
        errors["level_at"] = float((back - level).abs().max())
        listed = "  ".join(f"{name} {error:.1e}" for name, error in errors.items())
        print(f"\nfloat32 of {noise_schedule}: largest errors {listed}")
        assert max(errors.values()) < 2e-6


# ------------------------------------------------------------------------------------ inverse


def test_levels_come_back_from_log_snr() -> None:
    for noise_schedule in PARTS:
        level = levels()
        error = (noise_schedule.level_at(noise_schedule.log_snr(level)) - level).abs().max()
        print(f"\n{noise_schedule}: level_at(log_snr(level)) - level {float(error):.1e}")
        assert error < 1e-9


def test_log_snr_comes_back_from_levels() -> None:
    for noise_schedule in PARTS:
        log_snr = torch.linspace(-12, 12, 2001, dtype=DOUBLE)
        least = float(noise_schedule.log_snr(torch.ones((), dtype=DOUBLE)))
        reached = log_snr[log_snr > least]
        error = (noise_schedule.log_snr(noise_schedule.level_at(reached)) - reached).abs().max()
        print(
            f"\n{noise_schedule}: log_snr(level_at(l)) - l {float(error):.1e} for {len(reached)} l"
        )
        assert error < 1e-9
        beyond = noise_schedule.level_at(log_snr[log_snr < least])
        torch.testing.assert_close(beyond, torch.ones_like(beyond), rtol=0, atol=1e-12)


def test_no_noise_and_no_signal_have_levels() -> None:
    for noise_schedule, dtype in product(PARTS, [torch.float32, DOUBLE]):
        for infinite in ([math.inf, -math.inf], [400.0, -400.0]):
            ends = noise_schedule.level_at(torch.tensor(infinite, dtype=dtype)).double()
            assert ends[0] < 1e-6 and ends[1] == pytest.approx(1.0, abs=1e-6)


# ------------------------------------------------------------------------------------ the laws


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


def check_sigmoid_is_jabris(start: float, end: float, tau: float) -> None:
    def sigmoid(z: float) -> float:
        return 1 / (1 + math.exp(-z / tau))

    noise_schedule = SigmoidSchedule(start=start, end=end, tau=tau)
    for level in (0.0, 0.01, 0.3, 0.5, 0.8, 0.99, 1.0):  # algorithm 1
        z = level * (end - start) + start
        expected = (sigmoid(end) - sigmoid(z)) / (sigmoid(end) - sigmoid(start))
        alpha_bar = noise_schedule.alpha(torch.tensor(level, dtype=DOUBLE)).square()
        assert float(alpha_bar) == pytest.approx(expected, abs=1e-14)


def test_sigmoid_is_jabris() -> None:
    for start, end, tau in [(-3.0, 3.0, 1.0), (0.0, 3.0, 0.7)]:
        check_sigmoid_is_jabris(start, end, tau)


def test_flow_is_a_line_and_edm_is_karras() -> None:
    level = torch.linspace(0, 1, 11, dtype=DOUBLE)
    assert torch.equal(FlowSchedule().alpha(level) + FlowSchedule().sigma(level), level**0)
    x0, epsilon = torch.randn(2, 3, 11, 2, generator=torch.Generator().manual_seed(0), dtype=DOUBLE)
    line = torch.lerp(x0, epsilon, level[:, None])
    torch.testing.assert_close(add_noise(FlowSchedule(), x0, epsilon, level[None]), line)
    # Eq. 5 of Karras et al. (2022) with sigma_min = 0.
    karras = (80 ** (1 / 7) + (1 - level) * (0 - 80 ** (1 / 7))) ** 7
    torch.testing.assert_close(EDMSchedule().sigma(level), karras, rtol=1e-12, atol=1e-15)
    assert (EDMSchedule().alpha(level) == 1).all()


def test_a_table_of_diffusers_is_met_at_its_entries() -> None:
    for name in ["linear", "scaled_linear", "squaredcos_cap_v2"]:
        table = DDPMScheduler(beta_schedule=name).alphas_cumprod.double()
        noise_schedule = TabulatedSchedule(alphas_cumprod=tuple(table.tolist()))
        level = torch.arange(1, 1001, dtype=DOUBLE) / 1000
        errors = (
            noise_schedule.alpha(level).square() - table,
            noise_schedule.sigma(level).square() - (1 - table),
        )
        between = noise_schedule.alpha((level[1:] + level[:-1]) / 2)
        middle = (table[1:].sqrt() + table[:-1].sqrt()) / 2
        worst = max(float(error.abs().max()) for error in (*errors, between - middle))
        print(f"\n{name}: alpha^2 and sigma^2 at the entries, alpha between: {worst:.1e}")
        assert worst < 1e-12


# ------------------------------------------------------------------------------------- refusals


def leaking() -> list[Any]:
    """LDCQ's (100 steps of betas meant for 1,000), Stable Diffusion's, and weak noise."""
    ldcq = diffusers_table(num_train_timesteps=100, beta_start=1e-4, beta_end=0.02)
    stable = diffusers_table(beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012)
    assert ldcq[-1] == pytest.approx(0.364, abs=5e-4)
    assert stable[-1] == pytest.approx(0.0047, abs=5e-5)
    return [
        (TabulatedSchedule, {"alphas_cumprod": ldcq}, "0.364"),
        (TabulatedSchedule, {"alphas_cumprod": stable}, "0.00466"),
        (LinearSchedule, {"beta_min": 1.0, "beta_max": 1.0}, "0.368"),
        (EDMSchedule, {"sigma_max": 10.0}, "0.0099"),
    ]


def test_signal_left_at_level_1_is_refused_by_name() -> None:
    for kind, fields, share in leaking():
        message = r"signal's share of the variance at level 1 .* Got " + share.replace(".", r"\.")
        with pytest.raises(PgdiffError, match=message) as error:
            kind(**fields)
        assert kind.__name__ in str(error.value) and "allow_leak=True" in str(error.value)
        assert len(str(error.value)) < 500  # a table is not printed
        allowed = kind(**fields, allow_leak=True)
        assert float(allowed.alpha(torch.ones(()))) > 0
        assert from_config("noise_schedule", to_config(allowed)) == allowed


def test_bad_tables_are_refused_with_the_place() -> None:
    for table, fault in [
        ((), "at least one number"),
        ((0.5, 0.5, 0.0), "Got 0.5 at entry 1, after 0.5"),
        ((0.5, 0.6, 0.0), "Got 0.6 at entry 1, after 0.5"),
        ((1.0, 0.5, 0.0), "Got 1.0 at entry 0, after 1.0"),
        ((1.5, 0.5, 0.0), "Got 1.5 at entry 0"),
        ((0.5, -0.1), "Got -0.1 at entry 1"),
        ((0.5, math.nan), "Got nan at entry 1"),
        ((math.inf, 0.0), "Got inf at entry 0"),
    ]:
        with pytest.raises(PgdiffError, match=fault):
            TabulatedSchedule(alphas_cumprod=table)


def test_bad_settings_are_named() -> None:
    for offset in (-0.1, 1.5, math.nan):
        with pytest.raises(PgdiffError, match="`offset`"):
            CosineSchedule(offset=offset)
    for beta_min in (0.0, -1.0, math.inf):
        with pytest.raises(PgdiffError, match="`beta_min`"):
            LinearSchedule(beta_min=beta_min)
    with pytest.raises(PgdiffError, match=r"`beta_max` must be a number in \[5\.0"):
        LinearSchedule(beta_min=5.0, beta_max=4.0)
    with pytest.raises(PgdiffError, match="`tau`"):
        SigmoidSchedule(tau=0.0)
    with pytest.raises(PgdiffError, match="`start / tau` must be a number in"):
        SigmoidSchedule(tau=0.001)
    with pytest.raises(PgdiffError, match="`end`"):
        SigmoidSchedule(start=3.0)
    with pytest.raises(PgdiffError, match="`sigma_max`"):
        EDMSchedule(sigma_max=-1.0)
    with pytest.raises(PgdiffError, match="`rho`"):
        EDMSchedule(rho=0.5)
    with pytest.raises(PgdiffError, match="Did you mean 'cosine'"):
        from_config("noise_schedule", {"name": "cosin"})


def test_config_round_trip() -> None:
    for noise_schedule in PARTS:
        config = json.loads(json.dumps(to_config(noise_schedule)))
        assert config["name"] in registered("noise_schedule")
        assert from_config("noise_schedule", config) == noise_schedule
