"""Solvers against diffusers' classes that step through a list of sigmas, every step of a run.

Euler, ancestral Euler, EDM's Euler, flow-match Euler and DPM-Solver++ cast the sample to float32 in
every step; the tolerance leaves room for that. Heun and EDM's DPM-Solver++ do not. Sigmas are
`sigma / alpha` of the table; the Euler classes and Heun keep `x / alpha` as well.
"""

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

spacings = pytest.mark.parametrize("spacing", SPACINGS, ids=lambda s: str(next(iter(s.values()))))
kinds = pytest.mark.parametrize("kind", ["sample", "epsilon"])
grids = pytest.mark.parametrize("grid", GRIDS)


def compare(name: str, solver: Any, pair: tuple[NoiseSchedule, Column], **how: Any) -> None:
    schedule, column = pair
    error = largest_error(solver, schedule, [column], estimate=nonlinear(schedule), seed=4, **how)
    check(name, error)


@spacings
@kinds
@pytest.mark.parametrize("order", [1, 2])
def test_dpm_solver_to_level_0(spacing: dict[str, Any], kind: str, order: int) -> None:
    """The last step is of first order, as the class's is whatever `lower_order_final`."""
    for final in (True, False):
        pair = dpm_column(12, order=order, prediction_type=kind, lower_order_final=final, **spacing)
        compare(f"DPM-Solver++ {order} {spacing} {kind}", DPMSolver(order=order), pair)


@pytest.mark.parametrize("spacing", SPACINGS[:3], ids=lambda s: s["timestep_spacing"])
def test_dpm_solver_to_the_tables_smallest_sigma(spacing: dict[str, Any]) -> None:
    """A last step that ends above level 0 is of second order here.

    The class takes it at first order if `lower_order_final` is set and there are fewer than 15.
    """
    end = {"final_sigmas_type": "sigma_min", **spacing}
    pair = dpm_column(12, lower_order_final=False, **end)
    assert pair[1].levels_to[-1] > 0
    compare(f"DPM-Solver++ 2 to sigma_min {spacing}", DPMSolver(), pair)
    compare("with 20 steps", DPMSolver(), dpm_column(20, lower_order_final=True, **end))
    pair = dpm_column(12, lower_order_final=True, **end)
    compare("with the last of order 1", DPMSolver(), pair, last=DPMSolver(order=1))
    compare("of order 1", DPMSolver(order=1), dpm_column(12, order=1, **end))


@spacings
@kinds
def test_heun(spacing: dict[str, Any], kind: str) -> None:
    pair = heun_column(12, prediction_type=kind, clip_sample=False, **spacing)
    compare(f"Heun {spacing} {kind}", Heun(), pair)


@spacings
@kinds
def test_euler_is_ddim(spacing: dict[str, Any], kind: str) -> None:
    for final in ("zero", "sigma_min"):
        scheduler = EulerDiscreteScheduler(
            prediction_type=kind, final_sigmas_type=final, **TABLE, **spacing
        )
        pair = column_of(scheduler, 12, scaled=True)
        compare(f"Euler {spacing} {kind} {final}", DDIM(), pair)


@pytest.mark.parametrize("spacing", SPACINGS[:3], ids=lambda s: s["timestep_spacing"])
def test_ancestral_euler_is_ddim_at_eta_one(spacing: dict[str, Any]) -> None:
    """The class takes epsilon and refuses `sample`."""
    scheduler = EulerAncestralDiscreteScheduler(**TABLE, **spacing)
    pair = column_of(scheduler, 12, scaled=True)
    compare(f"ancestral Euler {spacing}", DDIM(eta=1.0), pair)


@grids
@pytest.mark.parametrize("amount", [0.0, 4.0, 80.0])
def test_edm_euler_with_churn(grid: str, amount: float) -> None:
    churn = Churn(churn=amount, solver=DDIM())
    compare(f"EDM Euler {grid} churn {amount}", churn, edm_euler_column(18, churn, grid=grid))


@grids
def test_edm_euler_from_the_networks_output(grid: str) -> None:
    scheduler = EDMEulerScheduler(sigma_schedule=grid)
    scheduler.set_timesteps(18)
    schedule = EDMSchedule()
    column = by_sigma(scheduler, schedule, nonlinear(schedule), scaled=False, kind="edm")
    compare(f"EDM Euler {grid}", DDIM(), (schedule, column))


@grids
@pytest.mark.parametrize("order", [1, 2])
@pytest.mark.parametrize("final", ["zero", "sigma_min"])
def test_edm_dpm_solver(grid: str, order: int, final: str) -> None:
    """With `sigma_min` the class's last step goes nowhere; here the token just stays."""
    schedule = EDMSchedule()
    for steps in (12, 18):
        scheduler = EDMDPMSolverMultistepScheduler(
            sigma_schedule=grid, solver_order=order, final_sigmas_type=final
        )
        scheduler.set_timesteps(steps)
        column = by_sigma(scheduler, schedule, nonlinear(schedule), scaled=False, kind="edm")
        name = f"EDM DPM-Solver++ {order} {grid} {final} {steps}"
        compare(name, DPMSolver(order=order), (schedule, column))


FLOWS = ({}, {"shift": 3.0}, {"use_karras_sigmas": True}, {"use_exponential_sigmas": True})


@pytest.mark.parametrize("setting", FLOWS, ids=str)
@pytest.mark.parametrize("stochastic", [False, True])
def test_flow_match_euler(setting: dict[str, Any], stochastic: bool) -> None:
    """Euler's step is DDIM's; with `stochastic_sampling` it is the consistency solver's."""
    scheduler = FlowMatchEulerDiscreteScheduler(stochastic_sampling=stochastic, **setting)
    scheduler.set_timesteps(12)
    schedule = FlowSchedule()
    column = by_sigma(scheduler, schedule, nonlinear(schedule), scaled=False, kind="flow")
    assert torch.equal(column.levels_to, scheduler.sigmas[1:].double())
    solver = Consistency() if stochastic else DDIM()
    compare(f"flow {setting} {solver}", solver, (schedule, column))
