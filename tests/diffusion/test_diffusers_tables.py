"""Solvers against diffusers' classes that step through a table of alphas, every step of a run."""

from itertools import product

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


def test_ddpm() -> None:
    for spacing, betas, kind, variance in product(
        SPACINGS, BETAS, ["sample", "epsilon"], ["small", "large"]
    ):
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


def test_ddim() -> None:
    for spacing, betas, kind, eta in product(
        SPACINGS, BETAS, ["sample", "epsilon"], [0.0, 0.5, 1.0]
    ):
        config = {"timestep_spacing": spacing, "beta_schedule": betas, "prediction_type": kind}
        table = table_of(DDIMScheduler(beta_schedule=betas))
        # 30 does not divide 1,000: levels from and to which it goes differ from those of one row.
        for steps in (20, 30):
            column = ddim_column(steps, eta=eta, **config)
            error = largest_error(DDIM(eta=eta), table, [column], estimate=nonlinear(table), seed=2)
            check(f"DDIM eta {eta} {spacing} {betas} {kind} {steps}", error)


def test_consistency_is_lcms_step() -> None:
    for kind, setting in product(["sample", "epsilon"], LCM_SETTINGS):
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
