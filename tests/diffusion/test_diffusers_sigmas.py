"""Solvers against diffusers' classes that step through a list of sigmas, every step of a run.

Euler, ancestral Euler, EDM's Euler, flow-match Euler and DPM-Solver++ cast the sample to float32 in
every step; the tolerance allows for that. Heun and EDM's DPM-Solver++ do not. Sigmas are
`sigma / alpha` of the table; the Euler classes and Heun keep `x / alpha` as well.
"""

from itertools import product
from typing import Any

import pytest
import torch
from diffusers import (
    EDMDPMSolverMultistepScheduler,
    EDMEulerScheduler,
    EulerAncestralDiscreteScheduler,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
)
from diffusers_columns import TABLE, column_of, dpm_column, edm_euler_column, heun_column
from diffusers_oracle import Column, by_sigma, check, largest_error, nonlinear

from pgdiff.diffusion import (
    DDIM,
    Churn,
    Consistency,
    DPMSolver,
    EDMSchedule,
    FlowSchedule,
    Heun,
    NoiseSchedule,
)

# diffusers turns its tables into arrays in a way that NumPy 2 has deprecated.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

SPACINGS: tuple[dict[str, Any], ...] = (
    {"timestep_spacing": "leading"},
    {"timestep_spacing": "linspace"},
    {"timestep_spacing": "trailing"},
    {"use_karras_sigmas": True},
    {"use_exponential_sigmas": True},
)
GRIDS = ("karras", "exponential")


def compare(name: str, solver: Any, pair: tuple[NoiseSchedule, Column], **how: Any) -> None:
    noise_schedule, column = pair
    error = largest_error(
        solver, noise_schedule, [column], estimate=nonlinear(noise_schedule), seed=4, **how
    )
    check(name, error)


def test_dpm_solver_to_level_0() -> None:
    """The last step is of first order, like the class's for any `lower_order_final`."""
    for spacing, kind, order in product(SPACINGS, ["sample", "epsilon"], [1, 2]):
        for final in (True, False):
            pair = dpm_column(
                12, order=order, prediction_type=kind, lower_order_final=final, **spacing
            )
            compare(f"DPM-Solver++ {order} {spacing} {kind}", DPMSolver(order=order), pair)


def test_dpm_solver_to_the_tables_smallest_sigma() -> None:
    """A last step that ends above level 0 is of second order here.

    The class takes it at first order if `lower_order_final` is set and there are fewer than 15.
    """
    for spacing in SPACINGS[:3]:
        end = {"final_sigmas_type": "sigma_min", **spacing}
        pair = dpm_column(12, lower_order_final=False, **end)
        assert pair[1].levels_to[-1] > 0
        compare(f"DPM-Solver++ 2 to sigma_min {spacing}", DPMSolver(), pair)
        compare("with 20 steps", DPMSolver(), dpm_column(20, lower_order_final=True, **end))
        pair = dpm_column(12, lower_order_final=True, **end)
        compare("with the last of order 1", DPMSolver(), pair, last=DPMSolver(order=1))
        compare("of order 1", DPMSolver(order=1), dpm_column(12, order=1, **end))


def test_heun() -> None:
    for spacing, kind in product(SPACINGS, ["sample", "epsilon"]):
        pair = heun_column(12, prediction_type=kind, clip_sample=False, **spacing)
        compare(f"Heun {spacing} {kind}", Heun(), pair)


def test_euler_is_ddim() -> None:
    for spacing, kind in product(SPACINGS, ["sample", "epsilon"]):
        for final in ("zero", "sigma_min"):
            scheduler = EulerDiscreteScheduler(
                prediction_type=kind, final_sigmas_type=final, **TABLE, **spacing
            )
            pair = column_of(scheduler, 12, scaled=True)
            compare(f"Euler {spacing} {kind} {final}", DDIM(), pair)


def test_ancestral_euler_is_ddim_at_eta_one() -> None:
    """The class takes epsilon and rejects `sample`."""
    for spacing in SPACINGS[:3]:
        scheduler = EulerAncestralDiscreteScheduler(**TABLE, **spacing)
        pair = column_of(scheduler, 12, scaled=True)
        compare(f"ancestral Euler {spacing}", DDIM(eta=1.0), pair)


def test_edm_euler_with_churn() -> None:
    for grid, amount in product(GRIDS, [0.0, 4.0, 80.0]):
        churn = Churn(churn=amount, solver=DDIM())
        compare(f"EDM Euler {grid} churn {amount}", churn, edm_euler_column(18, churn, grid=grid))


def test_edm_euler_from_the_networks_output() -> None:
    for grid in GRIDS:
        scheduler = EDMEulerScheduler(sigma_schedule=grid)
        scheduler.set_timesteps(18)
        noise_schedule = EDMSchedule()
        column = by_sigma(
            scheduler, noise_schedule, nonlinear(noise_schedule), scaled=False, kind="edm"
        )
        compare(f"EDM Euler {grid}", DDIM(), (noise_schedule, column))


def test_edm_dpm_solver() -> None:
    """With `sigma_min` the class's last step goes nowhere; here the token just stays."""
    for grid, order, final in product(GRIDS, [1, 2], ["zero", "sigma_min"]):
        noise_schedule = EDMSchedule()
        for steps in (12, 18):
            scheduler = EDMDPMSolverMultistepScheduler(
                sigma_schedule=grid, solver_order=order, final_sigmas_type=final
            )
            scheduler.set_timesteps(steps)
            column = by_sigma(
                scheduler, noise_schedule, nonlinear(noise_schedule), scaled=False, kind="edm"
            )
            name = f"EDM DPM-Solver++ {order} {grid} {final} {steps}"
            compare(name, DPMSolver(order=order), (noise_schedule, column))


FLOWS = ({}, {"shift": 3.0}, {"use_karras_sigmas": True}, {"use_exponential_sigmas": True})


def test_flow_match_euler() -> None:
    """Euler's step is DDIM's; with `stochastic_sampling` it is the consistency solver's."""
    for setting, stochastic in product(FLOWS, [False, True]):
        scheduler = FlowMatchEulerDiscreteScheduler(stochastic_sampling=stochastic, **setting)
        scheduler.set_timesteps(12)
        noise_schedule = FlowSchedule()
        column = by_sigma(
            scheduler, noise_schedule, nonlinear(noise_schedule), scaled=False, kind="flow"
        )
        assert torch.equal(column.levels_to, scheduler.sigmas[1:].double())
        solver = Consistency() if stochastic else DDIM()
        compare(f"flow {setting} {solver}", solver, (noise_schedule, column))
