"""How guides enter one row of the sampling: which move what, and how far they may."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor

from pgdiff.diffusion.differentiation import differentiable
from pgdiff.diffusion.guidance import Guidance
from pgdiff.diffusion.guidance_rules import Variance
from pgdiff.diffusion.monte_carlo import MonteCarlo
from pgdiff.diffusion.schedules import NoiseSchedule, factors
from pgdiff.diffusion.trust_region import TrustRegion

Signal = Float[Tensor, "batch tokens features"]
Level = Float[Tensor, "#batch tokens"]
Denoise = Callable[[Signal, Level], Signal]


@dataclass(frozen=True, eq=False)
class Push:
    """What one guide did in one row.

    Attributes:
        name: of the guide.
        energy: `[batch]`, at the point where its gradient was taken.
        move: `[batch, tokens, features]`, of the clean estimate, or of the noisy sample divided by
            alpha by a rule that moves that, before any trust region.
    """

    name: str
    energy: Float[Tensor, " batch"]
    move: Signal


@dataclass
class Trace:
    """What guidance did in one row.

    Attributes:
        pushes: of each guide, in the order in which they were applied.
        free: the denoiser's own clean estimate.
        kept: `[batch, tokens or 1]`, what the trust region left of the moves; None without one.
    """

    pushes: list[Push] = field(default_factory=list)
    free: Tensor | None = None
    kept: Tensor | None = None


class Steering:
    """Applies guides to one row after the other.

    Args:
        guidance: energies whose gradients steer.
        schedule: signal and noise at a level.
        rows: number of rows of the sampling.
        trust_region: limits the sum of the moves; None for no limit.
        known: mask of what is given or was measured, which guides do not move,
            `[batch or 1, tokens, features]`.
        apart: whether to work out what each guide does by itself where several share a pass back
            through the denoiser; without, each is noted with the move of all.
        until_noise: leave steps into level 0 to the denoiser.
        monte_carlo: clean trajectories at which gradients are taken; the clean estimate if None.
        hold: puts what is known into clean trajectories: guides are to see the truth there, of
            which a network's own estimate may be far off, since it was never asked for it.
        shared: noise of the futures of every row; each draws its own if None.
        variance: of each feature of the data, for the rules that go by it.
    """

    def __init__(
        self,
        guidance: Sequence[Guidance],
        *,
        schedule: NoiseSchedule,
        rows: int = 1,
        trust_region: TrustRegion | None = None,
        known: Tensor | None = None,
        apart: bool = False,
        until_noise: bool = False,
        monte_carlo: MonteCarlo | None = None,
        hold: Callable[[Tensor], Tensor] | None = None,
        shared: Tensor | None = None,
        variance: Variance = 1.0,
    ) -> None:
        active = [guide for guide in guidance if guide.scale > 0]
        self.before = [guide for guide in active if guide.used_rule.before]
        self.through = [g for g in active if g.at == "denoiser"]
        self.direct = [g for g in active if g.at != "denoiser" and not g.used_rule.before]
        self.schedule = schedule
        self.rows = rows
        self.trust_region = trust_region
        self.known = known
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
        """The sample after the moves of rules that go before the step."""
        if not self.before:
            return x
        x0_hat = None
        if any(guide.at == "x0" for guide in self.before):
            x0_hat = self._held(denoise(x, level))
        alpha, sigma = factors(self.schedule, level)
        moving = (level_to < level)[..., None]
        total = torch.zeros_like(x)
        clean = x0_hat
        if x0_hat is not None and self.monte_carlo is not None:
            clean = self._futures(denoise, x, level, noise)
        for guide in self.before:
            point = clean if guide.at == "x0" and clean is not None else x
            energy, gradient = _over_futures(guide, point, level, batch=len(x))
            gradient = gradient.reshape(-1, *x.shape).sum(dim=0)
            move = self._move(guide, gradient, level, level_to, row)
            # A token that stays where it is, is copied.
            move = torch.where(moving, move, 0.0)
            trace.pushes.append(Push(guide.name, energy, move / alpha.clamp(min=1e-3)))
            total = total + move
        if self.trust_region is not None:
            # The denoiser's estimate of the noise is about as long as standard normal noise.
            own = sigma.expand_as(x)
            kept = self._kept(total / alpha.clamp(min=1e-3), own, alpha, sigma, moving)
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
        """Guided clean estimate; all gradients are taken before any move.

        Args:
            denoise: the denoiser's clean estimate.
            x: noisy sample.
            level: of its tokens.
            level_to: that they go to.
            row: number of the step, from 0.
            trace: where to note what was done.
            free: the denoiser's clean estimate, if it is known already.
            noise: fresh standard normal noise of the sample's shape, for futures.
        """
        trace = Trace() if trace is None else trace
        moved: Tensor | None = None
        if self.through:
            x0_hat, moved = self._through(denoise, x, level, level_to, row, trace, noise=noise)
        else:
            x0_hat = self._held(denoise(x, level) if free is None else free)
        futures = x0_hat
        if self.monte_carlo is not None and any(guide.at == "x0" for guide in self.direct):
            futures = self._futures(denoise, x, level, noise)
        for guide in self.direct:
            point = futures if guide.at == "x0" else x
            energy, gradient = _over_futures(guide, point, level, batch=len(x))
            gradient = gradient.reshape(-1, *x.shape).sum(dim=0)
            move = self._move(guide, gradient, level, level_to, row)
            trace.pushes.append(Push(guide.name, energy, move))
            moved = move if moved is None else moved + move
        trace.free = x0_hat
        if moved is None:
            return x0_hat
        if self.trust_region is not None:
            alpha, sigma = factors(self.schedule, level)
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
        """The clean estimate, and its move by gradients that are taken back through the denoiser.

        One pass back through the network serves all guides that are treated alike.
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
            energy, gradient = _over_futures(guide, clean, level, batch=len(x))
            alone = guide.normalize is not None or guide.mask is not None
            key = id(guide) if alone else (guide.rule, guide.schedule, _identity(guide.factors))
            groups.setdefault(key, []).append((guide, energy, gradient))
        total = torch.zeros_like(x)
        for group in groups.values():
            first = group[0][0]
            seed = torch.stack([guide.scale * gradient for guide, _, gradient in group]).sum(dim=0)
            move = self._pulled_back(first, seed / first.scale, graph, point, level, level_to, row)
            for guide, energy, gradient in group:
                part = move
                if self.apart and len(group) > 1:  # for the record alone
                    part = self._pulled_back(guide, gradient, graph, point, level, level_to, row)
                trace.pushes.append(Push(guide.name, energy, part))
            total = total + move
        return x0_hat, total

    def _futures(
        self,
        denoise: Denoise,
        x: Signal,
        level: Level,
        noise: Callable[[], Signal] | None,
    ) -> Tensor:
        """Clean futures of the noisy trajectories."""
        assert self.monte_carlo is not None and noise is not None
        drawn = self.shared
        if drawn is None:
            drawn = torch.stack([noise() for _ in range(self.monte_carlo.futures)])
        return self.monte_carlo.clean(
            denoise, x, level, schedule=self.schedule, noise=drawn, hold=self.hold
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
        """The move by a gradient at clean trajectories, taken back to the noisy sample."""
        (pulled,) = torch.autograd.grad(graph, point, grad_outputs=gradient, retain_graph=True)
        guide.check_gradient(pulled, level)
        return self._move(guide, pulled, level, level_to, row)

    def _move(
        self, guide: Guidance, gradient: Signal, level: Level, level_to: Level, row: int
    ) -> Signal:
        free = None if self.known is None else (~self.known).to(gradient.dtype)
        factor = guide.factor(
            level, level_to, self.schedule, row=row, rows=self.rows, variance=self.variance
        )
        if self.until_noise:
            factor = factor * (level_to > 0)[..., None]
        return guide.scale * factor * guide.direction(gradient, free)

    def _held(self, clean: Tensor) -> Tensor:
        return clean if self.hold is None else self.hold(clean)

    def _kept(
        self, move: Signal, own: Signal, alpha: Tensor, sigma: Tensor, moving: Tensor
    ) -> Tensor:
        """What the trust region leaves; tokens that stay where they are count for nothing."""
        assert self.trust_region is not None
        free = moving if self.known is None else moving & ~self.known
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
    """The mean energy of each trajectory's futures, and its gradient at each of them."""
    # One future after the other: an energy may hold a goal for each trajectory of the batch.
    found = [
        guide.energy_and_gradient(one, level) for one in clean.reshape(-1, batch, *clean.shape[1:])
    ]
    energies, gradients = zip(*found, strict=True)
    return torch.stack(energies).mean(dim=0), torch.cat(gradients) / len(found)


def _identity(factors: Tensor | None) -> object:
    return None if factors is None else id(factors)
