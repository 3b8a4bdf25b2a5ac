"""DDPM's ancestral step (Ho et al. 2020) between any two levels."""

from dataclasses import dataclass
from typing import Literal

import torch

from pgdiff.core.registry import register
from pgdiff.core.validation import check_in
from pgdiff.diffusion.solvers.base import Kernel, Levels, Signal, Step


@register("solver", "ddpm")
@dataclass(frozen=True, kw_only=True)
class DDPM:
    """DDPM: samples of the posterior `q(x_s | x_t, x0_hat)`, s < t (Kingma et al. 2021, eq. 25-29).

    With neighbouring levels of a discrete schedule this is Ho et al.'s eq. 6-7.

    Attributes:
        variance: variance of the noise (Ho et al., section 3.2). "small" is the posterior's
            variance, exact if the data are a single point. "large" is the variance that the forward
            process adds between the levels, exact for standard normal data. Steps into level 0 add
            no noise.

    Example:
        >>> from pgdiff import Sampling
        >>> from pgdiff.diffusion import DDPM
        >>> sampling = Sampling(steps=100, solver=DDPM(variance="large"))
    """

    variance: Literal["small", "large"] = "small"

    def __post_init__(self) -> None:
        check_in("variance", self.variance, ("small", "large"))

    def begin(self, levels: Levels) -> None:
        """Return None: the solver has no state."""

    def kernel(self, at: Step) -> Kernel:
        """Return the Gaussian of a step."""
        mean = at.kept * at.ratio * at.x + at.alpha_to * at.fresh * at.x0_hat
        large = torch.where(at.sigma_to > 0, at.sigma, 0.0)
        scale = at.sigma_to if self.variance == "small" else large
        return Kernel(mean, scale * at.fresh.sqrt(), at.alpha_to * at.fresh)

    def step(self, at: Step, state: None) -> tuple[Signal, None]:
        """Return the posterior mean plus noise."""
        kernel = self.kernel(at)
        return kernel.mean + kernel.spread * at.noise(), None
