"""The sampler's loop with prescribed noise, to trace a solver."""

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pgdiff.diffusion.schedules import NoiseSchedule
from pgdiff.diffusion.solvers import Step
from pgdiff.testing.assertions import demand

Denoise = Callable[[Tensor, Tensor], Tensor]
Noise = Callable[[int, int], Tensor]
"""Function of a row and the index of the draw in this row that returns the noise."""


@dataclass(frozen=True)
class Walk:
    """The result of a traced sampling.

    Attributes:
        x: sample at the end.
        estimates: clean estimates of each row.
        noises: number of noise draws in each row.
    """

    x: Tensor
    estimates: list[list[Tensor]]
    noises: list[int]


@torch.no_grad()
def walk(
    solver: Any,
    denoise: Denoise,
    *,
    noise_schedule: NoiseSchedule,
    levels: Tensor,
    x: Tensor,
    noise: Noise,
    name: str,
) -> Walk:
    """Sample along `levels [rows, batch or 1, tokens]` like the sampler, and check every step.

    Raises:
        PgdiffError: a step changes its inputs, requests an estimate at invalid levels, or does not
            return a finite sample and a state.
    """
    estimates: list[list[Tensor]] = []
    noises: list[int] = []

    def estimate(point: Tensor, level: Tensor) -> Tensor:
        fits = level.ndim == 2 and level.shape[-1] == x.shape[1] and len(level) in (1, len(x))
        demand(
            fits and point.shape == x.shape,
            f"{name} must request estimates of samples {list(x.shape)} at levels [1 or batch, "
            f"tokens]. Got {list(point.shape)} at {list(level.shape)}.",
        )
        inside = bool(((level >= 0) & (level <= 1)).all())
        demand(
            inside and bool(torch.isfinite(point).all()),
            f"{name} must request estimates of finite samples at levels in [0, 1]. Got levels from "
            f"{float(level.min()):.6g} to {float(level.max()):.6g}, and a sample of at most "
            f"{float(point.abs().max()):.3g}, for {noise_schedule!r}.",
        )
        estimates[-1].append(denoise(point, level))
        return estimates[-1][-1]

    def fresh() -> Tensor:
        noises[-1] += 1
        return noise(len(noises) - 1, noises[-1] - 1)

    original = levels.clone()
    state = solver.begin(levels)
    for level, level_to in itertools.pairwise(original):
        estimates.append([])
        noises.append(0)
        if not bool((level_to < level).any()):
            continue
        step = Step(x.clone(), level.clone(), level_to.clone(), noise_schedule, estimate, fresh)
        stepped, state = solver.step(step, state)
        for key, after, before in (
            ("x", step.x, x),
            ("level", step.level, level),
            ("level_to", step.level_to, level_to),
            ("levels", levels, original),
        ):
            demand(
                torch.equal(after, before),
                f"{name} must not change its inputs. Got another `{key}` after a step. Create a "
                "new tensor instead of writing into it.",
            )
        demand(
            stepped.shape == x.shape and stepped.dtype == x.dtype,
            f"{name} must return a sample of shape {list(x.shape)} and {x.dtype}. "
            f"Got {list(stepped.shape)} and {stepped.dtype}.",
        )
        x = step.keep(stepped)
        demand(
            bool(torch.isfinite(x).all()),
            f"{name} must return finite samples. Got NaN or Inf in the step from level "
            f"{float(level.max()):.6g} to {float(level_to.max()):.6g} of {noise_schedule!r}. Note "
            "that alpha may be 0 at level 1, and sigma is 0 at level 0.",
        )
    return Walk(x, estimates, noises)
