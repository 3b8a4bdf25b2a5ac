"""A trust region, which limits guidance relative to the denoiser's step."""

import math
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from pgdiff.core.registry import register
from pgdiff.core.validation import PgdiffError, check_in, check_range
from pgdiff.diffusion.guidance.rules import Variance, variance_left

Signal = Float[Tensor, "batch tokens features"]
Factor = Float[Tensor, "#batch tokens 1"]


@register("trust_region", "own_step")
@dataclass(frozen=True, kw_only=True)
class TrustRegion:
    """A limit of the moves of the clean estimate; it shortens them and keeps their direction.

    In units of `x / alpha` a DDIM step is `c (x0_hat - x / alpha)`, and a move `m` of the clean
    estimate adds `c m` with equal `c`. So `|m| / |x / alpha - x0_hat|` is the size of guidance
    relative to the unguided step, and `radius` limits it. The unguided step is about as long as the
    noise left in the sample. Guidance therefore shrinks with the noise, and the last steps are
    almost unguided.

    At the noisiest levels every move is short compared to the noise, and `nats` is the effective
    limit: for data of variance v, a clean value has the variance `r^2 = v sigma^2 / (v alpha^2 +
    sigma^2)` given the noisy plan, and `m` lowers the behaviour model's log-likelihood of the clean
    plan by `|m|^2 / (2 r^2)`.

    Attributes:
        radius: largest size of guidance relative to the unguided step; larger values allow longer
            moves, None any.
        nats: largest mean loss of log-likelihood of a feature in one step; None for no limit.
        per: "token" limits every token of a plan separately, "plan" the plan as a whole.

    Example:
        >>> from pgdiff import Sampling
        >>> from pgdiff.diffusion import TrustRegion
        >>> Sampling(trust_region=TrustRegion(radius=0.3)).trust_region.radius
        0.3
    """

    radius: float | None = 0.5
    nats: float | None = 0.5
    per: Literal["token", "plan"] = "token"

    def __post_init__(self) -> None:
        for name in ("radius", "nats"):
            if getattr(self, name) is not None:
                check_range(name, getattr(self, name), low=0.0, open_low=True)
        if self.radius is None and self.nats is None:
            raise PgdiffError("`radius` or `nats` must be given. Got None for both.")
        check_in("per", self.per, ("token", "plan"))

    def factor(
        self,
        move: Signal,
        own: Signal,
        *,
        alpha: Factor,
        sigma: Factor,
        free: Float[Tensor, "#batch tokens #features"],
        variance: Variance = 1.0,
    ) -> Float[Tensor, "#batch #tokens 1"]:
        """Return the factor of the move, in (0, 1].

        Args:
            move: move of the clean estimate.
            own: `x - alpha x0_hat`, the denoiser's estimate of the noise in the sample.
            alpha: factor of the clean value in the sample.
            sigma: standard deviation of the noise in the sample.
            free: 1 for features that move in this step, 0 for others.
            variance: variance of the data's features.
        """
        limits = []
        if self.radius is not None:
            # Both sides are multiplied by alpha, which may be 0.
            limits.append(
                _ratio(self.radius * self._size(own, free), self._size(alpha * move, free))
            )
        if self.nats is not None:
            deviation = variance_left(variance, alpha, sigma).sqrt()
            deviation = torch.where(deviation > 0, deviation, 1.0)
            limits.append(_ratio(math.sqrt(2 * self.nats), self._size(move / deviation, free)))
        return torch.stack(limits).amin(dim=0)

    def _size(self, x: Tensor, free: Tensor) -> Tensor:
        """Return the root mean square of the free features of each token or plan."""
        dims = (2,) if self.per == "token" else (1, 2)
        count = free.expand_as(x).sum(dim=dims, keepdim=True).clamp(min=1.0)
        return ((x * free).square().sum(dim=dims, keepdim=True) / count).sqrt()


def _ratio(allowed: Tensor | float, size: Tensor) -> Tensor:
    """Return `allowed / size`, at most 1; 1 where the size is 0."""
    return torch.where(size > 0, allowed / torch.where(size > 0, size, 1.0), 1.0).clamp(max=1.0)
