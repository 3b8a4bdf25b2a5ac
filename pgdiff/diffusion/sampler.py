"""The sampler: one loop for every schedule, solver, guide and level matrix."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor

from pgdiff.diffusion.guidance import Guidance
from pgdiff.diffusion.known import Known
from pgdiff.diffusion.level_schedules import LevelMatrix, check_levels
from pgdiff.diffusion.noise import draw, share_of
from pgdiff.diffusion.resample import Particles, Resample
from pgdiff.diffusion.schedules import NoiseSchedule
from pgdiff.diffusion.solvers import Solver, Step
from pgdiff.diffusion.steering import Steering, Trace
from pgdiff.diffusion.trust_region import TrustRegion
from pgdiff.validation import PgdiffError, check_range

Signal = Float[Tensor, "batch tokens features"]
Denoise = Callable[[Signal, Float[Tensor, "#batch tokens"]], Signal]


@dataclass(frozen=True)
class SamplerStep:
    """What a callback sees after each row.

    Attributes:
        row: index of the row just reached, from 1.
        level: `[batch or 1, tokens]`, the level from which the step was taken.
        level_to: the level that it went to.
        x: `[batch, tokens, features]` after the step.
        x0_hat: the first clean estimate that the step used, guided and clipped; None where no token
            moved.
        trace: what guidance did in the step's first estimate.
    """

    row: int
    level: Tensor
    level_to: Tensor
    x: Tensor
    x0_hat: Tensor | None
    trace: Trace = field(default_factory=Trace)


@torch.no_grad()
def sample(
    denoise: Denoise,
    *,
    schedule: NoiseSchedule,
    levels: LevelMatrix,
    shape: tuple[int, int, int],
    generators: Sequence[torch.Generator],
    solver: Solver,
    known: Known | None = None,
    guidance: Sequence[Guidance] = (),
    trust_region: TrustRegion | None = None,
    resample: Resample | None = None,
    clip: float | tuple[Tensor, Tensor] | None = None,
    distilled: bool = False,
    start: Signal | None = None,
    callback: Callable[[SamplerStep], None] | None = None,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
) -> Signal:
    """Draw trajectories by denoising along a level matrix.

    Args:
        denoise: clean estimate x0_hat of `x` at its levels. Levels come as `[batch or 1, tokens]`.
        schedule: signal and noise at a level.
        levels: `[rows, tokens]` or `[rows, batch, tokens]`, from 1 (any level where `start` is
            given) to 0, never rising. A token whose level does not change in a row is copied.
        shape: batch, tokens, features.
        generators: source of all noise; each draws an equal share of the batch.
        solver: how a step is taken.
        known: features that are given; tokens known as a whole have level 0 from the start.
        guidance: energies whose gradients steer.
        trust_region: limits how far they move a sample.
        resample: draws the trajectories of each generator anew by their weights, in place of the
            ones that guidance alone would give.
        clip: limit of the absolute value of `x0_hat` after guidance, in normalised units, or its
            least and its greatest value, `[features]` each.
        distilled: whether `denoise` is a consistency function, which a consistency solver needs.
        start: `x` at the first row; noise of the first row's sigma if None.
        callback: called after every row.
        dtype: of the samples.
        device: of the samples.

    Returns:
        `[batch, tokens, features]`, clean, normalised; known features are exactly their values.
    """
    batch, tokens, _ = shape
    device = torch.device(device)
    share = share_of(batch, generators)
    if known is not None:
        one = (1, *shape[1:])
        _check_shape("known", known.values, one if len(known.values) == 1 else shape)
    given = None if known is None else known.tokens
    check_levels(levels, batch=batch, tokens=tokens, known=given, started=start is not None)
    if isinstance(clip, tuple):
        low, high = (bound.to(device=device, dtype=dtype) for bound in clip)
    elif clip is not None:
        high = torch.tensor(check_range("clip", clip, low=0.0, open_low=True)).to(device, dtype)
        low = -high
    if hasattr(solver, "check"):
        solver.check(schedule=schedule, distilled=distilled)
    levels = levels.to(device=device, dtype=dtype)
    if levels.ndim == 2:
        levels = levels[:, None]
    if known is not None:
        known = Known(known.mask.to(device), known.values.to(device=device, dtype=dtype))
        levels = torch.stack([known.levels(row) for row in levels])
    if start is not None:
        _check_shape("start", start, shape)
        start = start.to(device=device, dtype=dtype, copy=True)

    def noise(needed: Sequence[bool] | None = None) -> Tensor:
        return draw(shape, generators=generators, dtype=dtype, device=device, needed=needed)

    x = schedule.sigma(levels[0])[..., None] * noise() if start is None else start
    if known is not None:
        x = known.hold(x)

    rows = len(levels) - 1
    steering = Steering(
        guidance,
        schedule=schedule,
        rows=rows,
        trust_region=trust_region,
        known=None if known is None else known.mask,
        apart=callback is not None,
        until_noise=resample is not None,
    )
    particles = None
    if resample is not None:
        ancestral = resample.check(solver, guidance)
        particles = Particles(resample, guidance, solver=ancestral, generators=generators)

    def held(x: Tensor) -> Tensor:
        return x if known is None else known.hold(x)

    def finished(x0_hat: Tensor) -> Tensor:
        return held(x0_hat if clip is None else x0_hat.clamp(low, high))

    def estimate(
        x: Tensor, at: Tensor, *, row: int, level_to: Tensor, made: list[tuple[Tensor, Trace]]
    ) -> Tensor:
        # A solver may ask for estimates at points of its own, which must hold what is known.
        trace = Trace()
        free = None if particles is None else particles.estimate_of(x)
        x0_hat = steering.estimate(denoise, held(x), at, level_to, row=row, trace=trace, free=free)
        x0_hat = finished(x0_hat)
        made.append((x0_hat, trace))
        return x0_hat

    state = solver.begin(levels)
    # Which generators' trajectories move in a row: the others' noise is neither drawn nor used.
    moves = (levels[1:] < levels[:-1]).any(dim=-1).expand(-1, batch)
    some_move = moves.reshape(len(moves), -1, share).any(dim=-1).tolist()
    for row in range(rows):
        level, level_to = levels[row], levels[row + 1]
        made: list[tuple[Tensor, Trace]] = []
        if any(some_move[row]):
            before = Trace()
            x = held(steering.shift(denoise, x, level, level_to, row=row, trace=before))
            if particles is not None:
                x = particles.draw(x, denoise(x, level), level)
            here = partial(estimate, row=row, level_to=level_to, made=made)
            fresh = partial(noise, needed=some_move[row])
            step = Step(x, level, level_to, schedule, here, fresh)
            stepped, state = solver.step(step, state)
            if particles is not None:
                particles.weigh(step, stepped, finished)
            x = held(step.keep(stepped))
            made[0][1].pushes[:0] = before.pushes
            if before.kept is not None:
                made[0][1].kept = before.kept
        if callback is not None:
            x0_hat, trace = made[0] if made else (None, Trace())
            callback(
                SamplerStep(
                    row=row + 1, level=level, level_to=level_to, x=x, x0_hat=x0_hat, trace=trace
                )
            )
    if particles is not None:
        x = particles.finish(x, levels[-1])
    if not torch.isfinite(x).all():
        raise PgdiffError("Sampling gave NaN or Inf. Check the model's weights and guide scales.")
    return x


def _check_shape(name: str, tensor: Tensor, shape: tuple[int, int, int]) -> None:
    if tuple(tensor.shape) != shape:
        raise PgdiffError(f"`{name}` must have shape {list(shape)}. Got {list(tensor.shape)}.")
