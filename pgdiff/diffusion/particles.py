"""Particle resampling by importance weights, which removes the bias of guidance."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from pgdiff.core.registry import register
from pgdiff.core.validation import PgdiffError, check_range
from pgdiff.diffusion.guidance.guidance import Guidance, check_groups, checked_objective
from pgdiff.diffusion.noise import NoiseSource
from pgdiff.diffusion.solvers.base import Kernel, Solver, Step

Signal = Float[Tensor, "batch tokens features"]


@runtime_checkable
class Ancestral(Protocol):
    """A solver whose step draws from an explicit Gaussian: DDPM, or DDIM with eta above 0."""

    def kernel(self, at: Step) -> Kernel:
        """Return the Gaussian of a step."""
        ...


@register("resample", "twisted")
@dataclass(frozen=True, kw_only=True)
class Resample:
    """Sequential Monte Carlo with guided steps (Wu et al. 2023, "Twisted diffusion sampler").

    Guidance at the clean estimate is an approximation. Here it is only the proposal: every step's
    sample has the weight `p(x_to | x) psi(x_to) / (q(x_to | x) psi(x))`, with `p` the unguided
    step, `q` the guided step and `psi(x) = exp(sum of scale * objective(x0_hat(x)))`. The
    trajectories of one generator (the candidates of one environment) are resampled by these
    weights. As their number grows, their distribution approaches that of the unguided steps times
    `exp(sum of scale * objective(x0))`, for any guidance rule. The last step, which has no noise,
    is unguided.

    Attributes:
        threshold: share of the trajectories; they are resampled when their effective number falls
            below it. 1 resamples in every step.

    Example:
        >>> from pgdiff import Sampling
        >>> from pgdiff.diffusion import DDPM, Resample
        >>> Sampling(solver=DDPM(), particles=Resample(threshold=0.5)).particles
        Resample(threshold=0.5)
    """

    threshold: float = 0.5

    def __post_init__(self) -> None:
        check_range("threshold", self.threshold, low=0.0, high=1.0, open_low=True)

    def check(self, solver: Solver, guidance: Sequence[Guidance]) -> Ancestral:
        """Return the solver; raise if its guided steps have no density."""
        if not isinstance(solver, Ancestral) or getattr(solver, "eta", 1.0) == 0:
            raise PgdiffError(
                "`solver` must draw noise in every step to resample: DDPM(), or DDIM with eta "
                f"above 0. Got {solver!r}."
            )
        for guide in guidance:
            if guide.moves_samples and guide.used_rule.before:
                raise PgdiffError(
                    f"`rule` of '{guide.name}' must move the clean estimate to resample. "
                    f"Got {guide.used_rule!r}, which moves the sample."
                )
        return solver


class Particles:
    """The trajectories of each generator, with their weights.

    Args:
        settings: settings of the resampling.
        guidance: objectives; ignored at scale 0.
        solver: solver of the steps.
        noise: source of the random numbers; each of its groups is resampled separately.
    """

    def __init__(
        self,
        settings: Resample,
        guidance: Sequence[Guidance],
        *,
        solver: Ancestral,
        noise: NoiseSource,
    ) -> None:
        self.settings = settings
        self.guidance = [guide for guide in guidance if guide.scale > 0]
        self.noise = noise
        self.solver = solver
        self._log_weight: Tensor | None = None
        self._twist: Tensor | None = None
        self._estimated: tuple[Tensor, Tensor] | None = None

    def estimate_of(self, x: Signal) -> Signal | None:
        """Return the denoiser's clean estimate of `x` if `x` is the particles' present sample."""
        if self._estimated is not None and self._estimated[0] is x:
            return self._estimated[1]
        return None

    def draw(self, x: Signal, x0_hat: Signal, level: Float[Tensor, "#batch tokens"]) -> Signal:
        """Update the weights, and return the particles, resampled if few hold most weight."""
        twist = self._log_twist(x0_hat, level)
        if self._log_weight is None:
            # At the start, in pure noise, the whole twist enters the weight.
            self._log_weight = torch.zeros_like(twist)
            self._twist = torch.zeros_like(twist)
        assert self._twist is not None
        self._log_weight = self._log_weight + _growth(twist, self._twist)
        chosen = self._choice(self.settings.threshold)
        x, x0_hat, self._twist = x[chosen], x0_hat[chosen], twist[chosen]
        self._estimated = (x, x0_hat)
        return x

    def weigh(self, step: Step, stepped: Signal, finished: Callable[[Signal], Signal]) -> None:
        """Add the log ratio of the unguided to the guided step's density to the weights.

        Args:
            step: the guided step.
            stepped: sample after the step.
            finished: clips a clean estimate and puts given features into it.
        """
        assert self._estimated is not None and self._log_weight is not None
        kernel = self.solver.kernel(step)
        spread = torch.where(kernel.spread > 0, kernel.spread, 1.0)
        shift = kernel.gain * (step.x0_hat - finished(self._estimated[1])) / spread
        off = (stepped - kernel.mean) / spread
        # log p - log q of two Gaussians, `shift` apart in units of their deviation.
        moving = step.moving.to(shift.dtype)
        ratio = -((off * shift + shift.square() / 2) * moving).sum(dim=(1, 2))
        self._log_weight = self._log_weight + ratio

    def finish(self, x: Signal, level: Float[Tensor, "#batch tokens"]) -> Signal:
        """Return the clean particles, resampled to equal weights."""
        if self._log_weight is None:
            return x
        assert self._twist is not None
        self._log_weight = self._log_weight + _growth(self._log_twist(x, level), self._twist)
        return x[self._choice(1.0)]

    def _log_twist(self, x0_hat: Signal, level: Tensor) -> Float[Tensor, " batch"]:
        total = x0_hat.new_zeros(len(x0_hat), dtype=torch.float64)
        for guide in self.guidance:
            objective = checked_objective(
                guide.objective(x0_hat, level),
                batch=len(x0_hat),
                name=guide.name,
                forbids=not guide.differentiable,
            )
            weighted = guide.scale * objective
            if guide.factors is not None:
                factors = guide.factors.to(objective)
                weighted = torch.where(factors == 0, 0.0, guide.scale * factors * objective)
            total = total + weighted.double()
        return total

    def _choice(self, threshold: float) -> Int[Tensor, " batch"]:
        """Return the indices of the particles that continue, by systematic resampling per group."""
        assert self._log_weight is not None
        names = " and ".join(f"'{guide.name}'" for guide in self.guidance)
        check_groups(self._log_weight, groups=self.noise.groups, name=names)
        weights = self._log_weight.reshape(self.noise.groups, -1).softmax(dim=1)
        count = weights.shape[1]
        chosen = torch.arange(weights.numel(), device=weights.device).reshape(weights.shape)
        new = self._log_weight.reshape(weights.shape).clone()
        for row in range(self.noise.groups):
            if 1 / float(weights[row].square().sum()) >= threshold * count and threshold < 1:
                continue
            start = self.noise.uniform(row)
            points = (torch.arange(count, device=weights.device) + start.to(weights.device)) / count
            drawn = torch.searchsorted(weights[row].cumsum(dim=0), points).clamp(max=count - 1)
            chosen[row] = chosen[row, drawn]
            new[row] = 0.0
        self._log_weight = new.reshape(-1)
        return chosen.reshape(-1)


def _growth(twist: Tensor, before: Tensor) -> Tensor:
    """Return the growth of the log-weights; a forbidden particle stays forbidden."""
    return torch.where(torch.isneginf(before), 0.0, twist - before)
