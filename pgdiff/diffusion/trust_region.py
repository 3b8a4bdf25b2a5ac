"""A limit to what guidance may move, against what the denoiser does by itself."""

import math
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from pgdiff.diffusion.guidance_rules import Variance, variance_left
from pgdiff.registry import register
from pgdiff.validation import PgdiffError, check_in, check_range

Signal = Float[Tensor, "batch tokens features"]
Factor = Float[Tensor, "#batch tokens 1"]


@register("trust_region", "own_step")
@dataclass(frozen=True, kw_only=True)
class TrustRegion:
    """Shortens moves of the clean estimate that are too long, and keeps their direction.

    In units of `x / alpha` a step of DDIM goes `c (x0_hat - x / alpha)`, and a move `m` of the
    clean estimate adds `c m`, with the same `c`. So `|m| / |x / alpha - x0_hat|` is guidance's
    share in the step, and `radius` limits it. The denoiser's own step is about as long as the noise
    left in the sample: as the noise goes, so does the guidance, and the last steps are nearly the
    denoiser's alone.

    Where there is hardly any signal yet, every move is short against the noise. There `nats`
    limits: a clean value has the variance `r^2 = v sigma^2 / (v alpha^2 + sigma^2)` left, for data
    of variance v, and `m` lowers the log-likelihood that the behaviour model gives to the clean
    plan, given the noisy one, by `|m|^2 / (2 r^2)`.

    Attributes:
        radius: largest share of guidance in a step, against the denoiser's own; None for any.
        nats: largest loss of log-likelihood of one feature in one step, on average; None for any.
        per: "token" limits every token of a plan by itself, "plan" the plan as a whole.
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
        """What the move is to be multiplied with, in (0, 1].

        Args:
            move: of the clean estimate.
            own: `x / alpha - x0_hat`, times alpha: what the denoiser takes for noise.
            alpha: factor of the clean value in the sample.
            sigma: standard deviation of the noise in it.
            free: 1 for features that move in this step, 0 for others.
            variance: of the data's features.
        """
        limits = []
        if self.radius is not None:
            # Both sides times alpha, which may be 0.
            limits.append(
                _ratio(self.radius * self._size(own, free), self._size(alpha * move, free))
            )
        if self.nats is not None:
            deviation = variance_left(variance, alpha, sigma).sqrt()
            deviation = torch.where(deviation > 0, deviation, 1.0)
            limits.append(_ratio(math.sqrt(2 * self.nats), self._size(move / deviation, free)))
        return torch.stack(limits).amin(dim=0)

    def _size(self, x: Tensor, free: Tensor) -> Tensor:
        """Root mean square of the free features, of a token or of the plan."""
        dims = (2,) if self.per == "token" else (1, 2)
        count = free.expand_as(x).sum(dim=dims, keepdim=True).clamp(min=1.0)
        return ((x * free).square().sum(dim=dims, keepdim=True) / count).sqrt()


def _ratio(allowed: Tensor | float, size: Tensor) -> Tensor:
    """At most 1, also where there is nothing to shorten."""
    return torch.where(size > 0, allowed / torch.where(size > 0, size, 1.0), 1.0).clamp(max=1.0)
