"""Guidance rules: the weight of a guide's gradient, in score units or as published."""

from dataclasses import dataclass
from typing import ClassVar, Literal, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from pgdiff.core.registry import base_of, register
from pgdiff.core.validation import check_range
from pgdiff.diffusion.schedules import NoiseSchedule, factors

Level = Float[Tensor, "#batch tokens"]
Variance = float | Float[Tensor, " features"]
"""Variance of the data's normalised features."""
Place = Literal["x0", "x", "denoiser"]
PLACES: tuple[Place, ...] = ("x0", "x", "denoiser")


@base_of("guidance_rule")
@runtime_checkable
class GuidanceRule(Protocol):
    """The weight by which a gradient moves the clean estimate, or the sample before a step.

    Attributes:
        places: allowed values of `gradient_at`.
        before: whether the rule moves the noisy sample before the step instead of the clean
            estimate.

    Example:
        >>> from pgdiff.diffusion import GuidanceRule, Score
        >>> isinstance(Score(), GuidanceRule)
        True
    """

    places: ClassVar[tuple[Place, ...]]
    before: ClassVar[bool]

    def weight(
        self,
        level: Level,
        level_to: Level,
        *,
        noise_schedule: NoiseSchedule,
        gradient_at: Place,
        variance: Variance = 1.0,
    ) -> Float[Tensor, "#batch tokens #features"]:
        """Return the factor of the scaled gradient."""
        ...


@register("guidance_rule", "score")
@dataclass(frozen=True, kw_only=True)
class Score:
    """Guidance in score units: the target density is `p(x0) exp(scale * objective(x0))`.

    With an objective `E_t` of noisy samples, `x0_hat + sigma^2 / alpha * grad E_t` is the clean
    estimate of the tilted density (Tweedie's formula). It is exact if `E_t` is the exact noised
    objective `log E[exp(scale * objective(x0)) | x] / scale`. At "denoiser" `E_t` is the objective
    of the clean estimate (Chung et al. 2023, "Diffusion posterior sampling"). At "x0" the
    denoiser's derivative is replaced by the derivative for independent data of variance v. This
    leaves the factor `v sigma^2 / (v alpha^2 + sigma^2)` (for v = 1 the `r_t^2` of Song et al.
    2023, "Pseudoinverse-guided diffusion models") and needs no derivative of the network.

    Attributes:
        floor: smallest alpha to divide by. It limits the weight in nearly pure noise, where a
            network's derivative does not vanish as an exact denoiser's does.

    Example:
        >>> import torch
        >>> from pgdiff.diffusion import CosineSchedule, Score
        >>> level = torch.tensor([[0.0, 1.0]])
        >>> weight = Score().weight(
        ...     level, level, noise_schedule=CosineSchedule(), gradient_at="x0"
        ... )
        >>> weight.flatten().tolist()
        [0.0, 1.0]
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
        noise_schedule: NoiseSchedule,
        gradient_at: Place,
        variance: Variance = 1.0,
    ) -> Tensor:
        """Return `v sigma^2 / (v alpha^2 + sigma^2)` at "x0", else `sigma^2 / alpha`."""
        alpha, sigma = factors(noise_schedule, level)
        if gradient_at == "x0":
            return variance_left(variance, alpha, sigma)
        return sigma.square() / alpha.clamp(min=self.floor)


@register("guidance_rule", "diffuser")
@dataclass(frozen=True, kw_only=True)
class DiffuserRule:
    """Diffuser's rule (Janner et al. 2022, algorithm 1): DDPM's mean moves by `scale` variances.

    The corresponding weight of the clean estimate is `sigma_to^2 / alpha_to` at the level after the
    step, so that the last step is unguided. DDIM's sample moves less: about 0.6 times as far in all
    but the first and the last of 10 cosine steps.

    Example:
        >>> from pgdiff.diffusion import DiffuserRule, Guidance
        >>> guide = Guidance(
        ...     objective=lambda x, level: -x.square().sum((1, 2)), gradient_at="x",
        ...     rule=DiffuserRule(),
        ... )
    """

    places: ClassVar[tuple[Place, ...]] = ("x", "x0")
    before: ClassVar[bool] = False

    def weight(
        self,
        level: Level,
        level_to: Level,
        *,
        noise_schedule: NoiseSchedule,
        gradient_at: Place,
        variance: Variance = 1.0,
    ) -> Tensor:
        """Return `sigma_to^2 / alpha_to`."""
        alpha, sigma = factors(noise_schedule, level_to)
        # Tokens that stay in pure noise are copied; their weight must only be finite.
        return sigma.square() / torch.where(alpha > 0, alpha, 1.0)


@register("guidance_rule", "diffusion_forcing")
@dataclass(frozen=True, kw_only=True)
class DiffusionForcingRule:
    """Diffusion Forcing's rule: the noise estimate moves by `-scale * sigma_to * gradient`.

    This is `epsilon_hat + sqrt(1 - alphabar_next) * grad_x(-J)` of the public code of Chen et al.
    (2024), "Diffusion Forcing", with the gradient through the denoiser. The weight of the clean
    estimate is `sigma sigma_to / alpha`. The last step is unguided.

    Attributes:
        floor: smallest alpha to divide by.

    Example:
        >>> from pgdiff.diffusion import DiffusionForcingRule, Guidance
        >>> guide = Guidance(
        ...     objective=lambda x, level: -x.square().sum((1, 2)), gradient_at="denoiser",
        ...     rule=DiffusionForcingRule(),
        ... )
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
        noise_schedule: NoiseSchedule,
        gradient_at: Place,
        variance: Variance = 1.0,
    ) -> Tensor:
        """Return `sigma sigma_to / alpha`."""
        alpha, sigma = factors(noise_schedule, level)
        return sigma * factors(noise_schedule, level_to)[1] / alpha.clamp(min=self.floor)


@register("guidance_rule", "policy_guided")
@dataclass(frozen=True, kw_only=True)
class PolicyGuidedRule:
    """Policy-guided diffusion's rule: the sample moves by `scale * gradient` before every step.

    As in the published code of policy-guided diffusion (Jackson et al. 2024), by default with the
    gradient at the noisy sample ("x"), optionally at the clean estimate ("x0"), with the scale
    schedule "sine_bump" and optionally `normalize_gradient="plan"`. The move does not depend on the
    noise and is not in score units: its effect depends on the number and the spacing of the steps.

    Example:
        >>> from pgdiff.diffusion import Guidance, PolicyGuidedRule, SineBump
        >>> guide = Guidance(
        ...     objective=lambda x, level: -x.square().sum((1, 2)), gradient_at="x",
        ...     rule=PolicyGuidedRule(), scale_schedule=SineBump(), normalize_gradient="plan",
        ... )
    """

    places: ClassVar[tuple[Place, ...]] = ("x", "x0")
    before: ClassVar[bool] = True

    def weight(
        self,
        level: Level,
        level_to: Level,
        *,
        noise_schedule: NoiseSchedule,
        gradient_at: Place,
        variance: Variance = 1.0,
    ) -> Tensor:
        """Return 1."""
        return torch.ones_like(level)[..., None]


def variance_left(
    variance: Variance, alpha: Float[Tensor, "#batch #tokens 1"], sigma: Tensor
) -> Float[Tensor, "#batch #tokens #features"]:
    """Return the variance of clean independent Gaussian data given the noisy sample.

    `v sigma^2 / (v alpha^2 + sigma^2)`; 0 where the data or the noise have no variance.
    """
    marginal = variance * alpha.square() + sigma.square()
    return variance * sigma.square() / torch.where(marginal > 0, marginal, 1.0)


DEFAULT_RULES: dict[Place, GuidanceRule] = {
    "x0": Score(),
    "x": DiffuserRule(),
    "denoiser": Score(),
}
"""Default rule for each value of `gradient_at`."""
