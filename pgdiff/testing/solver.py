"""What a solver must satisfy."""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

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
from pgdiff.testing.gaussian import DOUBLE, Gaussian
from pgdiff.testing.laws import called, check_config, demand, distance, private_random
from pgdiff.testing.walk import walk
from pgdiff.validation import PgdiffError

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
"""How far the error must fall while the steps grow fourfold; a method of first order has 4."""

EXACT = 1e-8
"""An error below this need not fall."""

CLOSE = 1e-9
"""Largest relative difference, in float64, of what must be equal."""


def check_solver(solver: Solver, *, law: bool = True) -> dict[str, float]:
    """Refuse a solver that would give wrong samples.

    It must

    - be a frozen dataclass that is registered, and come back from its configuration;
    - give finite samples under every schedule, from alpha 0 at level 1 down to level 0, in both
      precisions, changing nothing that it is given;
    - go into level 0 by its clean estimate;
    - give the same samples for the same noise, and draw no other noise than `at.noise()`;
    - treat every token by itself: one that stalls changes neither the others nor its own later
      steps, and a token in a batch goes where it would go alone;
    - with the exact denoiser of a Gaussian, reach that Gaussian's law as the steps grow, for all
      tokens alike and with later tokens behind. Mean and covariance are propagated without
      sampling, so that a formula that is wrong shows as an error that stays.

    A solver whose `check(schedule=, distilled=)` refuses a denoiser is given the exact consistency
    function instead, and schedules that it refuses are left out.

    Args:
        solver: the solver.
        law: whether to ask for convergence; not of settings that are biased on purpose, such as
            `noise_scale` above 1 of `Churn`.

    Returns:
        The error of the law, by schedule, order of the tokens and number of steps.

    Raises:
        PgdiffError: the first law that does not hold, with its figure and the mend.
    """
    name = called(solver, "solver")
    demand(
        isinstance(solver, Solver) and not isinstance(solver, type),
        f"{name} must be an object with the methods begin(levels) and step(at, state). "
        f"Got {solver!r}.",
    )
    check_config("solver", solver, name)
    fitting = [schedule for schedule in SCHEDULES if _fits(solver, schedule) is not None]
    demand(bool(fitting), f"{name} must accept some schedule. Got a refusal of {SCHEDULES}.")
    for schedule in fitting:
        for check in (_check_finite, _check_end, _check_repeats, _check_tokens):
            with private_random(name):
                check(solver, schedule, name)
    figures: dict[str, float] = {}
    if law:
        for schedule in fitting:
            if type(schedule) in (CosineSchedule, FlowSchedule, EDMSchedule) or len(fitting) == 1:
                figures |= _check_law(solver, schedule, name)
    check_config("solver", solver, name)
    return figures


def _fits(solver: Any, schedule: NoiseSchedule) -> bool | None:
    """Whether the solver needs a consistency function; None where it refuses the schedule."""
    if not hasattr(solver, "check"):
        return False
    for distilled in (False, True):
        try:
            solver.check(schedule=schedule, distilled=distilled)
        except PgdiffError:
            continue
        return distilled
    return None


def _bend(x: Tensor, level: Tensor) -> Tensor:
    """A denoiser of single tokens that is not linear."""
    return torch.tanh(x * (1.2 - level[..., None]))


def _normal(*shape: int, seed: int, dtype: torch.dtype = DOUBLE) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def _pinned(shape: torch.Size, dtype: torch.dtype) -> Callable[[int, int], Tensor]:
    """Noise that is the same whenever the same row asks for it."""
    return lambda row, call: _normal(*shape, seed=1000 * row + call, dtype=dtype)


def _check_finite(solver: Any, schedule: NoiseSchedule, name: str) -> None:
    column = torch.tensor([1.0, 0.999, 0.6, 0.5, 0.4999, 0.1, 1e-3, 1e-6, 0.0])
    late = torch.cat([column.new_ones(4), column[[0, 3, 3, 5, 8]]])
    for dtype in (torch.float32, DOUBLE):
        levels = torch.stack([column, late, torch.zeros_like(column)], dim=-1)[:, None].to(dtype)
        x = schedule.sigma(levels[0])[..., None] * _normal(2, 3, 2, seed=0, dtype=dtype)
        noise = _pinned(x.shape, dtype)
        walk(solver, _bend, schedule=schedule, levels=levels, x=x, noise=noise, name=name)


def _check_end(solver: Any, schedule: NoiseSchedule, name: str) -> None:
    for rows in (2, 5):
        levels = torch.linspace(1, 0, rows, dtype=DOUBLE)[:, None, None]
        x = schedule.sigma(levels[0])[..., None] * _normal(3, 1, 2, seed=1)
        noise = _pinned(x.shape, DOUBLE)
        went = walk(solver, _bend, schedule=schedule, levels=levels, x=x, noise=noise, name=name)
        off = min((distance(went.x, made) for made in went.estimates[-1]), default=float("inf"))
        demand(
            off < CLOSE,
            f"{name} must return a clean estimate, x0_hat, in the step into level 0, where alpha "
            f"is 1 and sigma 0. Got a sample that is {off:.3g} away from it under {schedule!r}.",
        )


def _check_repeats(solver: Any, schedule: NoiseSchedule, name: str) -> None:
    levels = torch.linspace(1, 0, 7, dtype=DOUBLE)[:, None, None]
    x = schedule.sigma(levels[0])[..., None] * _normal(3, 1, 2, seed=2)
    run = partial(walk, solver, _bend, schedule=schedule, name=name)
    noise = _pinned(x.shape, DOUBLE)
    first = run(levels=levels, x=x, noise=noise).x
    off = distance(run(levels=levels, x=x, noise=noise).x, first)
    demand(
        off == 0,
        f"{name} must give the same samples for the same noise. Got samples that are {off:.3g} "
        "apart: draw only by at.noise(), and keep what is remembered in the state.",
    )


def _check_tokens(solver: Any, schedule: NoiseSchedule, name: str) -> None:
    seed, rows, batch, tokens, calls = 3, 9, 3, 5, 4
    source = torch.Generator().manual_seed(seed)
    # Falling columns in which about half of the rows stall. The last token is clean throughout; one
    # starts in the middle of the noise.
    fall = torch.rand(rows, batch, tokens, generator=source, dtype=DOUBLE)
    fall = torch.where(torch.rand(fall.shape, generator=source) < 0.5, 0.0, fall + 0.01)
    fall[seed, :, 0] = 1.0  # so that each row has a token that moves
    below = 1 - fall.cumsum(dim=0) / fall.sum(dim=0).clamp(min=1e-9)
    levels = torch.cat([torch.ones(1, batch, tokens, dtype=DOUBLE), below])
    levels[-1], levels[..., -1] = 0.0, 0.0
    levels[..., 1] = levels[..., 1].clamp(max=0.6)
    x = schedule.sigma(levels[0])[..., None] * _normal(batch, tokens, 2, seed=seed)
    moving = levels[1:] < levels[:-1]
    moved = moving.cumsum(dim=0) - moving.long()  # how often a token has moved before a row
    table = _normal(calls, rows, batch, tokens, 2, seed=seed + 10)
    other = _normal(calls, rows, batch, tokens, 2, seed=seed + 20)  # for tokens that stall

    def noise(row: int, call: int) -> Tensor:
        demand(call < calls, f"{name} must ask for noise at most {calls} times in a step.")
        own = table[call].gather(0, moved[row][None, ..., None].expand(1, -1, -1, 2))[0]
        return torch.where(moving[row][..., None], own, other[call, row])

    run = partial(walk, solver, _bend, schedule=schedule, name=name)
    together = run(levels=levels, x=x, noise=noise).x
    for row in range(batch):
        for token in range(tokens):
            place = (slice(None), slice(row, row + 1), slice(token, token + 1))
            keep = torch.cat([torch.tensor([True]), moving[:, row, token]])
            alone = run(
                levels=levels[keep][place],
                x=x[place[1:]],
                noise=lambda step, call, place=place: table[call][place][step],  # type: ignore[misc]
            ).x
            off = distance(together[place[1:]], alone)
            demand(
                off < CLOSE,
                f"{name} must take every token where it would go alone. Got token {token} "
                f"{off:.3g} away in a batch where other tokens have other levels and stall, under "
                f"{schedule!r}: compute every factor per token, and keep what is remembered of a "
                "token as it was while the token does not move (`at.moving`).",
            )


# ------------------------------------------------------------------------------------------ the law


def _check_law(solver: Any, schedule: NoiseSchedule, name: str) -> dict[str, float]:
    data, figures = Gaussian(schedule), {}
    consistency = _fits(solver, schedule)
    # A consistency function knows one level for all tokens.
    for order, lag in (("all alike", 0), ("later tokens behind", 1))[: 1 if consistency else 2]:
        errors = []
        for steps in STEPS:
            behind = lag * steps // 4 * torch.arange(data.tokens)
            rows = torch.arange(steps + int(behind.max()) + 1)[:, None]
            levels = ((steps + behind - rows) / steps).clamp(0, 1).to(DOUBLE)[:, None]
            errors.append(_error(solver, data, levels, name, consistency=bool(consistency)))
            figures[f"{type(schedule).__name__}, {order}, {steps} steps"] = errors[-1]
        listed = ", ".join(f"{e:.3g} at {n}" for n, e in zip(STEPS, errors, strict=True))
        demand(
            errors[-1] < EXACT or errors[-1] < errors[0] / FALL,
            f"{name} must come to the law of the data as the steps grow: with the exact denoiser "
            "of a Gaussian the error of mean and covariance falls at least in proportion to the "
            f"steps. Got {listed} steps under {schedule!r}, {order}. An error that stays is a "
            "wrong factor; settings that are biased on purpose are checked with law=False.",
        )
    return figures


def _error(solver: Any, data: Gaussian, levels: Tensor, name: str, *, consistency: bool) -> float:
    """Relative error of the samples' covariance, plus that of their mean.

    A solver that is linear in what it is given maps the start and all the noise affinely to the
    sample. The matrix is read off by pushing unit vectors through it, one batch row for each.
    """
    size = data.tokens
    run = partial(
        walk,
        solver,
        data.consistency if consistency else data.denoise,
        schedule=data.schedule,
        levels=levels,
        name=name,
    )
    zero, unit = torch.zeros(1, size, 1, dtype=DOUBLE), torch.eye(size, dtype=DOUBLE)
    asked = run(x=zero, noise=lambda row, call: zero).noises
    calls = [(row, call) for row, times in enumerate(asked) for call in range(times)]
    sources = 1 + len(calls)
    start = torch.zeros(2 + sources * size, size, 1, dtype=DOUBLE)
    start[1 : 1 + size, :, 0] = unit
    # The last row is a sum of all the others' inputs: it tells whether the map is affine.
    start[-1, :, 0] = 1.0

    def noise(row: int, call: int) -> Tensor:
        made = torch.zeros_like(start)
        begin = 1 + (1 + calls.index((row, call))) * size
        made[begin : begin + size, :, 0] = unit
        made[-1, :, 0] = 1.0
        return made

    ends = run(x=start, noise=noise).x[..., 0]
    offset, matrix = ends[0], ends[1:-1] - ends[0]
    bent = distance(ends[-1], offset + matrix.sum(dim=0))
    demand(
        bent < 1e-6,
        f"{name} must be linear in the sample, the estimates and the noise, so that its law can "
        f"be told. Got a difference of {bent:.3g}; limits on x0_hat are the sampler's `clip`.",
    )
    mean, covariance = data.marginal(levels[0, 0])
    of_start, of_noise = matrix[:size], matrix[size:]
    got = of_start.T @ covariance @ of_start + of_noise.T @ of_noise
    off_mean = (offset + mean @ of_start - data.mean).norm() / data.mean.norm()
    return float((got - data.covariance).norm() / data.covariance.norm() + off_mean)
