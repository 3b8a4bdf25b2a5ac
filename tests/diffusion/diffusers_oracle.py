"""Columns of Hugging Face diffusers' schedulers, the reference of the solvers.

A column is the path of one token through the levels under a reference scheduler: the levels from
and to which each of its steps goes, and the samples there. Samples are in this package's
scale, `alpha x0 + sigma epsilon`; classes that keep `x / alpha` are scaled on the way in and out.

Each run uses its own copy of the scheduler, in float64 where the class allows: tables and sigmas
are stored in float32, but the computation with them is in float64; most of the classes with sigmas
cast the sample to float32 in every step.
"""

import copy
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any
from unittest import mock

import torch
from oracles import DOUBLE, generator
from torch import Tensor

from pgdiff.diffusion import NoiseSchedule, Solver, Step, TabulatedSchedule

TOLERANCE = 1e-5
"""Relative to `max(1, sigma)`."""

BATCH, FEATURES = 2, 3
Denoise = Callable[[Tensor, Tensor], Tensor]
Run = Callable[[Tensor, Sequence[Tensor]], list[Tensor]]


@dataclass(frozen=True, eq=False)
class Column:
    """The steps of a reference scheduler.

    Attributes:
        levels: `[steps]`, from which each step goes.
        levels_to: `[steps]`, to which it goes.
        run: the sample `[batch, 1, features]` after every step, from its start and each step's
            noise.
    """

    levels: Tensor
    levels_to: Tensor
    run: Run


def table_of(scheduler: Any) -> TabulatedSchedule:
    """Return the noise schedule with the table of a scheduler's class."""
    return TabulatedSchedule(alphas_cumprod=tuple(scheduler.alphas_cumprod.double().tolist()))


def nonlinear(noise_schedule: NoiseSchedule) -> Denoise:
    """Return a denoiser in which every token and every feature is independent."""

    def denoise(x: Tensor, level: Tensor) -> Tensor:
        alpha, sigma = (
            noise_schedule.alpha(level)[..., None],
            noise_schedule.sigma(level)[..., None],
        )
        unit = x / (alpha.square() + sigma.square()).sqrt()
        return torch.tanh(1.5 * unit) * (1.2 - level[..., None]) + 0.3 * torch.sin(3 * unit)

    return denoise


def network(kind: str, x: Tensor, x0_hat: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
    """Return the network output whose clean estimate is `x0_hat`."""
    epsilon = (x - alpha * x0_hat) / sigma
    if kind == "edm":  # Karras et al. 2022, table 1, with the classes' default sigma_data of 0.5
        squares = sigma.square() + 0.25
        return (x0_hat - 0.25 / squares * x) / (0.5 * sigma / squares.sqrt())
    return {"sample": x0_hat, "epsilon": epsilon, "flow": epsilon - x0_hat}[kind]


def step(scheduler: Any, output: Tensor, t: Any, x: Tensor, noise: Tensor, **more: Any) -> Tensor:
    """Take one step of a scheduler with the given noise."""
    module = sys.modules[type(scheduler).__module__]
    draw = mock.patch.object(module, "randn_tensor", lambda *_, **__: noise, create=True)
    with draw:
        return scheduler.step(output, t, x, **more).prev_sample


def by_time(
    scheduler: Any,
    noise_schedule: NoiseSchedule,
    denoise: Denoise,
    *,
    to: Callable[[Any, int], int],
    kind: str = "sample",
    start: int = 0,
    quiet_end: bool = False,
    **more: Any,
) -> Column:
    """Return the column of a class with a table: entry t is level `(t + 1) / K`, -1 is clean.

    Args:
        scheduler: with its timesteps set.
        noise_schedule: its table.
        denoise: clean estimate.
        to: timestep to which the scheduler goes from a timestep; below 0 for clean.
        kind: kind of output of the network.
        start: index of the first timestep.
        quiet_end: if True, the step to clean gets no noise.
        more: arguments of `step`.
    """
    entries = scheduler.config.num_train_timesteps
    times = scheduler.timesteps[start:].tolist()
    targets = [max(int(to(scheduler, t)), -1) for t in times]
    levels, levels_to = ((torch.tensor(t, dtype=DOUBLE) + 1) / entries for t in (times, targets))

    def run(x: Tensor, noises: Sequence[Tensor]) -> list[Tensor]:
        copied = copy.deepcopy(scheduler)
        # Equal numbers, but in float32 the differences of neighbours would lose four digits.
        copied.alphas_cumprod = copied.alphas_cumprod.double()
        points = []
        for t, target, level, noise in zip(times, targets, levels, noises, strict=True):
            at = level.reshape(1, 1)
            alpha, sigma = noise_schedule.alpha(at)[..., None], noise_schedule.sigma(at)[..., None]
            output = network(kind, x, denoise(x, at), alpha, sigma)
            x = step(copied, output, t, x, 0 * noise if quiet_end and target < 0 else noise, **more)
            points.append(x)
        return points

    return Column(levels, levels_to, run)


def by_sigma(
    scheduler: Any,
    noise_schedule: NoiseSchedule,
    denoise: Denoise,
    *,
    scaled: bool,
    kind: str = "sample",
    start: int = 0,
    calls: int = 1,
    predictor: Callable[..., dict[str, Any]] | None = None,
    **more: Any,
) -> Column:
    """Return the column of a class with sigmas of `x / alpha` (rectified flow: its levels).

    Args:
        scheduler: with its timesteps set.
        noise_schedule: signal and noise at a level.
        denoise: clean estimate.
        scaled: if True, the class keeps `x / alpha`.
        kind: kind of output of the network.
        start: index of the first step.
        calls: calls of the network, and of the scheduler's `step`, in a step.
        predictor: further arguments of `step`, from the sample, sigma, noise and steps in all.
        more: arguments of `step`.
    """
    sigmas = scheduler.sigmas.double()[calls * start :]
    places = sigmas if kind == "flow" else noise_schedule.level_at(-2 * sigmas.log())

    def run(x: Tensor, noises: Sequence[Tensor]) -> list[Tensor]:
        copied = copy.deepcopy(scheduler)
        copied.set_begin_index(calls * start)
        copied.sigmas = copied.sigmas.double()  # more digits for differences
        factor = noise_schedule.alpha(places) if scaled else torch.ones_like(places)
        y, points = x / factor[0], []
        for i, t in enumerate(copied.timesteps[calls * start :]):
            noise = noises[i // calls]
            at = places[i].reshape(1, 1)
            alpha, sigma = noise_schedule.alpha(at)[..., None], noise_schedule.sigma(at)[..., None]
            x = y * factor[i]
            output = network(kind, x, denoise(x, at), alpha, sigma)
            if hasattr(copied, "scale_model_input"):
                copied.scale_model_input(y, t)
            extra = predictor(y, sigmas[i], noise) if predictor else {}
            y = step(copied, output, t, y, noise, **extra, **more)
            if (i + 1) % calls == 0 or i + 1 == len(copied.timesteps[calls * start :]):
                points.append(y * factor[i + 1])
        return points

    # Heun's list has every sigma but its first and last twice.
    ends = torch.cat([places[0:1], places[1:-1:calls], places[-1:]])
    return Column(ends[:-1], ends[1:], run)


def largest_error(
    solver: Solver,
    noise_schedule: NoiseSchedule,
    columns: Sequence[Column],
    *,
    estimate: Denoise,
    seed: int,
    stalls: int = 0,
    last: Solver | None = None,
) -> float:
    """Run the columns as tokens of one batch; return the largest error of any step.

    Args:
        solver: takes the steps.
        noise_schedule: signal and noise at a level.
        columns: reference of each token.
        estimate: clean estimate.
        seed: seed of starts, noises and stalls.
        stalls: rows beyond the steps of the longest column. Each token stays in all rows for which
            it has no step, drawn at random; the noise that these rows offer is rubbish.
        last: solver of the last step, by default `solver`.
    """
    source = generator(seed)

    def normal() -> Tensor:
        return torch.randn(BATCH, 1, FEATURES, generator=source, dtype=DOUBLE)

    rows = max(len(column.levels) for column in columns) + stalls
    shape = (rows, BATCH, len(columns), FEATURES)
    noise = torch.randn(shape, generator=source, dtype=DOUBLE)
    right = torch.zeros(shape, dtype=DOUBLE)
    levels, levels_to = torch.zeros(2, rows, 1, len(columns), dtype=DOUBLE)
    starts = []
    for token, column in enumerate(columns):
        begin = column.levels[:1]
        spread = (
            noise_schedule.alpha(begin).square() + noise_schedule.sigma(begin).square()
        ).sqrt()
        starts.append(spread * normal())
        noises = [normal() for _ in column.levels]
        points = column.run(starts[-1], noises)
        moves = torch.randperm(rows, generator=source)[: len(points)].sort().values
        point, level, done = starts[-1], begin, 0
        for row in range(rows):
            if row in moves:
                levels[row, :, token], level = column.levels[done], column.levels_to[done]
                noise[row, :, token] = noises[done][:, 0]
                point, done = points[done], done + 1
            else:
                levels[row, :, token] = level
            levels_to[row, :, token] = level
            right[row, :, token] = point[:, 0]
    x, worst = torch.cat(starts, dim=1), 0.0
    state = solver.begin(torch.cat([levels[:1], levels_to]))
    for row in range(rows):
        at = Step(
            x, levels[row], levels_to[row], noise_schedule, estimate, lambda row=row: noise[row]
        )
        if at.moving.any():
            taker = last if last and row == rows - 1 else solver
            stepped, state = taker.step(at, state)
            x = at.keep(stepped)
        error = (x - right[row]).abs() / at.sigma_to.clamp(min=1.0)
        assert torch.isfinite(error).all()
        worst = max(worst, float(error.max()))
    return worst


def check(name: str, error: float) -> None:
    print(f"{name}: largest error {error:.1e} of max(1, sigma)")
    assert error < TOLERANCE
