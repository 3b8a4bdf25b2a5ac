"""Guidance: the gradient of an energy moves the clean estimate before every step."""

from dataclasses import dataclass
from typing import Literal, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from pgdiff.diffusion.differentiation import differentiable, recordable
from pgdiff.diffusion.guidance_rules import (
    DEFAULT_RULES,
    PLACES,
    GuidanceRule,
    Place,
    Variance,
)
from pgdiff.diffusion.guidance_schedules import GuidanceSchedule
from pgdiff.diffusion.schedules import NoiseSchedule
from pgdiff.validation import PgdiffError, check_in, check_part, check_range

Signal = Float[Tensor, "batch tokens features"]
Level = Float[Tensor, "#batch tokens"]
Normalization = Literal["step", "plan"]


@runtime_checkable
class Energy(Protocol):
    """What is to be high: a differentiable function of normalised tokens and their levels."""

    def __call__(self, x: Signal, level: Level) -> Float[Tensor, " batch"]:
        """One number for each trajectory."""
        ...


@dataclass(frozen=True, kw_only=True)
class Guidance:
    """An energy, and how its gradient enters the sampling.

    The gradient, times `scale`, the rule's weight and the other factors, moves the clean estimate
    (or, by a rule that says so, the sample before the step).

    Attributes:
        energy: what is to be high.
        at: where the gradient is taken: "x0", at the clean estimate; "x", at the noisy sample;
            "denoiser", at the clean estimate with respect to the noisy sample.
        scale: at least 0; at 0 the energy is not differentiated.
        name: how errors call it.
        factors: of the scale, one for each trajectory; 1 if None.
        rule: what the gradient is multiplied with; the default of `at` if None: `Score` at "x0" and
            "denoiser", `DiffuserRule` at "x".
        normalize: "step" divides the gradient by its norm at every token, "plan" by that of the
            whole plan; None leaves it.
        schedule: factor of the scale by level or step; 1 if None.
        mask: `[tokens, features]`, factor of the move of each feature; 1 if None.
        weight: of the energy, where the energies of several guides add up to a score.
    """

    energy: Energy
    at: Place = "x0"
    scale: float = 1.0
    name: str = "guide"
    factors: Float[Tensor, " batch"] | None = None
    rule: GuidanceRule | None = None
    normalize: Normalization | None = None
    schedule: GuidanceSchedule | None = None
    mask: Float[Tensor, "tokens features"] | None = None
    weight: float = 1.0

    def __post_init__(self) -> None:
        check_in("at", self.at, PLACES)
        check_range("scale", self.scale, low=0.0)
        check_range("weight", self.weight)
        if self.normalize is not None:
            check_in("normalize", self.normalize, ("step", "plan"))
        for name in ("factors", "mask"):
            if getattr(self, name) is not None:
                check_part(name, getattr(self, name), Tensor)
        for name, kind in (("rule", GuidanceRule), ("schedule", GuidanceSchedule)):
            part = getattr(self, name)
            if part is not None and (not isinstance(part, kind) or isinstance(part, type)):
                raise PgdiffError(f"`{name}` must be a {kind.__name__} or None. Got {part!r}.")
        if self.at not in self.used_rule.places:
            raise PgdiffError(
                f"`at` of '{self.name}' must be one of {', '.join(self.used_rule.places)} with the "
                f"rule {self.used_rule!r}. Got '{self.at}'."
            )

    def check(self, shape: tuple[int, int, int]) -> None:
        """Refuse trajectories, `[batch, tokens, features]`, that the factors or mask do not fit."""
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
    def used_rule(self) -> GuidanceRule:
        """The rule, or the default of `at`."""
        return DEFAULT_RULES[self.at] if self.rule is None else self.rule

    def factor(
        self,
        level: Level,
        level_to: Level,
        schedule: NoiseSchedule,
        *,
        row: int = 0,
        rows: int = 1,
        variance: Variance = 1.0,
    ) -> Float[Tensor, "#batch tokens #features"]:
        """All that the scaled gradient is multiplied with, but for its norm."""
        factor = self.used_rule.weight(
            level, level_to, schedule=schedule, at=self.at, variance=variance
        )
        if self.schedule is not None:
            factor = factor * self.schedule.factor(level, row=row, rows=rows)[..., None]
        if self.factors is not None:
            factor = self.factors[:, None, None].to(factor) * factor
        return factor

    def direction(self, gradient: Signal, free: Tensor | None = None) -> Signal:
        """The gradient of what may move, divided by its norm where that is asked for."""
        if free is not None:
            gradient = gradient * free
        if self.mask is not None:
            gradient = gradient * self.mask.to(gradient)
        if self.normalize is None:
            return gradient
        dims = (2,) if self.normalize == "step" else (1, 2)
        norm = torch.linalg.vector_norm(gradient, dim=dims, keepdim=True)
        return gradient / torch.where(norm > 0, norm, 1.0)

    def gradient(self, x: Signal, level: Level) -> Signal:
        """Gradient of the energy's sum over the batch, at `x`."""
        return self.energy_and_gradient(x, level)[1]

    def energy_and_gradient(
        self, x: Signal, level: Level
    ) -> tuple[Float[Tensor, " batch"], Signal]:
        """The energies, and the gradient of their sum, at `x`."""
        with differentiable(f"The energy of '{self.name}'"):
            point = recordable(x.detach()).requires_grad_(True)
            level = recordable(level)
            energy = checked_energy(self.energy(point, level), batch=len(x), name=self.name)
            # An energy with weights of its own requires a gradient even if it does not see `point`.
            gradient: Tensor | None = None
            if energy.requires_grad:
                (gradient,) = torch.autograd.grad(energy.sum(), point, allow_unused=True)
            if gradient is None:
                raise PgdiffError(
                    f"The energy of '{self.name}' must be differentiable with respect to the "
                    "segment that it is given. Got a tensor that is detached from it; compute it "
                    "with torch operations, outside torch.no_grad(), or use scale=0."
                )
        self.check_gradient(gradient, level)
        return energy.detach(), gradient

    def check_gradient(self, gradient: Tensor, level: Level) -> None:
        """Raise an error unless the gradient is finite."""
        if not torch.isfinite(gradient).all():
            raise PgdiffError(
                f"The gradient of '{self.name}' must be finite. Got NaN or Inf at level "
                f"{float(level.max()):.3g}."
            )


def checked_energy(energy: object, *, batch: int, name: str) -> Float[Tensor, " batch"]:
    """Return `energy` if it is one finite number for each trajectory."""
    if not isinstance(energy, Tensor) or energy.shape != (batch,):
        shape = list(energy.shape) if isinstance(energy, Tensor) else type(energy).__name__
        raise PgdiffError(
            f"The energy of '{name}' must be a tensor of shape [{batch}], one number for each "
            f"trajectory. Got {shape}."
        )
    if not torch.isfinite(energy).all():
        row = int((~torch.isfinite(energy)).nonzero()[0])
        value = float(energy[row].detach())
        raise PgdiffError(
            f"The energy of '{name}' must be finite. Got {value} for trajectory {row}."
        )
    return energy
