"""The levels that the steps visit."""

import math
import warnings
from itertools import product
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pgdiff.core.registry import from_config, registered, to_config
from pgdiff.core.validation import PgdiffError
from pgdiff.diffusion.schedules import (
    CosineSchedule,
    EDMSchedule,
    FlowSchedule,
    LinearSchedule,
    SigmoidSchedule,
    TabulatedSchedule,
)
from pgdiff.diffusion.spacing import (
    KarrasSpacing,
    LogSnrSpacing,
    Spacing,
    TrailingSpacing,
    UniformSpacing,
)

DOUBLE = torch.float64
TABLE = torch.cumprod(1 - torch.linspace(1e-4, 0.02, 1000, dtype=DOUBLE), 0)
SCHEDULES: dict[str, Any] = {
    "cosine": CosineSchedule(),
    "linear": LinearSchedule(),
    "sigmoid": SigmoidSchedule(),
    "flow": FlowSchedule(),
    "edm": EDMSchedule(),
    "wide edm": EDMSchedule(sigma_max=500.0),
    "tabulated": TabulatedSchedule(alphas_cumprod=tuple(TABLE.tolist())),
}
SPACINGS: dict[str, Any] = {
    "uniform": UniformSpacing(),
    "log_snr": LogSnrSpacing(),
    "karras": KarrasSpacing(),
    "trailing": TrailingSpacing(),
}


@settings(max_examples=200, deadline=None, derandomize=True)
@given(
    spacing=st.sampled_from(sorted(SPACINGS)),
    name=st.sampled_from(sorted(SCHEDULES)),
    steps=st.integers(1, 1000),
)
def test_every_column_falls_strictly_from_1_to_0(spacing: str, name: str, steps: int) -> None:
    part = SPACINGS[spacing]
    assert isinstance(part, Spacing)
    levels = part.levels(steps, noise_schedule=SCHEDULES[name])
    assert levels.shape == (steps + 1,) and levels.dtype == DOUBLE
    assert levels[0] == 1 and levels[-1] == 0
    assert (levels.diff() < 0).all()


def test_round_trip() -> None:
    for spacing in sorted(SPACINGS):
        part = SPACINGS[spacing]
        assert registered("spacing")[spacing] is type(part)
        assert from_config("spacing", to_config(part)) == part


def inner_log_snr(name: str, spacing: Any, steps: int = 40) -> torch.Tensor:
    """Return log_snr of all rows but the first, which is 1, and the last, which is 0."""
    noise_schedule = SCHEDULES[name]
    inner: torch.Tensor = noise_schedule.log_snr(
        spacing.levels(steps, noise_schedule=noise_schedule)
    )[1:-1]
    return inner


def test_log_snr_is_uniform_between_its_bounds() -> None:
    for name in sorted(SCHEDULES):
        inner = inner_log_snr(name, LogSnrSpacing(high=9.0, low=-9.5))
        first = max(-9.5, float(SCHEDULES[name].log_snr(torch.ones((), dtype=DOUBLE))))
        expected = torch.linspace(first, 9.0, 40, dtype=DOUBLE)[1:]
        error = float((inner - expected).abs().max())
        print(f"\nlog_snr spacing, {name}, from {first:.3f}: largest error {error:.1e}")
        assert error < 1e-10


def test_karras_is_equation_5() -> None:
    for name, rho in product(sorted(SCHEDULES), [1.0, 7.0]):
        spacing = KarrasSpacing(sigma_min=0.02, sigma_max=80.0, rho=rho)
        got = (-inner_log_snr(name, spacing) / 2).exp().numpy()
        i = np.arange(40)
        expected = (80.0 ** (1 / rho) + i / 39 * (0.02 ** (1 / rho) - 80.0 ** (1 / rho))) ** rho
        error = np.abs(got / expected[1:] - 1).max()
        print(f"\nKarras spacing, {name}, rho {rho:g}: largest relative error {error:.1e}")
        assert error < 1e-10


def test_karras_on_edms_own_schedule_visits_every_sigma_of_the_paper() -> None:
    """This includes the first, because its level 1 is sigma_max."""
    noise_schedule = EDMSchedule()
    sigma = noise_schedule.sigma(KarrasSpacing().levels(18, noise_schedule=noise_schedule)).numpy()
    i = np.arange(18)
    paper = (80.0 ** (1 / 7) + i / 17 * (0.002 ** (1 / 7) - 80.0 ** (1 / 7))) ** 7
    np.testing.assert_allclose(sigma, [*paper, 0.0], rtol=1e-12)


def test_bounds_stop_where_the_schedule_does() -> None:
    narrow = EDMSchedule(sigma_max=40.0)
    sigma = narrow.sigma(KarrasSpacing(rho=1.0).levels(5, noise_schedule=narrow))
    expected = torch.tensor([*np.linspace(40.0, 0.002, 5), 0.0], dtype=DOUBLE)
    torch.testing.assert_close(sigma, expected, rtol=1e-9, atol=0)
    log_snr = narrow.log_snr(LogSnrSpacing().levels(5, noise_schedule=narrow))[:-1]
    expected = torch.linspace(-2 * math.log(40.0), 12.0, 5, dtype=DOUBLE)
    torch.testing.assert_close(log_snr, expected, rtol=1e-9, atol=1e-9)


def test_one_and_two_steps() -> None:
    noise_schedule = EDMSchedule(sigma_max=80.0, rho=1.0)
    for spacing in SPACINGS.values():
        assert spacing.levels(1, noise_schedule=noise_schedule).tolist() == [1.0, 0.0]
    two = KarrasSpacing().levels(2, noise_schedule=noise_schedule)
    torch.testing.assert_close(two, torch.tensor([1.0, 0.002 / 80, 0.0], dtype=DOUBLE))


def test_trailing_is_diffusers() -> None:
    """This covers all step counts that divide the table, and of the others all but the halves.

    In floats diffusers rounds halves by chance, and sometimes adds a timestep of -1, which is
    left out here.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from diffusers import DDIMScheduler

        reference = DDIMScheduler(timestep_spacing="trailing")
    compared = halves = 0
    for steps in range(1, 1001):
        reference.set_timesteps(steps)
        levels = TrailingSpacing().levels(steps, noise_schedule=CosineSchedule())
        timesteps = reference.timesteps.numpy()[:steps]
        got = np.round(levels.numpy()[:-1] * 1000).astype(int) - 1
        exact = 1000 * (steps - np.arange(steps)) / steps
        half = np.abs(exact % 1 - 0.5) < 1e-6
        assert (got == timesteps)[~half].all()
        assert np.abs(got - timesteps).max() <= 1
        if 1000 % steps == 0:
            assert (got == timesteps).all() and len(reference.timesteps) == steps
        compared, halves = compared + steps, halves + int(half.sum())
    print(f"\ntrailing: {compared - halves} timesteps are diffusers', {halves} halves within 1")


@pytest.mark.usefixtures("unchecked")
def test_bad_steps_are_named() -> None:
    for spacing in sorted(SPACINGS):
        wrong: Any
        for wrong in (0, -3, 2.0, True):
            with pytest.raises(PgdiffError, match="`steps`"):
                SPACINGS[spacing].levels(wrong, noise_schedule=EDMSchedule())


@pytest.mark.usefixtures("unchecked")
def test_bad_settings_are_named() -> None:
    for field, build in [
        ("high", lambda: LogSnrSpacing(high=-12.0)),
        ("high", lambda: LogSnrSpacing(high=math.inf)),
        ("low", lambda: LogSnrSpacing(low=-math.inf)),
        ("sigma_min", lambda: KarrasSpacing(sigma_min=0.0)),
        ("sigma_max", lambda: KarrasSpacing(sigma_max=0.002)),
        ("rho", lambda: KarrasSpacing(rho=0.5)),
        ("train_steps", lambda: TrailingSpacing(train_steps=0)),
        ("steps", lambda: TrailingSpacing(train_steps=9).levels(10, noise_schedule=EDMSchedule())),
    ]:
        with pytest.raises(PgdiffError, match=f"`{field}` must"):
            build()
    clean = EDMSchedule(sigma_max=0.001, allow_leak=True)
    with pytest.raises(PgdiffError, match=r"`sigma_min` must be below .* level 1, 0.001"):
        KarrasSpacing().levels(3, noise_schedule=clean)
    with pytest.raises(PgdiffError, match=r"`high` must be above the log_snr of level 1"):
        LogSnrSpacing().levels(3, noise_schedule=clean)
    with pytest.raises(PgdiffError, match=r"`high` must leave room for 20 different levels"):
        LogSnrSpacing(high=-180.0, low=-200.0).levels(20, noise_schedule=CosineSchedule())
