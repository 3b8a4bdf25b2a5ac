"""What a guide's gradient is multiplied with: score units, and the published rules by name."""

from dataclasses import dataclass
from typing import ClassVar, Literal, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from pgdiff.diffusion.schedules import NoiseSchedule, factors
from pgdiff.registry import register
from pgdiff.validation import check_range

Level = Float[Tensor, "#batch tokens"]
Variance = float | Float[Tensor, " features"]
"""Of the data's features, normalised."""
Place = Literal["x0", "x", "denoiser"]
PLACES: tuple[Place, ...] = ("x0", "x", "denoiser")


@runtime_checkable
class GuidanceRule(Protocol):
    """How far a gradient moves the clean estimate, or the sample before a step.

    Attributes:
        places: where its gradient may be taken.
        before: whether it moves the noisy sample before the step, in place of the clean estimate.
    """

    places: ClassVar[tuple[Place, ...]]
    before: ClassVar[bool]

    def weight(
        self,
        level: Level,
        level_to: Level,
        *,
        schedule: NoiseSchedule,
        at: Place,
        variance: Variance = 1.0,
    ) -> Float[Tensor, "#batch tokens #features"]:
        """Factor of the scaled gradient."""
        ...


@register("guidance_rule", "score")
@dataclass(frozen=True, kw_only=True)
class Score:
    """The scale is an exponent: samples are to follow `p(x0) exp(scale * energy(x0))`.

    With an energy `E_t` of noisy samples, `x0_hat + sigma^2 / alpha * grad E_t` is the clean
    estimate of the tilted law (Tweedie's formula), exactly so if `E_t` is the exact noised energy
    `log E[exp(scale * energy(x0)) | x] / scale`. At "denoiser" `E_t` is the energy of the clean
    estimate (Chung et al. 2023, "Diffusion posterior sampling"). At "x0" the denoiser's derivative
    is in turn replaced by that for independent data of variance v, which leaves the factor
    `v sigma^2 / (v alpha^2 + sigma^2)` (with v = 1 the `r_t^2` of Song et al. 2023,
    "Pseudoinverse-guided diffusion models") and costs no derivative of the network.

    Attributes:
        floor: least alpha to divide by; in nearly pure noise a network's derivative does not vanish
            as it should.
    """

    places: ClassVar[tuple[Place, ...]] = PLACES
    before: ClassVar[bool] = False

    floor: float = 1e-3

    def __post_init__(self) -> None:
        check_range("floor", self.floor, low=0.0, open_low=True)

    def weight(
        self,
        level: Level,
        level_to: Level,
        *,
        schedule: NoiseSchedule,
        at: Place,
        variance: Variance = 1.0,
    ) -> Tensor:
        """`v sigma^2 / (v alpha^2 + sigma^2)` at x0, else `sigma^2 / alpha`."""
        alpha, sigma = factors(schedule, level)
        if at == "x0":
            return variance_left(variance, alpha, sigma)
        return sigma.square() / alpha.clamp(min=self.floor)


@register("guidance_rule", "diffuser")
@dataclass(frozen=True, kw_only=True)
class DiffuserRule:
    """DDPM's mean moves by `scale` times its variance (Janner et al. 2022, algorithm 1).

    The weight of the clean estimate that does so is `sigma_to^2 / alpha_to`, of the level that the
    step goes to, so the last step is not guided. DDIM's sample moves less: about 0.6 times as far,
    but for the first and the last of 10 cosine steps.
    """

    places: ClassVar[tuple[Place, ...]] = ("x", "x0")
    before: ClassVar[bool] = False

    def weight(
        self,
        level: Level,
        level_to: Level,
        *,
        schedule: NoiseSchedule,
        at: Place,
        variance: Variance = 1.0,
    ) -> Tensor:
        """`sigma_to^2 / alpha_to`."""
        alpha, sigma = factors(schedule, level_to)
        # A token that stays where there is no signal is copied; its weight must only be finite.
        return sigma.square() / torch.where(alpha > 0, alpha, 1.0)


@register("guidance_rule", "diffusion_forcing")
@dataclass(frozen=True, kw_only=True)
class DiffusionForcingRule:
    """The noise estimate moves by `-scale * sigma_to * gradient` through the denoiser.

    That is `epsilon_hat + sqrt(1 - alphabar_next) * grad_x(-J)` of the public code of Chen et al.
    (2024), "Diffusion Forcing"; in terms of the clean estimate, `sigma sigma_to / alpha`. The last
    step is not guided.

    Attributes:
        floor: least alpha to divide by.
    """

    places: ClassVar[tuple[Place, ...]] = ("denoiser", "x")
    before: ClassVar[bool] = False

    floor: float = 1e-3

    def __post_init__(self) -> None:
        check_range("floor", self.floor, low=0.0, open_low=True)

    def weight(
        self,
        level: Level,
        level_to: Level,
        *,
        schedule: NoiseSchedule,
        at: Place,
        variance: Variance = 1.0,
    ) -> Tensor:
        """`sigma sigma_to / alpha`."""
        alpha, sigma = factors(schedule, level)
        return sigma * factors(schedule, level_to)[1] / alpha.clamp(min=self.floor)


@register("guidance_rule", "policy_guided")
@dataclass(frozen=True, kw_only=True)
class PolicyGuidedRule:
    """The sample moves by `scale * gradient` before every step, whatever the noise.

    The published code of policy-guided diffusion (Jackson et al. 2024) does so, by default with the
    gradient at the noisy sample ("x"), as an option at the clean estimate ("x0"), with the schedule
    "sine_bump" and, as an option, `normalize="plan"`. The move is not of the units of a score: how
    much it tilts depends on the number and the spacing of the steps.
    """

    places: ClassVar[tuple[Place, ...]] = ("x", "x0")
    before: ClassVar[bool] = True

    def weight(
        self,
        level: Level,
        level_to: Level,
        *,
        schedule: NoiseSchedule,
        at: Place,
        variance: Variance = 1.0,
    ) -> Tensor:
        """1."""
        return torch.ones_like(level)[..., None]


def variance_left(
    variance: Variance, alpha: Float[Tensor, "#batch #tokens 1"], sigma: Tensor
) -> Float[Tensor, "#batch #tokens #features"]:
    """Variance of clean independent Gaussian data given the noisy sample.

    `v sigma^2 / (v alpha^2 + sigma^2)`; 0 where the data or the noise have no variance.
    """
    marginal = variance * alpha.square() + sigma.square()
    return variance * sigma.square() / torch.where(marginal > 0, marginal, 1.0)


DEFAULT_RULES: dict[Place, GuidanceRule] = {
    "x0": Score(),
    "x": DiffuserRule(),
    "denoiser": Score(),
}
"""The rule of a place where none is given."""
