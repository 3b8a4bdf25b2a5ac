"""Every token of a batch at its own levels, against a separate reference scheduler for each.

The tokens differ in their steps, spacing and first level, and stay where they are in rows drawn at
random: the noise that these rows offer must not be used, and other tokens must not be affected.
"""

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from diffusers import DDIMScheduler, DDPMScheduler, LCMScheduler
from diffusers_columns import (
    LCM_SETTINGS,
    consistency_function,
    ddim_column,
    ddpm_column,
    dpm_column,
    edm_euler_column,
    heun_column,
    lcm_column,
)
from diffusers_oracle import Column, check, largest_error, nonlinear, table_of

from pgdiff.diffusion import DDIM, DDPM, Churn, Consistency, DPMSolver, EDMSchedule, Heun
from pgdiff.diffusion.schedules import NoiseSchedule

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

SEEDS = (0, 1, 2)
SPACINGS = ("leading", "linspace", "trailing")
RUNS = ((7, 0), (10, 2), (16, 0), (16, 5), (23, 4), (1, 0))
"""Steps of a token's list, and the number of first steps that are left out."""


def compare(
    name: str,
    solver: Any,
    noise_schedule: NoiseSchedule,
    columns: Sequence[Column],
    estimate: Any = None,
) -> None:
    estimate = estimate or nonlinear(noise_schedule)
    for seed in SEEDS:
        error = largest_error(
            solver, noise_schedule, columns, estimate=estimate, seed=seed, stalls=3 * seed
        )
        check(f"{name}, {len(columns)} tokens, seed {seed}, {3 * seed} more rows", error)


def test_ddpm() -> None:
    for variance in ["small", "large"]:
        columns = [
            ddpm_column(steps, variance=variance, start=start, timestep_spacing=spacing)
            for spacing in SPACINGS
            for steps, start in RUNS
        ]
        compare(f"DDPM {variance}", DDPM(variance=variance), table_of(DDPMScheduler()), columns)


def test_ddim() -> None:
    for eta in [0.0, 0.5, 1.0]:
        columns = [
            ddim_column(steps, eta=eta, start=start, timestep_spacing=spacing)
            for spacing in SPACINGS
            for steps, start in RUNS
        ]
        compare(f"DDIM {eta}", DDIM(eta=eta), table_of(DDIMScheduler()), columns)


def test_dpm_solver() -> None:
    for order in [1, 2]:
        settings: tuple[dict[str, Any], ...] = (
            {"timestep_spacing": "linspace"},
            {"timestep_spacing": "trailing"},
            {"use_karras_sigmas": True},
            {"final_sigmas_type": "sigma_min", "lower_order_final": False},
        )
        pairs = [
            dpm_column(steps, start=start, order=order, **setting)
            for setting in settings
            for steps, start in RUNS
        ]
        columns = [column for _, column in pairs]
        compare(f"DPM-Solver++ {order}", DPMSolver(order=order), pairs[0][0], columns)


def test_heun() -> None:
    settings: tuple[dict[str, Any], ...] = (
        {"timestep_spacing": "linspace"},
        {"timestep_spacing": "trailing"},
        {"use_karras_sigmas": True},
    )
    pairs = [
        heun_column(steps, start=start, **setting)
        for setting in settings
        for steps, start in RUNS
        if steps > 1
    ]
    compare("Heun", Heun(), pairs[0][0], [column for _, column in pairs])


def test_churn_with_edms_euler() -> None:
    """S_churn is divided by the steps of each token's own list."""
    for amount in [0.0, 4.0, 80.0]:
        churn = Churn(churn=amount, solver=DDIM())
        pairs = [
            edm_euler_column(steps, churn, grid=grid, start=start)
            for grid in ("karras", "exponential")
            for steps, start in RUNS
            if steps > 1
        ]
        compare(f"EDM Euler churn {amount}", churn, EDMSchedule(), [column for _, column in pairs])


def test_consistency_with_lcms_step() -> None:
    scheduler = LCMScheduler(beta_schedule="linear", beta_end=0.02)
    columns = [lcm_column(start, **setting) for setting in LCM_SETTINGS for start in (0, 1, 3)]
    function = consistency_function(scheduler)
    compare("LCM", Consistency(), table_of(scheduler), columns, function)


def test_the_comparison_sees_a_history_that_stalls_reset() -> None:
    """A solver that forgets its history wherever a token stays must fail on the same rows."""

    class Forgetful(DPMSolver):
        def step(self, at: Any, state: Any) -> Any:
            stepped, state = super().step(at, state)
            state.log_ratio[~at.moving] = -torch.inf
            return stepped, state

    table, column = dpm_column(10)
    error = largest_error(
        Forgetful(), table, [column] * 3, estimate=nonlinear(table), seed=1, stalls=4
    )
    print(f"forgetting at stalls: error {error:.1e}")
    assert error > 1e-3
