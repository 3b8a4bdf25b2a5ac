"""A check of solvers."""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from pgdiff.core.validation import PgdiffError
from pgdiff.diffusion.schedules import (
    CosineSchedule,
    EDMSchedule,
    FlowSchedule,
    LinearSchedule,
    NoiseSchedule,
    SigmoidSchedule,
    TabulatedSchedule,
)
from pgdiff.diffusion.solvers import Solver
from pgdiff.testing.assertions import called, check_config, demand, distance, private_random
from pgdiff.testing.gaussian_oracle import DOUBLE, Gaussian
from pgdiff.testing.traced_sampler import walk

SCHEDULES: tuple[NoiseSchedule, ...] = (
    CosineSchedule(),
    LinearSchedule(),
    SigmoidSchedule(),
    FlowSchedule(),
    EDMSchedule(),
    TabulatedSchedule(alphas_cumprod=(0.9, 0.5, 0.1, 0.0)),
)

STEPS = (20, 40, 80)
FALL = 2.5
"""Smallest factor by which four times as many steps must reduce the error; first order has 4."""

EXACT = 1e-8
"""Error below which no further reduction is required."""

CLOSE = 1e-9
"""Largest relative difference, in float64, of samples that must be equal."""


def check_solver(solver: Solver, *, law: bool = True) -> dict[str, float]:
    """Raise if a solver would draw incorrect samples.

    It must

    - be a registered frozen dataclass that its configuration restores;
    - return finite samples for every schedule, from alpha 0 at level 1 down to level 0, in both
      precisions, without changing its inputs;
    - return its clean estimate in the step into level 0;
    - return equal samples for equal noise, and draw noise only by `at.noise()`;
    - compute every token independently: a token that stays changes neither other tokens nor its
      later steps, and a token in a batch takes the path that it takes alone;
    - converge to the distribution of a Gaussian with its exact denoiser as the number of steps
      grows, with all tokens at one level and with later tokens delayed. Mean and covariance are
      propagated without sampling, so that a wrong formula shows as a constant error.

    If `check(noise_schedule=, distilled=)` of the solver rejects denoisers, the exact consistency
    function is used; schedules that it rejects are left out.

    Args:
        solver: solver to check.
        law: whether to check convergence; use False for settings with a deliberate bias, such as
            `noise_scale` above 1 of `Churn`.

    Returns:
        The error of mean and covariance by schedule, order of the tokens and number of steps.

    Raises:
        PgdiffError: the first violated requirement, with a figure and the fix.

    Example:
        >>> from pgdiff.diffusion import DDIM
        >>> from pgdiff.testing import check_solver
        >>> figures = check_solver(DDIM(eta=0.5), law=False)
    """
    name = called(solver, "solver")
    demand(
        isinstance(solver, Solver) and not isinstance(solver, type),
        f"{name} must be an object with the methods begin(levels) and step(at, state). "
        f"Got {solver!r}.",
    )
    check_config("solver", solver, name)
    fitting = [
        noise_schedule for noise_schedule in SCHEDULES if _fits(solver, noise_schedule) is not None
    ]
    demand(bool(fitting), f"{name} must accept at least one schedule. It rejects {SCHEDULES}.")
    for noise_schedule in fitting:
        for check in (_check_finite, _check_end, _check_repeats, _check_tokens):
            with private_random(name):
                check(solver, noise_schedule, name)
    figures: dict[str, float] = {}
    if law:
        for noise_schedule in fitting:
            if (
                type(noise_schedule) in (CosineSchedule, FlowSchedule, EDMSchedule)
                or len(fitting) == 1
            ):
                figures |= _check_law(solver, noise_schedule, name)
    check_config("solver", solver, name)
    return figures


def _fits(solver: Any, noise_schedule: NoiseSchedule) -> bool | None:
    """Return whether the solver needs a consistency function; None if it rejects the schedule."""
    if not hasattr(solver, "check"):
        return False
    for distilled in (False, True):
        try:
            solver.check(noise_schedule=noise_schedule, distilled=distilled)
        except PgdiffError:
            continue
        return distilled
    return None


def _bend(x: Tensor, level: Tensor) -> Tensor:
    """Return the estimates of a non-linear denoiser of single tokens."""
    return torch.tanh(x * (1.2 - level[..., None]))


def _normal(*shape: int, seed: int, dtype: torch.dtype = DOUBLE) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def _pinned(shape: torch.Size, dtype: torch.dtype) -> Callable[[int, int], Tensor]:
    """Return a function that draws equal noise for equal rows and calls."""
    return lambda row, call: _normal(*shape, seed=1000 * row + call, dtype=dtype)


def _check_finite(solver: Any, noise_schedule: NoiseSchedule, name: str) -> None:
    column = torch.tensor([1.0, 0.999, 0.6, 0.5, 0.4999, 0.1, 1e-3, 1e-6, 0.0])
    late = torch.cat([column.new_ones(4), column[[0, 3, 3, 5, 8]]])
    for dtype in (torch.float32, DOUBLE):
        levels = torch.stack([column, late, torch.zeros_like(column)], dim=-1)[:, None].to(dtype)
        x = noise_schedule.sigma(levels[0])[..., None] * _normal(2, 3, 2, seed=0, dtype=dtype)
        noise = _pinned(x.shape, dtype)
        walk(
            solver, _bend, noise_schedule=noise_schedule, levels=levels, x=x, noise=noise, name=name
        )


def _check_end(solver: Any, noise_schedule: NoiseSchedule, name: str) -> None:
    for rows in (2, 5):
        levels = torch.linspace(1, 0, rows, dtype=DOUBLE)[:, None, None]
        x = noise_schedule.sigma(levels[0])[..., None] * _normal(3, 1, 2, seed=1)
        noise = _pinned(x.shape, DOUBLE)
        path = walk(
            solver, _bend, noise_schedule=noise_schedule, levels=levels, x=x, noise=noise, name=name
        )
        off = min((distance(path.x, x0) for x0 in path.estimates[-1]), default=float("inf"))
        demand(
            off < CLOSE,
            f"{name} must return a clean estimate, x0_hat, in the step into level 0, where alpha "
            f"is 1 and sigma 0. Got a sample with a relative difference of {off:.3g} for "
            f"{noise_schedule!r}.",
        )


def _check_repeats(solver: Any, noise_schedule: NoiseSchedule, name: str) -> None:
    levels = torch.linspace(1, 0, 7, dtype=DOUBLE)[:, None, None]
    x = noise_schedule.sigma(levels[0])[..., None] * _normal(3, 1, 2, seed=2)
    run = partial(walk, solver, _bend, noise_schedule=noise_schedule, name=name)
    noise = _pinned(x.shape, DOUBLE)
    first = run(levels=levels, x=x, noise=noise).x
    off = distance(run(levels=levels, x=x, noise=noise).x, first)
    demand(
        off == 0,
        f"{name} must return equal samples for equal noise. Got a relative difference of "
        f"{off:.3g}. Draw noise only by at.noise(), and keep memory in the state.",
    )


def _check_tokens(solver: Any, noise_schedule: NoiseSchedule, name: str) -> None:
    seed, rows, batch, tokens, calls = 3, 9, 3, 5, 4
    source = torch.Generator().manual_seed(seed)
    # Falling columns with pauses in about half of the rows. The last token is clean throughout, and
    # the second starts at level 0.6.
    fall = torch.rand(rows, batch, tokens, generator=source, dtype=DOUBLE)
    fall = torch.where(torch.rand(fall.shape, generator=source) < 0.5, 0.0, fall + 0.01)
    fall[seed, :, 0] = 1.0  # so that each row has a token that moves
    below = 1 - fall.cumsum(dim=0) / fall.sum(dim=0).clamp(min=1e-9)
    levels = torch.cat([torch.ones(1, batch, tokens, dtype=DOUBLE), below])
    levels[-1], levels[..., -1] = 0.0, 0.0
    levels[..., 1] = levels[..., 1].clamp(max=0.6)
    x = noise_schedule.sigma(levels[0])[..., None] * _normal(batch, tokens, 2, seed=seed)
    moving = levels[1:] < levels[:-1]
    moved = moving.cumsum(dim=0) - moving.long()  # how often a token has moved before a row
    table = _normal(calls, rows, batch, tokens, 2, seed=seed + 10)
    other = _normal(calls, rows, batch, tokens, 2, seed=seed + 20)  # for tokens that stay

    def noise(row: int, call: int) -> Tensor:
        demand(call < calls, f"{name} must draw noise at most {calls} times in a step.")
        drawn = table[call].gather(0, moved[row][None, ..., None].expand(1, -1, -1, 2))[0]
        return torch.where(moving[row][..., None], drawn, other[call, row])

    run = partial(walk, solver, _bend, noise_schedule=noise_schedule, name=name)
    together = run(levels=levels, x=x, noise=noise).x
    for row in range(batch):
        for token in range(tokens):
            one = (slice(None), slice(row, row + 1), slice(token, token + 1))
            keep = torch.cat([torch.tensor([True]), moving[:, row, token]])
            alone = run(
                levels=levels[keep][one],
                x=x[one[1:]],
                noise=lambda step, call, one=one: table[call][one][step],  # type: ignore[misc]
            ).x
            off = distance(together[one[1:]], alone)
            demand(
                off < CLOSE,
                f"{name} must compute every token independently. Got a relative difference of "
                f"{off:.3g} at token {token} in a batch with other levels and pauses, for "
                f"{noise_schedule!r}. Compute every factor per token, and keep the state of tokens "
                "that do not move (`at.moving`).",
            )


# ------------------------------------------------------------------------------------------ the law


def _check_law(solver: Any, noise_schedule: NoiseSchedule, name: str) -> dict[str, float]:
    data, figures = Gaussian(noise_schedule), {}
    consistency = _fits(solver, noise_schedule)
    # A consistency function needs one level for all tokens.
    for order, lag in (("all alike", 0), ("later tokens behind", 1))[: 1 if consistency else 2]:
        errors = []
        for steps in STEPS:
            behind = lag * steps // 4 * torch.arange(data.tokens)
            rows = torch.arange(steps + int(behind.max()) + 1)[:, None]
            levels = ((steps + behind - rows) / steps).clamp(0, 1).to(DOUBLE)[:, None]
            errors.append(_error(solver, data, levels, name, consistency=bool(consistency)))
            figures[f"{type(noise_schedule).__name__}, {order}, {steps} steps"] = errors[-1]
        listed = ", ".join(f"{e:.3g} at {n}" for n, e in zip(STEPS, errors, strict=True))
        demand(
            errors[-1] < EXACT or errors[-1] < errors[0] / FALL,
            f"{name} must converge to the distribution of the data: with the exact denoiser of a "
            "Gaussian the error of mean and covariance must fall at least in proportion to the "
            f"number of steps. Got {listed} steps for {noise_schedule!r}, {order}. Check the "
            "factors of the step, or pass law=False for settings with a deliberate bias.",
        )
    return figures


def _error(solver: Any, data: Gaussian, levels: Tensor, name: str, *, consistency: bool) -> float:
    """Return the relative error of the samples' covariance, plus that of their mean.

    A solver that is linear in its inputs maps the start and all noise affinely to the sample. The
    matrix of this map is computed from unit vectors, one batch row for each.
    """
    size = data.tokens
    run = partial(
        walk,
        solver,
        data.consistency if consistency else data.denoise,
        noise_schedule=data.noise_schedule,
        levels=levels,
        name=name,
    )
    zero, unit = torch.zeros(1, size, 1, dtype=DOUBLE), torch.eye(size, dtype=DOUBLE)
    draws = run(x=zero, noise=lambda row, call: zero).noises
    calls = [(row, call) for row, times in enumerate(draws) for call in range(times)]
    sources = 1 + len(calls)
    start = torch.zeros(2 + sources * size, size, 1, dtype=DOUBLE)
    start[1 : 1 + size, :, 0] = unit
    # The last row is the sum of all other inputs; it tests whether the map is affine.
    start[-1, :, 0] = 1.0

    def noise(row: int, call: int) -> Tensor:
        drawn = torch.zeros_like(start)
        begin = 1 + (1 + calls.index((row, call))) * size
        drawn[begin : begin + size, :, 0] = unit
        drawn[-1, :, 0] = 1.0
        return drawn

    ends = run(x=start, noise=noise).x[..., 0]
    offset, matrix = ends[0], ends[1:-1] - ends[0]
    bent = distance(ends[-1], offset + matrix.sum(dim=0))
    demand(
        bent < 1e-6,
        f"{name} must be linear in the sample, the estimates and the noise. Got a difference of "
        f"{bent:.3g}. Use the sampler's `clip` to limit x0_hat.",
    )
    mean, covariance = data.marginal(levels[0, 0])
    of_start, of_noise = matrix[:size], matrix[size:]
    got = of_start.T @ covariance @ of_start + of_noise.T @ of_noise
    off_mean = (offset + mean @ of_start - data.mean).norm() / data.mean.norm()
    return float((got - data.covariance).norm() / data.covariance.norm() + off_mean)
