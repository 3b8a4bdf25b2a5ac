"""The guidance engine, which applies guides to one row of the sampling."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor

from pgdiff.diffusion.differentiation import differentiable
from pgdiff.diffusion.guidance.guidance import Guidance
from pgdiff.diffusion.guidance.monte_carlo import MonteCarlo
from pgdiff.diffusion.guidance.rules import Variance
from pgdiff.diffusion.guidance.trust_region import TrustRegion
from pgdiff.diffusion.schedules import NoiseSchedule, factors

Signal = Float[Tensor, "batch tokens features"]
Level = Float[Tensor, "#batch tokens"]
Denoise = Callable[[Signal, Level], Signal]


@dataclass(frozen=True, eq=False)
class GuideStep:
    """The effect of one guide in one row.

    Attributes:
        name: name of the guide.
        objective: `[batch]`, objective at the point where the gradient was taken.
        move: `[batch, tokens, features]`, move of the clean estimate before any trust region. For
            rules that move the noisy sample, that move divided by alpha.
    """

    name: str
    objective: Float[Tensor, " batch"]
    move: Signal


@dataclass
class Trace:
    """The effect of all guides in one row.

    Attributes:
        pushes: steps of the guides, in the order in which they were applied.
        free: unguided clean estimate of the denoiser.
        kept: `[batch, tokens or 1]`, share of the moves that the trust region kept; None without
            one.
    """

    pushes: list[GuideStep] = field(default_factory=list)
    free: Tensor | None = None
    kept: Tensor | None = None


class GuidanceEngine:
    """Applies guides to each row of the sampling.

    Args:
        guidance: objectives whose gradients move the samples.
        noise_schedule: signal and noise at a level.
        rows: number of rows of the sampling.
        trust_region: limit of the sum of the moves; None for no limit.
        given: `[batch or 1, tokens, features]`, mask of given or measured features, which guides do
            not move.
        apart: whether to compute the move of each guide separately where several share a backward
            pass through the denoiser. Otherwise each is recorded with the move of all.
        until_noise: if True, steps into level 0 are unguided.
        monte_carlo: futures at which gradients are taken; the clean estimate if None.
        hold: puts given features into clean trajectories. Guides need the exact values, and a
            network's estimate of given features may be far off, since it was not trained on them.
        shared: noise of the futures of every row; each row draws new noise if None.
        variance: variance of each feature of the data, for the rules that use it.
    """

    def __init__(
        self,
        guidance: Sequence[Guidance],
        *,
        noise_schedule: NoiseSchedule,
        rows: int = 1,
        trust_region: TrustRegion | None = None,
        given: Tensor | None = None,
        apart: bool = False,
        until_noise: bool = False,
        monte_carlo: MonteCarlo | None = None,
        hold: Callable[[Tensor], Tensor] | None = None,
        shared: Tensor | None = None,
        variance: Variance = 1.0,
    ) -> None:
        active = [guide for guide in guidance if guide.moves_samples]
        self.before = [guide for guide in active if guide.used_rule.before]
        self.through = [g for g in active if g.gradient_at == "denoiser"]
        self.direct = [g for g in active if g.gradient_at != "denoiser" and not g.used_rule.before]
        self.noise_schedule = noise_schedule
        self.rows = rows
        self.trust_region = trust_region
        self.given = given
        self.apart = apart
        self.until_noise = until_noise
        self.monte_carlo = monte_carlo
        self.hold = hold
        self.shared = shared
        self.variance = variance

    def shift(
        self,
        denoise: Denoise,
        x: Signal,
        level: Level,
        level_to: Level,
        *,
        row: int,
        trace: Trace,
        noise: Callable[[], Signal] | None = None,
    ) -> Signal:
        """Return the sample after the moves of rules that apply before the step."""
        if not self.before:
            return x
        x0_hat = None
        if any(guide.gradient_at == "x0" for guide in self.before):
            x0_hat = self._held(denoise(x, level))
        alpha, sigma = factors(self.noise_schedule, level)
        moving = (level_to < level)[..., None]
        total = torch.zeros_like(x)
        clean = x0_hat
        if x0_hat is not None and self.monte_carlo is not None:
            clean = self._futures(denoise, x, level, noise)
        for guide in self.before:
            point = clean if guide.gradient_at == "x0" and clean is not None else x
            objective, gradient = _over_futures(guide, point, level, batch=len(x))
            gradient = gradient.reshape(-1, *x.shape).sum(dim=0)
            move = self._move(guide, gradient, level, level_to, row)
            # Tokens whose level stays are copied.
            move = torch.where(moving, move, 0.0)
            trace.pushes.append(GuideStep(guide.name, objective, move / alpha.clamp(min=1e-3)))
            total = total + move
        if self.trust_region is not None:
            # The denoiser's estimate of the noise is about as long as standard normal noise.
            noise_size = sigma.expand_as(x)
            kept = self._kept(total / alpha.clamp(min=1e-3), noise_size, alpha, sigma, moving)
            trace.kept = kept[..., 0]
            total = kept * total
        return x + total

    def estimate(
        self,
        denoise: Denoise,
        x: Signal,
        level: Level,
        level_to: Level,
        *,
        row: int = 0,
        trace: Trace | None = None,
        free: Signal | None = None,
        noise: Callable[[], Signal] | None = None,
    ) -> Signal:
        """Return the guided clean estimate; all gradients are taken before any move.

        Args:
            denoise: clean estimate of the denoiser, as a function of tokens and levels.
            x: noisy sample.
            level: levels of the tokens.
            level_to: levels of the tokens after the step.
            row: index of the step, from 0.
            trace: record that is filled with the effect of the guides.
            free: clean estimate of the denoiser at `x`, if it was computed before.
            noise: draws standard normal noise of the sample's shape, for futures.
        """
        trace = Trace() if trace is None else trace
        moved: Tensor | None = None
        if self.through:
            x0_hat, moved = self._through(denoise, x, level, level_to, row, trace, noise=noise)
        else:
            x0_hat = self._held(denoise(x, level) if free is None else free)
        futures = x0_hat
        if self.monte_carlo is not None and any(guide.gradient_at == "x0" for guide in self.direct):
            futures = self._futures(denoise, x, level, noise)
        for guide in self.direct:
            point = futures if guide.gradient_at == "x0" else x
            objective, gradient = _over_futures(guide, point, level, batch=len(x))
            gradient = gradient.reshape(-1, *x.shape).sum(dim=0)
            move = self._move(guide, gradient, level, level_to, row)
            trace.pushes.append(GuideStep(guide.name, objective, move))
            moved = move if moved is None else moved + move
        trace.free = x0_hat
        if moved is None:
            return x0_hat
        if self.trust_region is not None:
            alpha, sigma = factors(self.noise_schedule, level)
            moving = (level_to < level)[..., None]
            kept = self._kept(moved, x - alpha * x0_hat, alpha, sigma, moving)
            trace.kept = kept[..., 0]
            moved = kept * moved
        return x0_hat + moved

    def _through(
        self,
        denoise: Denoise,
        x: Signal,
        level: Level,
        level_to: Level,
        row: int,
        trace: Trace,
        *,
        noise: Callable[[], Signal] | None,
    ) -> tuple[Signal, Signal]:
        """Return the clean estimate, and its move by gradients through the denoiser.

        Guides with equal rules, schedules and factors share one backward pass through the network.
        """
        with differentiable("`denoise`"):
            point = x.detach().requires_grad_(True)
            if self.monte_carlo is None:
                graph = self._held(denoise(point, level))
            else:
                graph = self._futures(denoise, point, level, noise)
        clean = graph.detach()
        x0_hat = clean if self.monte_carlo is None else self._held(denoise(x, level))
        groups: dict[object, list[tuple[Guidance, Tensor, Tensor]]] = {}
        for guide in self.through:
            objective, gradient = _over_futures(guide, clean, level, batch=len(x))
            alone = guide.normalize_gradient is not None or guide.mask is not None
            key = (
                id(guide) if alone else (guide.rule, guide.scale_schedule, _identity(guide.factors))
            )
            groups.setdefault(key, []).append((guide, objective, gradient))
        total = torch.zeros_like(x)
        for group in groups.values():
            first = group[0][0]
            seed = torch.stack([guide.scale * gradient for guide, _, gradient in group]).sum(dim=0)
            move = self._pulled_back(first, seed / first.scale, graph, point, level, level_to, row)
            for guide, objective, gradient in group:
                part = move
                if self.apart and len(group) > 1:  # only for the record
                    part = self._pulled_back(guide, gradient, graph, point, level, level_to, row)
                trace.pushes.append(GuideStep(guide.name, objective, part))
            total = total + move
        return x0_hat, total

    def _futures(
        self,
        denoise: Denoise,
        x: Signal,
        level: Level,
        noise: Callable[[], Signal] | None,
    ) -> Tensor:
        """Return clean futures of the noisy trajectories."""
        assert self.monte_carlo is not None and noise is not None
        drawn = self.shared
        if drawn is None:
            drawn = torch.stack([noise() for _ in range(self.monte_carlo.futures)])
        return self.monte_carlo.clean(
            denoise, x, level, noise_schedule=self.noise_schedule, noise=drawn, hold=self.hold
        )

    def _pulled_back(
        self,
        guide: Guidance,
        gradient: Tensor,
        graph: Tensor,
        point: Tensor,
        level: Level,
        level_to: Level,
        row: int,
    ) -> Signal:
        """Return the move by a gradient at clean trajectories, pulled back to the noisy sample."""
        (pulled,) = torch.autograd.grad(graph, point, grad_outputs=gradient, retain_graph=True)
        guide.check_gradient(pulled, level)
        return self._move(guide, pulled, level, level_to, row)

    def _move(
        self, guide: Guidance, gradient: Signal, level: Level, level_to: Level, row: int
    ) -> Signal:
        free = None if self.given is None else (~self.given).to(gradient.dtype)
        factor = guide.factor(
            level, level_to, self.noise_schedule, row=row, rows=self.rows, variance=self.variance
        )
        if self.until_noise:
            factor = factor * (level_to > 0)[..., None]
        return guide.scale * factor * guide.direction(gradient, free)

    def _held(self, clean: Tensor) -> Tensor:
        return clean if self.hold is None else self.hold(clean)

    def _kept(
        self, move: Signal, own: Signal, alpha: Tensor, sigma: Tensor, moving: Tensor
    ) -> Tensor:
        """Return the share of the moves that the trust region keeps; only moving tokens count."""
        assert self.trust_region is not None
        free = moving if self.given is None else moving & ~self.given
        return self.trust_region.factor(
            move,
            own,
            alpha=alpha,
            sigma=sigma,
            free=free.to(move.dtype),
            variance=self.variance,
        )


def _over_futures(
    guide: Guidance, clean: Tensor, level: Level, *, batch: int
) -> tuple[Tensor, Tensor]:
    """Return the mean objective of each trajectory's futures, and its gradient at each of them."""
    # One future after the other: an objective may hold a goal for each trajectory of the batch.
    results = [
        guide.objective_and_gradient(future, level)
        for future in clean.reshape(-1, batch, *clean.shape[1:])
    ]
    objectives, gradients = zip(*results, strict=True)
    return torch.stack(objectives).mean(dim=0), torch.cat(gradients) / len(results)


def _identity(factors: Tensor | None) -> object:
    return None if factors is None else id(factors)
