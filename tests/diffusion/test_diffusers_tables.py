"""Solvers against diffusers' classes that step through a table of alphas, every step of a run."""

from typing import Any

import pytest
import torch
from diffusers import DDIMScheduler, DDPMScheduler, LCMScheduler
from diffusers_columns import (
    LCM_SETTINGS,
    consistency_function,
    ddim_column,
    ddpm_column,
    lcm_column,
)
from diffusers_oracle import check, largest_error, nonlinear, table_of

from pgdiff.diffusion import DDIM, DDPM, Consistency

SPACINGS = ("leading", "linspace", "trailing")
BETAS = ("linear", "squaredcos_cap_v2")


@pytest.mark.parametrize("spacing", SPACINGS)
@pytest.mark.parametrize("betas", BETAS)
@pytest.mark.parametrize("kind", ["sample", "epsilon"])
@pytest.mark.parametrize("variance", ["small", "large"])
def test_ddpm(spacing: str, betas: str, kind: str, variance: Any) -> None:
    config = {"timestep_spacing": spacing, "beta_schedule": betas, "prediction_type": kind}
    table = table_of(DDPMScheduler(beta_schedule=betas))
    column = ddpm_column(20, variance=variance, **config)
    solver = DDPM(variance=variance)
    error = largest_error(solver, table, [column], estimate=nonlinear(table), seed=0)
    check(f"DDPM {variance} {spacing} {betas} {kind}", error)


def test_ddpm_with_every_entry_of_the_table() -> None:
    table = table_of(DDPMScheduler())
    for variance in ("small", "large"):
        column = ddpm_column(1000, variance=variance)
        solver = DDPM(variance=variance)
        error = largest_error(solver, table, [column], estimate=nonlinear(table), seed=1)
        check(f"DDPM {variance}, 1,000 steps", error)


@pytest.mark.parametrize("spacing", SPACINGS)
@pytest.mark.parametrize("betas", BETAS)
@pytest.mark.parametrize("kind", ["sample", "epsilon"])
@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
def test_ddim(spacing: str, betas: str, kind: str, eta: float) -> None:
    config = {"timestep_spacing": spacing, "beta_schedule": betas, "prediction_type": kind}
    table = table_of(DDIMScheduler(beta_schedule=betas))
    # 30 does not divide 1,000: the levels from and to which it goes are not those of one row.
    for steps in (20, 30):
        column = ddim_column(steps, eta=eta, **config)
        error = largest_error(DDIM(eta=eta), table, [column], estimate=nonlinear(table), seed=2)
        check(f"DDIM eta {eta} {spacing} {betas} {kind} {steps}", error)


@pytest.mark.parametrize("kind", ["sample", "epsilon"])
@pytest.mark.parametrize("setting", LCM_SETTINGS, ids=str)
def test_consistency_is_lcms_step(setting: dict[str, Any], kind: str) -> None:
    scheduler = LCMScheduler(beta_schedule="linear", beta_end=0.02)
    function = consistency_function(scheduler)
    column = lcm_column(prediction_type=kind, **setting)
    table = table_of(scheduler)
    error = largest_error(Consistency(), table, [column], estimate=function, seed=3)
    check(f"LCM {setting} {kind}", error)


def test_the_tables_levels_are_the_schedulers_timesteps() -> None:
    scheduler = DDPMScheduler()
    table = table_of(scheduler)
    level = (torch.arange(1000, dtype=torch.float64) + 1) / 1000
    error = float((table.alpha(level) ** 2 - scheduler.alphas_cumprod).abs().max())
    print(f"alphas_cumprod: largest error {error:.1e}")
    assert error < 1e-12
