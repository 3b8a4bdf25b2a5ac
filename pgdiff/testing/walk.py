"""The sampler's loop with all noise told from outside, so that a solver's noise can be followed."""

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pgdiff.diffusion.schedules import NoiseSchedule
from pgdiff.diffusion.solvers import Step
from pgdiff.testing.laws import demand

Denoise = Callable[[Tensor, Tensor], Tensor]
Noise = Callable[[int, int], Tensor]
"""Noise of a row, for the first, second ... time that it is asked for there."""


@dataclass(frozen=True)
class Walk:
    """Where a walk went.

    Attributes:
        x: the sample at the end.
        estimates: clean estimates that were made, row by row.
        noises: how often noise was asked for, row by row.
    """

    x: Tensor
    estimates: list[list[Tensor]]
    noises: list[int]


@torch.no_grad()
def walk(
    solver: Any,
    denoise: Denoise,
    *,
    schedule: NoiseSchedule,
    levels: Tensor,
    x: Tensor,
    noise: Noise,
    name: str,
) -> Walk:
    """Go along `levels [rows, batch or 1, tokens]` as the sampler does, and watch every step.

    Raises:
        PgdiffError: a step that changes what it is given, asks for an estimate at levels that are
            none, or returns something else than a finite sample and a state.
    """
    estimates: list[list[Tensor]] = []
    noises: list[int] = []

    def estimate(point: Tensor, level: Tensor) -> Tensor:
        fits = level.ndim == 2 and level.shape[-1] == x.shape[1] and len(level) in (1, len(x))
        demand(
            fits and point.shape == x.shape,
            f"{name} must ask for estimates of samples {list(x.shape)} at levels [1 or batch, "
            f"tokens]. Got {list(point.shape)} at {list(level.shape)}.",
        )
        inside = bool(((level >= 0) & (level <= 1)).all())
        demand(
            inside and bool(torch.isfinite(point).all()),
            f"{name} must ask for estimates of finite samples at levels in [0, 1], under "
            f"{schedule!r}. Got levels from {float(level.min()):.6g} to {float(level.max()):.6g}, "
            f"and a sample of at most {float(point.abs().max()):.3g}.",
        )
        estimates[-1].append(denoise(point, level))
        return estimates[-1][-1]

    def fresh() -> Tensor:
        noises[-1] += 1
        return noise(len(noises) - 1, noises[-1] - 1)

    given = levels.clone()
    state = solver.begin(levels)
    for level, level_to in itertools.pairwise(given):
        estimates.append([])
        noises.append(0)
        if not bool((level_to < level).any()):
            continue
        step = Step(x.clone(), level.clone(), level_to.clone(), schedule, estimate, fresh)
        stepped, state = solver.step(step, state)
        for what, after, before in (
            ("x", step.x, x),
            ("level", step.level, level),
            ("level_to", step.level_to, level_to),
            ("levels", levels, given),
        ):
            demand(
                torch.equal(after, before),
                f"{name} must not change what it is given. Got another `{what}` after a step: "
                "make a new tensor in place of writing into it.",
            )
        demand(
            stepped.shape == x.shape and stepped.dtype == x.dtype,
            f"{name} must return a sample of shape {list(x.shape)} and {x.dtype}. "
            f"Got {list(stepped.shape)} and {stepped.dtype}.",
        )
        x = step.keep(stepped)
        demand(
            bool(torch.isfinite(x).all()),
            f"{name} must give finite samples. Got NaN or Inf in the step from level "
            f"{float(level.max()):.6g} to {float(level_to.max()):.6g} of {schedule!r}: alpha may "
            "be 0 at level 1, and sigma is 0 at level 0.",
        )
    return Walk(x, estimates, noises)
