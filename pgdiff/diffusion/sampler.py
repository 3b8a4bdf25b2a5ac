"""The sampler: one loop for every schedule, solver, guide and level matrix."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor

from pgdiff.diffusion.differentiation import recordable
from pgdiff.diffusion.guidance import Guidance
from pgdiff.diffusion.guidance_rules import Variance
from pgdiff.diffusion.history_guidance import HistoryGuidance
from pgdiff.diffusion.known import Known
from pgdiff.diffusion.level_schedules import LevelMatrix, check_levels
from pgdiff.diffusion.monte_carlo import MonteCarlo
from pgdiff.diffusion.noise import draw, share_of
from pgdiff.diffusion.observed import Observed
from pgdiff.diffusion.resample import Particles, Resample
from pgdiff.diffusion.schedules import NoiseSchedule
from pgdiff.diffusion.solvers import Solver, Step
from pgdiff.diffusion.stabilization import stabilized
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


@torch.inference_mode(False)
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
    observed: Observed | None = None,
    guidance: Sequence[Guidance] = (),
    trust_region: TrustRegion | None = None,
    resample: Resample | None = None,
    clip: float | tuple[Tensor, Tensor] | None = None,
    distilled: bool = False,
    history: HistoryGuidance | None = None,
    monte_carlo: MonteCarlo | None = None,
    stabilization: float = 0.0,
    variance: Variance = 1.0,
    causal: bool = False,
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
        observed: features that were measured with noise, which guides do not move; tokens measured
            as a whole have at most the measurement's level.
        guidance: energies whose gradients steer.
        trust_region: limits how far they move a sample.
        resample: draws the trajectories of each generator anew by their weights, in place of the
            ones that guidance alone would give.
        clip: limit of the absolute value of `x0_hat` after guidance, in normalised units, or its
            least and its greatest value, `[features]` each.
        distilled: whether `denoise` is a consistency function, which a consistency solver needs.
        history: views of the leading tokens that are known as a whole, whose estimates add up.
        monte_carlo: futures over which the guides' gradients at clean trajectories are averaged.
        stabilization: level, in [0, 1), that clean tokens are labelled with; 0 for the truth. It is
            a bias, see `pgdiff.diffusion.stabilization`.
        variance: of each feature of the data, for guidance rules that go by it.
        causal: whether `denoise` gives each token from the ones up to it, and of fewer tokens the
            same. Tokens behind the last that moves are then left out of its calls, where no guide
            and no callback looks at them.
        start: `x` at the first row; noise of the first row's sigma if None.
        callback: called after every row.
        dtype: of the tokens that `denoise` takes and gives. Samples and levels are at least
            float32: in half precision neighbouring levels would be one.
        device: of the samples.

    Returns:
        `[batch, tokens, features]`, clean, normalised; known features are exactly their values.
    """
    batch, tokens, _ = shape
    device = torch.device(device)
    denoise, dtype = _in_float32(denoise, dtype)
    denoise = stabilized(denoise, stabilization, schedule=schedule)
    share = share_of(batch, generators)
    if known is not None:
        one = (1, *shape[1:])
        _check_shape("known", known.values, one if len(known.values) == 1 else shape)
    if observed is not None:
        _check_shape("observed", observed.values, shape)
    for guide in guidance:
        guide.check(shape)
    given = _given(known, observed)
    check_levels(levels, batch=batch, tokens=tokens, known=given, started=start is not None)
    if isinstance(clip, tuple):
        low, high = (recordable(bound.to(device=device, dtype=dtype)) for bound in clip)
    elif clip is not None:
        high = torch.tensor(check_range("clip", clip, low=0.0, open_low=True)).to(device, dtype)
        low = -high
    if hasattr(solver, "check"):
        solver.check(schedule=schedule, distilled=distilled)
    levels = recordable(levels.to(device=device, dtype=dtype))
    if levels.ndim == 2:
        levels = levels[:, None]
    if known is not None:
        values = known.values.to(device=device, dtype=dtype)
        known = Known(recordable(known.mask.to(device)), recordable(values))
        levels = torch.stack([known.levels(row) for row in levels])
    if observed is not None:
        observed = observed.to(device=device, dtype=dtype)
        if known is not None:
            both = (known.tokens & observed.mask.any(dim=-1)).any(dim=0)
            if both.any():
                raise PgdiffError(
                    "`observed` must hold no token that is `known` as a whole. "
                    f"Got token {int(both.nonzero()[0])} in both."
                )
        observed.check_start(levels[0])
        levels = observed.levels(levels)
        if monte_carlo is not None and observed.parts.any():
            raise PgdiffError(
                "`monte_carlo` must be None where tokens were measured in part, whose futures "
                "would begin elsewhere. Got both; measure whole tokens, or take no futures."
            )
    if start is not None:
        _check_shape("start", start, shape)
        start = start.to(device=device, dtype=dtype, copy=True)

    def noise(needed: Sequence[bool] | None = None) -> Tensor:
        return draw(shape, generators=generators, dtype=dtype, device=device, needed=needed)

    x = schedule.sigma(levels[0])[..., None] * noise() if start is None else start
    if history is not None:
        past = 0 if known is None else int(known.tokens.all(dim=0).long().cumprod(dim=0).sum())
        if not past:
            raise PgdiffError(
                "`history` needs leading tokens that are known as a whole. Got none"
                + ("; give `known`." if known is None else ", but parts of tokens.")
            )
        denoise = partial(history.estimate, denoise, schedule=schedule, noise=noise()[:, :past])
    unseen = None
    if observed is not None:  # for those alone that measured something
        measured = observed.mask.any(dim=-1).any(dim=-1).expand(batch).reshape(-1, share)
        unseen = noise(measured.any(dim=1).tolist())

    def held(x: Tensor, level: Tensor, most: Tensor | None = None) -> Tensor:
        if observed is not None and unseen is not None:
            x = observed.hold(x, level, schedule=schedule, noise=unseen, most=most)
        return x if known is None else known.hold(x)

    x = held(x, levels[0])
    rows = len(levels) - 1
    shared = None
    if monte_carlo is not None and monte_carlo.shared:
        drawn = torch.stack([noise() for _ in range(monte_carlo.futures)])
        # Each generator's for all of its trajectories, so that none depends on another's.
        first = drawn.reshape(len(drawn), len(generators), share, *shape[1:])[:, :, :1]
        shared = first.expand(-1, -1, share, -1, -1).reshape(drawn.shape)
    given_features = None if known is None else known.mask
    if observed is not None:  # what is, is not for guides to choose, however badly it was measured
        given_features = observed.mask if known is None else known.mask | observed.mask
    steering = Steering(
        guidance,
        schedule=schedule,
        rows=rows,
        trust_region=trust_region,
        known=given_features,
        apart=callback is not None,
        until_noise=resample is not None,
        monte_carlo=monte_carlo,
        hold=None if known is None else known.hold,
        shared=shared,
        variance=variance,
    )
    particles = None
    if resample is not None:
        for name, part in (("monte_carlo", monte_carlo), ("observed", observed)):
            if part is not None:
                raise PgdiffError(f"`{name}` must be None with `resample`. Got both.")
        ancestral = resample.check(solver, guidance)
        particles = Particles(resample, guidance, solver=ancestral, generators=generators)

    def finished(x0_hat: Tensor) -> Tensor:
        x0_hat = x0_hat if clip is None else x0_hat.clamp(low, high)
        return x0_hat if known is None else known.hold(x0_hat)

    # Which generators' trajectories move in a row: the others' noise is neither drawn nor used.
    falls = levels[1:] < levels[:-1]
    moves = falls.any(dim=-1).expand(-1, batch)
    some_move = moves.reshape(rows, -1, share).any(dim=-1).tolist()
    steers = any(guide.scale > 0 for guide in guidance)
    alone = causal and not steers and particles is None and callback is None
    ends = [
        int(row.nonzero().amax()) + 1 if alone and row.any() else tokens for row in falls.any(1)
    ]

    def estimate(
        x: Tensor, at: Tensor, *, row: int, level_to: Tensor, made: list[tuple[Tensor, Trace]]
    ) -> Tensor:
        # A solver may ask for estimates at points of its own, which must hold what is known.
        trace = Trace()
        free = None if particles is None else particles.estimate_of(x)
        called = denoise if ends[row] == tokens else partial(_leading, denoise, ends[row])
        fresh = partial(noise, needed=some_move[row])
        x0_hat = steering.estimate(
            called,
            held(x, at, levels[row]),
            at,
            level_to,
            row=row,
            trace=trace,
            free=free,
            noise=fresh,
        )
        x0_hat = finished(x0_hat)
        made.append((x0_hat, trace))
        return x0_hat

    state = solver.begin(levels)
    for row in range(rows):
        level, level_to = levels[row], levels[row + 1]
        made: list[tuple[Tensor, Trace]] = []
        if any(some_move[row]):
            before, fresh = Trace(), partial(noise, needed=some_move[row])
            x = steering.shift(denoise, x, level, level_to, row=row, trace=before, noise=fresh)
            x = held(x, level)
            if particles is not None:
                x = particles.draw(x, denoise(x, level), level)
            here = partial(estimate, row=row, level_to=level_to, made=made)
            step = Step(x, level, level_to, schedule, here, fresh)
            stepped, state = solver.step(step, state)
            if particles is not None:
                particles.weigh(step, stepped, finished)
            x = held(step.keep(stepped), level_to)
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


def _in_float32(denoise: Denoise, dtype: torch.dtype) -> tuple[Denoise, torch.dtype]:
    """Return the type of the samples, and `denoise` as a function of tokens of that type."""
    least = torch.promote_types(dtype, torch.float32)
    if least == dtype:
        return denoise, dtype
    return lambda x, level: denoise(x.to(dtype), level).to(least), least


def _given(known: Known | None, observed: Observed | None) -> Tensor | None:
    """Tokens whose levels in the first row do not count."""
    found = [part.tokens.cpu() for part in (known, observed) if part is not None]
    if len(found) == 2:
        return found[0] | found[1]
    return found[0] if found else None


def _leading(denoise: Denoise, count: int, x: Tensor, level: Tensor) -> Tensor:
    """Estimates of so many leading tokens; the others as they are."""
    return torch.cat([denoise(x[:, :count], level[:, :count]), x[:, count:]], dim=1)


def _check_shape(name: str, tensor: Tensor, shape: tuple[int, int, int]) -> None:
    if tuple(tensor.shape) != shape:
        raise PgdiffError(f"`{name}` must have shape {list(shape)}. Got {list(tensor.shape)}.")
