"""Guidance by an objective whose gradient moves the clean estimate before every step."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from pgdiff.core.validation import PgdiffError, check_flag, check_in, check_part, check_range
from pgdiff.diffusion.differentiation import differentiable, recordable
from pgdiff.diffusion.guidance.rules import (
    DEFAULT_RULES,
    PLACES,
    GuidanceRule,
    Place,
    Variance,
)
from pgdiff.diffusion.guidance.scale_schedules import ScaleSchedule
from pgdiff.diffusion.schedules import NoiseSchedule

Signal = Float[Tensor, "batch tokens features"]
Level = Float[Tensor, "#batch tokens"]
Normalization = Literal["step", "plan"]


@runtime_checkable
class Objective(Protocol):
    """A differentiable function of normalised tokens and their levels; higher is better."""

    def __call__(self, x: Signal, level: Level) -> Float[Tensor, " batch"]:
        """Return one number for each trajectory."""
        ...


@dataclass(frozen=True, kw_only=True)
class Guidance:
    """An objective, and the settings by which its gradient moves samples.

    The gradient, times `scale`, the rule's weight and the other factors, moves the clean estimate,
    or the sample before the step with rules such as `PolicyGuidedRule`.

    Attributes:
        objective: differentiable function of tokens and levels; higher is better.
        gradient_at: where the gradient is taken: "x0", at the clean estimate; "x", at the noisy
            sample; "denoiser", at the clean estimate with respect to the noisy sample.
        scale: at least 0; larger values move samples further. At 0 the objective is not
            differentiated.
        name: name of the guide in error messages.
        factors: factor of the scale for each trajectory; 1 if None.
        rule: weight of the gradient by level; the default of `gradient_at` if None: `Score` at "x0"
            and "denoiser", `DiffuserRule` at "x".
        normalize_gradient: "step" divides the gradient by its norm at every token, "plan" by the
            norm over the whole plan; None does not normalise.
        scale_schedule: factor of the scale by level or step; 1 if None.
        mask: `[tokens, features]`, factor of the move of each feature; 1 if None.
        score_weight: weight of the objective in the sum over guides that ranks candidates.
        differentiable: whether the objective has a gradient. If False, `scale` must be 0, so that
            it only ranks candidates, or the sampling must have particles, which it weighs.

    Example:
        >>> import torch
        >>> from pgdiff.diffusion import Guidance
        >>> guide = Guidance(objective=lambda x, level: -x.square().sum((1, 2)), scale=0.5)
        >>> guide.gradient(torch.ones(1, 2, 1), torch.zeros(1, 2)).flatten().tolist()
        [-2.0, -2.0]
    """

    objective: Objective
    gradient_at: Place = "x0"
    scale: float = 1.0
    name: str = "guide"
    factors: Float[Tensor, " batch"] | None = None
    rule: GuidanceRule | None = None
    normalize_gradient: Normalization | None = None
    scale_schedule: ScaleSchedule | None = None
    mask: Float[Tensor, "tokens features"] | None = None
    score_weight: float = 1.0
    differentiable: bool = True

    def __post_init__(self) -> None:
        check_in("gradient_at", self.gradient_at, PLACES)
        check_range("scale", self.scale, low=0.0)
        check_range("score_weight", self.score_weight)
        check_flag("differentiable", self.differentiable)
        if self.normalize_gradient is not None:
            check_in("normalize_gradient", self.normalize_gradient, ("step", "plan"))
        for name in ("factors", "mask"):
            if getattr(self, name) is not None:
                check_part(name, getattr(self, name), Tensor)
        for name, kind in (("rule", GuidanceRule), ("scale_schedule", ScaleSchedule)):
            part = getattr(self, name)
            if part is not None and (not isinstance(part, kind) or isinstance(part, type)):
                raise PgdiffError(f"`{name}` must be a {kind.__name__} or None. Got {part!r}.")
        if self.gradient_at not in self.used_rule.places:
            raise PgdiffError(
                f"`gradient_at` of '{self.name}' must be one of {', '.join(self.used_rule.places)} "
                f"with the rule {self.used_rule!r}. Got '{self.gradient_at}'."
            )

    def check(self, shape: tuple[int, int, int]) -> None:
        """Raise if the factors or the mask do not fit trajectories `[batch, tokens, features]`."""
        for name, part, fit in (
            ("factors", self.factors, shape[:1]),
            ("mask", self.mask, shape[1:]),
        ):
            if part is not None and tuple(part.shape) != fit:
                raise PgdiffError(
                    f"`{name}` of '{self.name}' must have shape {list(fit)}. "
                    f"Got {list(part.shape)}."
                )

    @property
    def moves_samples(self) -> bool:
        """Whether the gradient of the objective moves samples."""
        return self.scale > 0 and self.differentiable

    @property
    def used_rule(self) -> GuidanceRule:
        """The rule, or the default of `gradient_at`."""
        return DEFAULT_RULES[self.gradient_at] if self.rule is None else self.rule

    def factor(
        self,
        level: Level,
        level_to: Level,
        noise_schedule: NoiseSchedule,
        *,
        row: int = 0,
        rows: int = 1,
        variance: Variance = 1.0,
    ) -> Float[Tensor, "#batch tokens #features"]:
        """Return the product of all factors of the scaled gradient, except its normalisation."""
        factor = self.used_rule.weight(
            level,
            level_to,
            noise_schedule=noise_schedule,
            gradient_at=self.gradient_at,
            variance=variance,
        )
        if self.scale_schedule is not None:
            factor = factor * self.scale_schedule.factor(level, row=row, rows=rows)[..., None]
        if self.factors is not None:
            factor = self.factors[:, None, None].to(factor) * factor
        return factor

    def direction(self, gradient: Signal, free: Tensor | None = None) -> Signal:
        """Return the masked gradient of the free features, normalised if so set."""
        if free is not None:
            gradient = gradient * free
        if self.mask is not None:
            gradient = gradient * self.mask.to(gradient)
        if self.normalize_gradient is None:
            return gradient
        dims = (2,) if self.normalize_gradient == "step" else (1, 2)
        norm = torch.linalg.vector_norm(gradient, dim=dims, keepdim=True)
        return gradient / torch.where(norm > 0, norm, 1.0)

    def gradient(self, x: Signal, level: Level) -> Signal:
        """Return the gradient of the objective's sum over the batch, at `x`."""
        return self.objective_and_gradient(x, level)[1]

    def objective_and_gradient(
        self, x: Signal, level: Level
    ) -> tuple[Float[Tensor, " batch"], Signal]:
        """Return the objectives, and the gradient of their sum, at `x`."""
        with differentiable(f"The objective of '{self.name}'"):
            point = recordable(x.detach()).requires_grad_(True)
            level = recordable(level)
            objective = checked_objective(
                self.objective(point, level), batch=len(x), name=self.name
            )
            # An objective with trainable weights requires a gradient even if it ignores `point`.
            gradient: Tensor | None = None
            if objective.requires_grad:
                (gradient,) = torch.autograd.grad(objective.sum(), point, allow_unused=True)
            if gradient is None:
                raise PgdiffError(
                    f"The objective of '{self.name}' must be differentiable with respect to the "
                    "segment. Got a tensor that is detached from it. Compute it with torch "
                    "operations, outside torch.no_grad(), or use scale=0."
                )
        self.check_gradient(gradient, level)
        return objective.detach(), gradient

    def check_gradient(self, gradient: Tensor, level: Level) -> None:
        """Raise if the gradient is not finite."""
        if not torch.isfinite(gradient).all():
            raise PgdiffError(
                f"The gradient of '{self.name}' must be finite. Got NaN or Inf at level "
                f"{float(level.max()):.3g}."
            )


def check_differentiable(guidance: Sequence[Guidance], *, particles: bool) -> None:
    """Raise if an objective without a gradient would have to move samples.

    Args:
        guidance: objectives of a sampling.
        particles: whether the sampling weighs its samples by the objectives.
    """
    for guide in guidance:
        if guide.scale > 0 and not guide.differentiable and not particles:
            raise PgdiffError(
                f"`scale` of '{guide.name}' must be 0, because its objective has no gradient. Got "
                f"{guide.scale:g}. Use scale=0 to rank candidates, or a sampling with particles, "
                "such as Sampling(particles=Resample())."
            )


def checked_objective(
    objective: object, *, batch: int, name: str, forbids: bool = False
) -> Float[Tensor, " batch"]:
    """Return `objective`; raise if it is not one finite number for each trajectory.

    Args:
        objective: result of an objective.
        batch: number of trajectories.
        name: name of the guide, for the message.
        forbids: whether the objective may be -inf, which forbids a trajectory.
    """
    if not isinstance(objective, Tensor) or objective.shape != (batch,):
        shape = list(objective.shape) if isinstance(objective, Tensor) else type(objective).__name__
        raise PgdiffError(
            f"The objective of '{name}' must be a tensor of shape [{batch}], one number for each "
            f"trajectory. Got {shape}."
        )
    valid = torch.isfinite(objective)
    if forbids:
        valid = valid | torch.isneginf(objective)
    if not valid.all():
        row = int((~valid).nonzero()[0])
        value = float(objective[row].detach())
        rule = "finite, or -inf for a forbidden trajectory" if forbids else "finite"
        raise PgdiffError(
            f"The objective of '{name}' must be {rule}. Got {value} for trajectory {row}."
        )
    return objective


def check_groups(objective: Float[Tensor, " batch"], *, groups: int, name: str) -> None:
    """Raise if every trajectory of a group, such as a planner's candidates, is forbidden."""
    forbidden = torch.isneginf(objective).reshape(groups, -1).all(dim=1)
    if forbidden.any():
        count = len(objective) // groups
        raise PgdiffError(
            f"The objective of {name} must be finite for at least one of the {count} trajectories "
            f"of a group. Got -inf for all of group {int(forbidden.nonzero()[0])}. Draw more "
            "candidates, or use an objective that is finite for every trajectory."
        )
