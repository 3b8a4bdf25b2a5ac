"""The sampler: one loop for every schedule, solver, guide and level matrix."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from pgdiff.core.validation import PgdiffError, check_level, check_range
from pgdiff.diffusion.differentiation import recordable
from pgdiff.diffusion.guidance.engine import GuidanceEngine, Trace
from pgdiff.diffusion.guidance.guidance import Guidance, check_differentiable
from pgdiff.diffusion.guidance.history import HistoryGuidance
from pgdiff.diffusion.guidance.monte_carlo import MonteCarlo
from pgdiff.diffusion.guidance.rules import Variance
from pgdiff.diffusion.guidance.trust_region import TrustRegion
from pgdiff.diffusion.inpainting import Inpainting
from pgdiff.diffusion.level_schedules import LevelMatrix, check_levels
from pgdiff.diffusion.measurements import Measurement
from pgdiff.diffusion.noise import NoiseSource
from pgdiff.diffusion.particles import Ancestral, Particles, Resample
from pgdiff.diffusion.schedules import NoiseSchedule, factors
from pgdiff.diffusion.solvers import Solver, Step

Signal = Float[Tensor, "batch tokens features"]
Levels = Float[Tensor, "#batch tokens"]
Denoise = Callable[[Signal, Levels], Signal]


def stabilized(denoise: Denoise, level: float, *, noise_schedule: NoiseSchedule) -> Denoise:
    """Return a denoiser that labels clean tokens with `level`.

    The tokens are scaled as at that level but no noise is added, as in Diffusion Forcing's public
    code with DDIM. This deliberate error causes a bias: with the exact denoiser of Gaussian data,
    the covariance of the samples has an error that more steps do not remove and that grows with the
    level (`tests/diffusion/test_stabilization.py`).

    Args:
        denoise: clean estimate of `x` at its levels.
        level: label of clean tokens, in [0, 1); 0 changes nothing.
        noise_schedule: signal and noise at a level.
    """
    check_level("stabilization", level)
    if level == 0:
        return denoise

    def estimate(x: Signal, levels: Levels) -> Signal:
        clean = levels == 0
        labels = torch.where(clean, level, levels)
        alpha, _ = factors(noise_schedule, labels)
        scaled = torch.where(clean[..., None], alpha * x, x)
        return torch.where(clean[..., None], x, denoise(scaled, labels))

    return estimate


@dataclass(frozen=True)
class SamplerStep:
    """The state of the sampling after a row, passed to callbacks.

    Attributes:
        row: index of the row just reached, from 1.
        level: `[batch or 1, tokens]`, levels before the step.
        level_to: `[batch or 1, tokens]`, levels after the step.
        x: `[batch, tokens, features]`, sample after the step.
        before: `[batch, tokens, features]`, sample before the step and the guides' moves.
        x0_hat: first clean estimate of the step, guided and clipped; None if no token moved.
        trace: effect of the guides on the first estimate of the step.

    Example:
        >>> import torch
        >>> from pgdiff.diffusion import DDIM, CosineSchedule, full_sequence, sample
        >>> rows = []
        >>> x = sample(
        ...     lambda x, level: torch.zeros_like(x), noise_schedule=CosineSchedule(),
        ...     levels=full_sequence(steps=2, tokens=3), shape=(1, 3, 1), solver=DDIM(),
        ...     generators=[torch.Generator()], callback=lambda step: rows.append(step.row),
        ... )
        >>> rows
        [1, 2]
    """

    row: int
    level: Tensor
    level_to: Tensor
    x: Tensor
    x0_hat: Tensor | None
    before: Tensor
    trace: Trace = field(default_factory=Trace)


@dataclass(frozen=True, eq=False, kw_only=True)
class PreparedSampling:
    """A checked sampling with its levels and tensors, as `prepare` returns it for `run`.

    Attributes:
        denoise: clean estimate of `x` at its levels, in the type of the samples.
        noise_schedule: signal and noise at a level.
        levels: `[rows + 1, batch or 1, tokens]`, on the device of the samples.
        shape: batch, tokens, features.
        groups: number of groups of trajectories.
        solver: solver of the steps.
        inpainting: given features.
        measurement: features that were measured with noise.
        guidance: objectives whose gradients move the samples.
        trust_region: limit of these moves.
        particles: settings of resampling, and the solver that it needs.
        bounds: smallest and largest value of clean estimates.
        history: views of the given leading tokens.
        past: number of given leading tokens.
        monte_carlo: futures over which gradients are averaged.
        variance: variance of each feature of the data.
        some_move: for each row, whether each group has a token that moves.
        ends: for each row, the number of leading tokens that the denoiser is called with.
        start: `x` at the first row; noise if None.
        callback: called after every row.
        dtype: type of the samples.
        device: device of the samples.

    Example:
        >>> import torch
        >>> from pgdiff.diffusion import DDIM, CosineSchedule, full_sequence, prepare
        >>> prepared = prepare(
        ...     lambda x, level: torch.zeros_like(x), noise_schedule=CosineSchedule(),
        ...     levels=full_sequence(steps=2, tokens=3), shape=(4, 3, 1), solver=DDIM(),
        ... )
        >>> prepared.levels.shape
        torch.Size([3, 1, 3])
    """

    denoise: Denoise
    noise_schedule: NoiseSchedule
    levels: Tensor
    shape: tuple[int, int, int]
    groups: int
    solver: Solver
    inpainting: Inpainting | None
    measurement: Measurement | None
    guidance: Sequence[Guidance]
    trust_region: TrustRegion | None
    particles: tuple[Resample, Ancestral] | None
    bounds: tuple[Tensor, Tensor] | None
    history: HistoryGuidance | None
    past: int
    monte_carlo: MonteCarlo | None
    variance: Variance
    some_move: list[list[bool]]
    ends: list[int]
    start: Signal | None
    callback: Callable[[SamplerStep], None] | None
    dtype: torch.dtype
    device: torch.device

    def hold(
        self, x: Tensor, level: Tensor, most: Tensor | None = None, *, unseen: Tensor | None = None
    ) -> Tensor:
        """Return `x` with given and measured features in place."""
        if self.measurement is not None and unseen is not None:
            x = self.measurement.hold(
                x, level, noise_schedule=self.noise_schedule, noise=unseen, most=most
            )
        return x if self.inpainting is None else self.inpainting.hold(x)

    def finish(self, x0_hat: Tensor) -> Tensor:
        """Return a clean estimate, clipped and with given features in place."""
        x0_hat = x0_hat if self.bounds is None else x0_hat.clamp(*self.bounds)
        return x0_hat if self.inpainting is None else self.inpainting.hold(x0_hat)


@torch.inference_mode(False)
@torch.no_grad()
def sample(
    denoise: Denoise,
    *,
    generators: Sequence[torch.Generator],
    shape: tuple[int, int, int],
    **rest: Any,
) -> Signal:
    """Sample trajectories by denoising along a level matrix: `run(prepare(...), noise)`.

    Args:
        denoise: clean estimate x0_hat of `x` at its levels `[batch or 1, tokens]`.
        generators: sources of all noise; each draws an equal share of the batch.
        shape: batch, tokens, features.
        rest: other arguments of `prepare`.

    Returns:
        `[batch, tokens, features]`, clean, normalised; given features have exactly their values.

    Example:
        >>> import torch
        >>> from pgdiff.diffusion import DDIM, CosineSchedule, full_sequence, sample
        >>> x = sample(
        ...     lambda x, level: torch.zeros_like(x), noise_schedule=CosineSchedule(),
        ...     levels=full_sequence(steps=5, tokens=3), shape=(2, 3, 1), solver=DDIM(),
        ...     generators=[torch.Generator().manual_seed(0)],
        ... )
        >>> x.shape
        torch.Size([2, 3, 1])
    """
    noise = NoiseSource(generators, batch=shape[0])
    return run(prepare(denoise, shape=shape, groups=noise.groups, **rest), noise)


def prepare(
    denoise: Denoise,
    *,
    noise_schedule: NoiseSchedule,
    levels: LevelMatrix,
    shape: tuple[int, int, int],
    solver: Solver,
    groups: int = 1,
    inpainting: Inpainting | None = None,
    measurement: Measurement | None = None,
    guidance: Sequence[Guidance] = (),
    trust_region: TrustRegion | None = None,
    particles: Resample | None = None,
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
) -> PreparedSampling:
    """Check the parts of a sampling, and prepare its levels and tensors.

    Args:
        denoise: clean estimate x0_hat of `x` at its levels `[batch or 1, tokens]`.
        noise_schedule: signal and noise at a level.
        levels: `[rows, tokens]` or `[rows, batch, tokens]`, from 1 (any level with `start`) to 0,
            never rising. A token whose level does not change in a row is copied.
        shape: batch, tokens, features.
        solver: solver of the steps.
        groups: number of groups of trajectories, each with a separate generator.
        inpainting: given features; tokens given as a whole have level 0 from the start.
        measurement: features that were measured with noise, which guides do not move; tokens
            measured as a whole have at most the measurement's level.
        guidance: objectives whose gradients move the samples.
        trust_region: limit of these moves.
        particles: resampling of the trajectories of each group by their weights.
        clip: limit of the absolute value of `x0_hat` after guidance, in normalised units, or its
            smallest and largest value, `[features]` each.
        distilled: whether `denoise` is a consistency function, which a consistency solver needs.
        history: views of the leading tokens that are given as a whole, whose estimates are summed.
        monte_carlo: futures over which the guides' gradients at clean trajectories are averaged.
        stabilization: label of clean tokens, a level in [0, 1); it causes a bias, see `stabilized`.
        variance: variance of each feature of the data, which guidance rules use.
        causal: whether `denoise` computes each token from earlier tokens and itself alone, and
            accepts fewer tokens. Tokens after the last moving one are then left out of its calls,
            unless a guide or a callback needs them.
        start: `x` at the first row; noise of the first row's sigma if None.
        callback: called after every row.
        dtype: type of the tokens that `denoise` takes and returns. Samples and levels are at least
            float32, since neighbouring levels may be equal in half precision.
        device: device of the samples.

    Example:
        >>> import torch
        >>> from pgdiff.diffusion import DDIM, CosineSchedule, NoiseSource, full_sequence
        >>> from pgdiff.diffusion import prepare, run
        >>> prepared = prepare(
        ...     lambda x, level: torch.zeros_like(x), noise_schedule=CosineSchedule(),
        ...     levels=full_sequence(steps=2, tokens=3), shape=(4, 3, 1), solver=DDIM(),
        ... )
        >>> run(prepared, NoiseSource.from_seeds(0, batch=4)).shape
        torch.Size([4, 3, 1])
    """
    batch, tokens, _ = shape
    device = torch.device(device)
    denoise, dtype = _in_float32(denoise, dtype)
    denoise = stabilized(denoise, stabilization, noise_schedule=noise_schedule)
    _check_given(inpainting, measurement, guidance, shape)
    check_differentiable(guidance, particles=particles is not None)
    given = _given_tokens(inpainting, measurement)
    check_levels(levels, batch=batch, tokens=tokens, given=given, started=start is not None)
    bounds = _bounds(clip, dtype=dtype, device=device)
    if hasattr(solver, "check"):
        solver.check(noise_schedule=noise_schedule, distilled=distilled)
    levels, inpainting, measurement = _on_device(
        levels, inpainting, measurement, monte_carlo, dtype=dtype, device=device
    )
    if start is not None:
        _check_shape("start", start, shape)
        start = start.to(device=device, dtype=dtype, copy=True)
    if particles is not None:
        for name, part in (("monte_carlo", monte_carlo), ("measurement", measurement)):
            if part is not None:
                raise PgdiffError(f"`{name}` must be None with `particles`. Got both.")
    guided = any(guide.moves_samples for guide in guidance)
    shorten = causal and not guided and particles is None and callback is None
    some_move, ends = _moving_parts(levels, batch=batch, groups=groups, shorten=shorten)
    return PreparedSampling(
        denoise=denoise,
        noise_schedule=noise_schedule,
        levels=levels,
        shape=shape,
        groups=groups,
        solver=solver,
        inpainting=inpainting,
        measurement=measurement,
        guidance=guidance,
        trust_region=trust_region,
        particles=None if particles is None else (particles, particles.check(solver, guidance)),
        bounds=bounds,
        history=history,
        past=_past(history, inpainting),
        monte_carlo=monte_carlo,
        variance=variance,
        some_move=some_move,
        ends=ends,
        start=start,
        callback=callback,
        dtype=dtype,
        device=device,
    )


@torch.inference_mode(False)
@torch.no_grad()
def run(prepared: PreparedSampling, noise: NoiseSource) -> Signal:
    """Sample the trajectories of a prepared sampling from its noise.

    Args:
        prepared: result of `prepare`.
        noise: source of all random numbers, with the number of groups passed to `prepare`.

    Returns:
        `[batch, tokens, features]`, clean, normalised.

    Raises:
        PgdiffError: the samples are not finite, or `noise` replays another sampling.

    Example:
        >>> import torch
        >>> from pgdiff.diffusion import DDIM, CosineSchedule, NoiseSource, full_sequence
        >>> from pgdiff.diffusion import prepare, run
        >>> prepared = prepare(
        ...     lambda x, level: torch.zeros_like(x), noise_schedule=CosineSchedule(),
        ...     levels=full_sequence(steps=2, tokens=3), shape=(4, 3, 1), solver=DDIM(), groups=2,
        ... )
        >>> run(prepared, NoiseSource.from_seeds([0, 1], batch=4)).shape
        torch.Size([4, 3, 1])
    """
    rows = _Rows(prepared, noise)
    x, state = rows.first(), prepared.solver.begin(prepared.levels)
    for row in range(len(prepared.levels) - 1):
        x, state = rows.step(x, state, row)
    if rows.particles is not None:
        x = rows.particles.finish(x, prepared.levels[-1])
    noise.finish()
    if not torch.isfinite(x).all():
        raise PgdiffError("Sampling gave NaN or Inf. Check the model's weights and guide scales.")
    return x


class _Rows:
    """The rows of one sampling, with their shared noise."""

    def __init__(self, prepared: PreparedSampling, noise: NoiseSource) -> None:
        self.prepared, self.source = prepared, noise
        self.denoise = prepared.denoise
        self.unseen: Tensor | None = None
        self.particles: Particles | None = None
        self.engine: GuidanceEngine | None = None

    def noise(self, needed: Sequence[bool] | None = None) -> Tensor:
        """Return standard normal noise of the samples' shape."""
        at = self.prepared
        return self.source.normal(at.shape, dtype=at.dtype, device=at.device, needed=needed)

    def first(self) -> Signal:
        """Return the sample at the first row, and draw the noise that all rows share."""
        at = self.prepared
        x = at.start
        if x is None:
            x = at.noise_schedule.sigma(at.levels[0])[..., None] * self.noise()
        if at.history is not None:
            self.denoise = partial(
                at.history.estimate,
                at.denoise,
                noise_schedule=at.noise_schedule,
                noise=self.noise()[:, : at.past],
            )
        if at.measurement is not None:  # only for groups with measured features
            measured = at.measurement.mask.any(dim=-1).any(dim=-1).expand(at.shape[0])
            needed = measured.reshape(at.groups, -1).any(dim=1).tolist()
            self.unseen = self.noise(needed)
        x = at.hold(x, at.levels[0], unseen=self.unseen)
        self.engine = self._engine()
        if at.particles is not None:
            settings, solver = at.particles
            self.particles = Particles(settings, at.guidance, solver=solver, noise=self.source)
        return x

    def _engine(self) -> GuidanceEngine:
        at = self.prepared
        shared = None
        if at.monte_carlo is not None and at.monte_carlo.shared:
            drawn = torch.stack([self.noise() for _ in range(at.monte_carlo.futures)])
            # All trajectories of a group share its first draw, so that groups are independent.
            share = at.shape[0] // at.groups
            first = drawn.reshape(len(drawn), at.groups, share, *at.shape[1:])[:, :, :1]
            shared = first.expand(-1, -1, share, -1, -1).reshape(drawn.shape)
        given = None if at.inpainting is None else at.inpainting.mask
        if at.measurement is not None:  # guides do not move measured features at any noise level
            mask = at.measurement.mask
            given = mask if at.inpainting is None else at.inpainting.mask | mask
        return GuidanceEngine(
            at.guidance,
            noise_schedule=at.noise_schedule,
            rows=len(at.levels) - 1,
            trust_region=at.trust_region,
            given=given,
            apart=at.callback is not None,
            until_noise=at.particles is not None,
            monte_carlo=at.monte_carlo,
            hold=None if at.inpainting is None else at.inpainting.hold,
            shared=shared,
            variance=at.variance,
        )

    def step(self, x: Signal, state: Any, row: int) -> tuple[Signal, Any]:
        """Take one row: guided moves of the sample, the solver's step, and given features."""
        at, start = self.prepared, x
        level, level_to = at.levels[row], at.levels[row + 1]
        made: list[tuple[Tensor, Trace]] = []
        if any(at.some_move[row]):
            assert self.engine is not None
            before, fresh = Trace(), partial(self.noise, needed=at.some_move[row])
            x = self.engine.shift(
                self.denoise, x, level, level_to, row=row, trace=before, noise=fresh
            )
            x = at.hold(x, level, unseen=self.unseen)
            if self.particles is not None:
                x = self.particles.draw(x, self.denoise(x, level), level)
            estimate = partial(self._estimate, row=row, level_to=level_to, made=made)
            step = Step(x, level, level_to, at.noise_schedule, estimate, fresh)
            stepped, state = at.solver.step(step, state)
            if self.particles is not None:
                self.particles.weigh(step, stepped, at.finish)
            x = at.hold(step.keep(stepped), level_to, unseen=self.unseen)
            made[0][1].pushes[:0] = before.pushes
            if before.kept is not None:
                made[0][1].kept = before.kept
        if at.callback is not None:
            x0_hat, trace = made[0] if made else (None, Trace())
            at.callback(SamplerStep(row + 1, level, level_to, x, x0_hat, before=start, trace=trace))
        return x, state

    def _estimate(
        self,
        x: Tensor,
        level: Tensor,
        *,
        row: int,
        level_to: Tensor,
        made: list[tuple[Tensor, Trace]],
    ) -> Tensor:
        """Return the guided clean estimate at any point that a solver requests."""
        at, ends = self.prepared, self.prepared.ends[row]
        assert self.engine is not None
        trace = Trace()
        free = None if self.particles is None else self.particles.estimate_of(x)
        called = self.denoise if ends == at.shape[1] else partial(_leading, self.denoise, ends)
        x0_hat = self.engine.estimate(
            called,
            at.hold(x, level, at.levels[row], unseen=self.unseen),
            level,
            level_to,
            row=row,
            trace=trace,
            free=free,
            noise=partial(self.noise, needed=at.some_move[row]),
        )
        x0_hat = at.finish(x0_hat)
        made.append((x0_hat, trace))
        return x0_hat


def _in_float32(denoise: Denoise, dtype: torch.dtype) -> tuple[Denoise, torch.dtype]:
    """Return the type of the samples, and `denoise` as a function of tokens of that type."""
    least = torch.promote_types(dtype, torch.float32)
    if least == dtype:
        return denoise, dtype
    return lambda x, level: denoise(x.to(dtype), level).to(least), least


def _given_tokens(inpainting: Inpainting | None, measurement: Measurement | None) -> Tensor | None:
    """Return the tokens that are given or measured as a whole; None if none can be."""
    masks = [part.tokens.cpu() for part in (inpainting, measurement) if part is not None]
    if len(masks) == 2:
        return masks[0] | masks[1]
    return masks[0] if masks else None


def _on_device(
    levels: LevelMatrix,
    inpainting: Inpainting | None,
    measurement: Measurement | None,
    monte_carlo: MonteCarlo | None,
    *,
    dtype: torch.dtype,
    device: torch.device,
) -> tuple[Tensor, Inpainting | None, Measurement | None]:
    """Return `[rows, batch or 1, tokens]` levels with given tokens, and the parts, on a device."""
    levels = recordable(levels.to(device=device, dtype=dtype))
    if levels.ndim == 2:
        levels = levels[:, None]
    if inpainting is not None:
        values = inpainting.values.to(device=device, dtype=dtype)
        inpainting = Inpainting(recordable(inpainting.mask.to(device)), recordable(values))
        levels = torch.stack([inpainting.levels(row) for row in levels])
    if measurement is not None:
        measurement = measurement.to(device=device, dtype=dtype)
        _check_measurement(measurement, inpainting, levels[0], monte_carlo)
        levels = measurement.levels(levels)
    return levels, inpainting, measurement


def _moving_parts(
    levels: Tensor, *, batch: int, groups: int, shorten: bool
) -> tuple[list[list[bool]], list[int]]:
    """Return for each row which groups move, and the number of leading tokens to denoise.

    Noise is drawn only for groups that move.

    Args:
        levels: `[rows, batch or 1, tokens]`.
        batch: number of trajectories.
        groups: number of groups of trajectories.
        shorten: whether tokens after the last moving one may be left out.
    """
    falls = levels[1:] < levels[:-1]
    moves = falls.any(dim=-1).expand(-1, batch)
    some_move = moves.reshape(len(falls), -1, batch // groups).any(dim=-1).tolist()
    ends = [
        int(row.nonzero().amax()) + 1 if shorten and row.any() else levels.shape[-1]
        for row in falls.any(1)
    ]
    return some_move, ends


def _leading(denoise: Denoise, count: int, x: Tensor, level: Tensor) -> Tensor:
    """Return the estimates of the first `count` tokens, and the others unchanged."""
    return torch.cat([denoise(x[:, :count], level[:, :count]), x[:, count:]], dim=1)


def _check_shape(name: str, tensor: Tensor, shape: tuple[int, int, int]) -> None:
    if tuple(tensor.shape) != shape:
        raise PgdiffError(f"`{name}` must have shape {list(shape)}. Got {list(tensor.shape)}.")


def _check_given(
    inpainting: Inpainting | None,
    measurement: Measurement | None,
    guidance: Sequence[Guidance],
    shape: tuple[int, int, int],
) -> None:
    if inpainting is not None:
        one = (1, *shape[1:])
        _check_shape("inpainting", inpainting.values, one if len(inpainting.values) == 1 else shape)
    if measurement is not None:
        _check_shape("measurement", measurement.values, shape)
    for guide in guidance:
        guide.check(shape)


def _check_measurement(
    measurement: Measurement,
    inpainting: Inpainting | None,
    first: Tensor,
    monte_carlo: MonteCarlo | None,
) -> None:
    if inpainting is not None:
        both = (inpainting.tokens & measurement.mask.any(dim=-1)).any(dim=0)
        if both.any():
            raise PgdiffError(
                "`measurement` must not hold tokens that `inpainting` gives as a whole. "
                f"Got token {int(both.nonzero()[0])} in both."
            )
    measurement.check_start(first)
    if monte_carlo is not None and measurement.parts.any():
        raise PgdiffError(
            "`monte_carlo` must be None if tokens were measured in part, because futures would "
            "start from other values. Got both. Measure whole tokens, or use no futures."
        )


def _bounds(
    clip: float | tuple[Tensor, Tensor] | None, *, dtype: torch.dtype, device: torch.device
) -> tuple[Tensor, Tensor] | None:
    if clip is None:
        return None
    if isinstance(clip, tuple):
        low, high = (recordable(bound.to(device=device, dtype=dtype)) for bound in clip)
        return low, high
    end = torch.tensor(check_range("clip", clip, low=0.0, open_low=True)).to(device, dtype)
    return -end, end


def _past(history: HistoryGuidance | None, inpainting: Inpainting | None) -> int:
    """Return the number of leading tokens that are given as a whole."""
    if history is None:
        return 0
    past = 0
    if inpainting is not None:
        past = int(inpainting.tokens.all(dim=0).long().cumprod(dim=0).sum())
    if not past:
        raise PgdiffError(
            "`history` needs leading tokens that are given as a whole. Got "
            + ("none. Pass `inpainting`." if inpainting is None else "only parts of tokens.")
        )
    return past
