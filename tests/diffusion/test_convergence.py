"""Order of convergence, per token, on a Gaussian with its exact denoiser.

Sampling starts from the true marginal of the first level used, so that the only error is that of
the solver. Deterministic solvers are linear maps here: the covariance of their samples follows from
the images of the unit vectors, that of stochastic ones from the maps of their rows, without draws.
The last step, to level 0, is of first order for every solver; the grids end at a noise whose square
is negligible.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from oracles import DOUBLE, Gaussian, ar1, generator, order, relative, step_law
from torch import Tensor

from pgdiff.diffusion import sample
from pgdiff.diffusion.level_schedules import (
    Autoregressive,
    FullSequence,
    LevelSchedule,
    Pyramid,
    Trapezoid,
)
from pgdiff.diffusion.schedules import (
    CosineSchedule,
    EDMSchedule,
    FlowSchedule,
    LinearSchedule,
    SigmoidSchedule,
)
from pgdiff.diffusion.solvers import DDIM, DDPM, Churn, DPMSolver, Heun
from pgdiff.diffusion.spacing import KarrasSpacing, LogSnrSpacing, UniformSpacing

pytestmark = pytest.mark.usefixtures("unchecked")  # thousands of rows: checks take most time

STEPS = (40, 80, 160, 320)
TOKENS = 8
PIECES = 8
WIDE = EDMSchedule(sigma_max=math.exp(6.0))

# Delays in rows grow with the number of steps, so that refining follows one path; with a fixed
# slope the pyramid would tend to the full sequence.
LEVEL_SCHEDULES: dict[str, Callable[[int], LevelSchedule]] = {
    "full": lambda steps: FullSequence(),
    "pyramid": lambda steps: Pyramid(slope=steps / 20),
    "trapezoid": lambda steps: Trapezoid(slope=steps / 10),
    "autoregressive": lambda steps: Autoregressive(),
}


def gaussian(noise_schedule: Any, *, tokens: int = TOKENS) -> Gaussian:
    return Gaussian(torch.zeros(tokens, 1, dtype=DOUBLE), ar1(tokens), noise_schedule)


def karras(steps: int) -> Tensor:
    """Return sigma from 80 to 0.002 with rho 7, and then 0."""
    column = KarrasSpacing().levels(steps, noise_schedule=WIDE)
    column[0] = WIDE.level_at(torch.tensor(-2 * math.log(80.0), dtype=DOUBLE))
    return column


def log_snr(steps: int) -> Tensor:
    """Return `log(alpha / sigma)` from -6 to 6 in equal steps, and then clean."""
    return LogSnrSpacing(low=-12.0, high=12.0).levels(steps, noise_schedule=WIDE)


GRIDS = {"Karras": karras, "log-SNR": log_snr}


def errors(data: Gaussian, matrices: Sequence[Tensor], solver: Any) -> list[float]:
    """Return the relative error of the covariance by level matrix `[rows, tokens]`, in one batch.

    The shorter ones wait at level 0 for the longest.
    """
    size, rows = data.size, max(len(matrix) for matrix in matrices)
    padded = [torch.cat([m, m.new_zeros(rows - len(m), m.shape[1])]) for m in matrices]
    levels = torch.stack(padded, dim=1)
    start = torch.eye(size, dtype=DOUBLE).repeat(len(matrices), 1)[..., None]
    x = sample(
        lambda x, level: data.denoise(x, level[::size]),
        noise_schedule=data.noise_schedule,
        levels=levels.repeat_interleave(size, dim=1),
        shape=(len(start), size, 1),
        generators=[generator(0)],
        solver=solver,
        start=start,
        dtype=DOUBLE,
    )
    maps = x.reshape(len(matrices), size, size)  # row i: the image of unit vector i
    _, first = data.marginal(levels[0])
    return [relative(cov, data.covariance) for cov in maps.mT @ first @ maps]


def report(name: str, found: Sequence[float], *, steps: Sequence[int] = STEPS) -> float:
    fitted = order(steps, found)
    listed = "  ".join(f"{n}: {error:.1e}" for n, error in zip(steps, found, strict=True))
    print(f"{name:45s} {listed}  order {fitted:.3f}")
    return fitted


# -------------------------------------------------------------------------- deterministic solvers


@pytest.mark.parametrize(
    ("solver", "expected", "within"),
    [(DDIM(), 1.0, 0.15), (DPMSolver(order=2), 2.0, 0.3), (Heun(), 2.0, 0.3)],
    ids=repr,
)
def test_order_on_every_level_schedule(solver: Any, expected: float, within: float) -> None:
    data = gaussian(WIDE)
    cases = [(grid, name) for grid in GRIDS for name in LEVEL_SCHEDULES]
    found = []
    for steps in STEPS:
        matrices = [
            LEVEL_SCHEDULES[name](steps).matrix(GRIDS[grid](steps), tokens=TOKENS)
            for grid, name in cases
        ]
        found.append(errors(data, matrices, solver))
    print()
    for (grid, name), found_here in zip(cases, zip(*found, strict=True), strict=True):
        fitted = report(f"{solver}, {grid}, {name}", found_here)
        assert abs(fitted - expected) < within
        assert found_here[-1] < 0.02


def random_path(seed: int, *, stays: int) -> Tensor:
    """Return the progress of each token from 0 to 1 at nine equally spaced row-times.

    Between two of them its pace is even; the paces differ by up to a factor 2, but in `stays` of
    the eight pieces it stays.
    """
    source = generator(seed)
    pace = 0.5 + 0.5 * torch.rand(TOKENS, PIECES, generator=source, dtype=DOUBLE)
    shuffled = torch.rand(TOKENS, PIECES, generator=source).argsort(dim=1)
    pace[shuffled < stays] = 0.0
    way = torch.cat([torch.zeros(TOKENS, 1, dtype=DOUBLE), pace.cumsum(dim=1)], dim=1)
    return way / way[:, -1:]


def random_matrix(path: Tensor, steps: int) -> Tensor:
    """Return the path on a grid of row-time, from -6 to 6 in `log(alpha / sigma)`, then clean."""
    # In integers, so that no rounding error moves a row across the end of a stay.
    place, unit = PIECES * torch.arange(steps), steps - 1
    piece = (place // unit).clamp(max=PIECES - 1)
    share = (place - piece * unit).to(DOUBLE) / unit
    levels: Tensor = WIDE.level_at(-12 + 24 * torch.lerp(path[:, piece], path[:, piece + 1], share))
    return torch.cat([levels.T, levels.new_zeros(1, TOKENS)])


@pytest.mark.parametrize("stays", [0, 2])
def test_order_on_random_matrices(stays: int) -> None:
    """Refine twenty matrices whose tokens move at different paces.

    While a token stays, its neighbours move on and its clean estimate with them. The line that 2M
    draws through its last two estimates, from before and after the stay, is then wrong by the moves
    of the neighbours, once for each stay: 2M falls to the first order, below DDIM's error.
    """
    data = gaussian(WIDE)
    paths = [random_path(seed, stays=stays) for seed in range(20)]
    found: dict[str, Tensor] = {}
    orders: dict[str, Tensor] = {}
    print()
    for name, solver in [("DDIM", DDIM()), ("2M", DPMSolver(order=2)), ("Heun", Heun())]:
        table = [errors(data, [random_matrix(p, steps) for p in paths], solver) for steps in STEPS]
        found[name] = torch.tensor(table, dtype=DOUBLE).T
        orders[name] = torch.tensor([order(STEPS, row.tolist()) for row in found[name]])
        last = found[name][:, -1]
        print(
            f"{name:5s} {stays} stays of 8: orders {float(orders[name].min()):.3f} to "
            f"{float(orders[name].max()):.3f}, median {float(orders[name].median()):.3f}; error at "
            f"320: {float(last.min()):.1e} to {float(last.max()):.1e}"
        )
    assert ((orders["DDIM"] - 1).abs() < 0.15).all()
    assert ((orders["Heun"] - 2).abs() < 0.3).all()
    assert (orders["2M"] > (0.85 if stays else 1.7)).all()
    assert (found["2M"][:, -1] < found["DDIM"][:, -1]).all()


@pytest.mark.parametrize("solver", [DDIM(), DPMSolver(order=2), Heun()], ids=repr)
def test_the_law_depends_on_sigma_over_alpha_alone(solver: Any) -> None:
    """On equal grids of log_snr every schedule gives the same law of samples."""
    grid = torch.linspace(-10.0, 12.0, 20, dtype=DOUBLE)
    found = {}
    for noise_schedule in (
        EDMSchedule(sigma_max=200.0),
        CosineSchedule(),
        LinearSchedule(),
        SigmoidSchedule(),
        FlowSchedule(),
    ):
        column = torch.cat([noise_schedule.level_at(grid), torch.zeros(1, dtype=DOUBLE)])
        matrix = Pyramid(slope=2.0).matrix(column, tokens=TOKENS)
        found[type(noise_schedule).__name__] = errors(gaussian(noise_schedule), [matrix], solver)[0]
    spread = max(found.values()) - min(found.values())
    print(f"\n{solver}: error {found['EDMSchedule']:.6f}, spread over schedules {spread:.1e}")
    assert spread < 1e-9


def test_uniform_in_level_is_reported() -> None:
    """Sampling starts from level 1 itself, where these schedules are (nearly) pure noise."""
    print()
    for noise_schedule in (LinearSchedule(), CosineSchedule()):
        for solver in (DDIM(), DPMSolver(order=2), Heun()):
            found = []
            for steps in STEPS:
                column = UniformSpacing().levels(steps, noise_schedule=noise_schedule)
                matrix = FullSequence().matrix(column, tokens=TOKENS)
                found.append(errors(gaussian(noise_schedule), [matrix], solver)[0])
            report(f"{solver}, uniform, {type(noise_schedule).__name__}", found)
            assert found == sorted(found, reverse=True)


# ----------------------------------------------------------------------------- stochastic solvers


# Churn raises noise exactly, for any step, so that it has the order of its inner solver. The rise
# in a step, churn / rows, must be below its cap of sqrt(2) - 1 for steps to become shorter at all:
# that needs more than 193 rows with the default of 80.
@pytest.mark.parametrize(
    ("solver", "expected"),
    [
        (DDPM(), 1.0),
        (DDPM(variance="large"), 1.0),
        (DDIM(eta=1.0), 1.0),
        (Churn(churn=8.0, noise_scale=1.0, solver=DDIM()), 1.0),
        (Churn(churn=8.0, noise_scale=1.0), 2.0),
    ],
    ids=repr,
)
def test_order_of_the_stochastic_solvers_law(solver: Any, expected: float) -> None:
    data = gaussian(WIDE)
    print()
    for grid, name in [("log-SNR", "full"), ("Karras", "full"), ("Karras", "pyramid")]:
        found = []
        for steps in STEPS:
            matrix = LEVEL_SCHEDULES[name](steps).matrix(GRIDS[grid](steps), tokens=TOKENS)
            found.append(relative(step_law(data, matrix, solver)[1], data.covariance))
        fitted = report(f"{type(solver).__name__}, {grid}, {name}", found)
        assert abs(fitted - expected) < (0.15 if expected == 1.0 else 0.3)
