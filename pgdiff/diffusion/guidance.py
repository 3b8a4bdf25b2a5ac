"""Guidance: the gradient of an energy moves the clean estimate before every step."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from pgdiff.diffusion.schedules import NoiseSchedule, factors
from pgdiff.validation import PgdiffError, check_in, check_range

Signal = Float[Tensor, "batch tokens features"]
Level = Float[Tensor, "#batch tokens"]


@runtime_checkable
class Energy(Protocol):
    """What is to be high: a differentiable function of normalised tokens and their levels."""

    def __call__(self, x: Signal, level: Level) -> Float[Tensor, " batch"]:
        """One number for each trajectory."""
        ...


@dataclass(frozen=True, kw_only=True)
class Guidance:
    """An energy, and how its gradient enters the sampling.

    The gradient moves `x0_hat` by `scale * weight(level) * gradient`, per token:

    - `at="x0"`: gradient at the clean estimate. The weight is the variance that a clean value still
      has when its noisy one is known and the data have unit variance, `sigma^2 / (alpha^2 +
      sigma^2)` (the `r_t^2` of Song et al. 2023, "Pseudoinverse-guided diffusion models").
    - `at="x"`: gradient at the noisy sample, for an energy that was trained on noisy samples. The
      weight `sigma_to^2 / alpha_to`, of the level that the step goes to, makes DDPM's mean move by
      `scale` times its variance: Diffuser's rule (Janner et al. 2022, algorithm 1). DDIM's sample
      moves less: about 0.6 times as far, but for the first and the last of 10 cosine steps.

    Attributes:
        energy: what is to be high.
        at: where the gradient is taken.
        scale: at least 0; at 0 the energy is not differentiated.
        name: how errors call it.
        factors: of the scale, one for each trajectory; 1 if None.
    """

    energy: Energy
    at: Literal["x0", "x"] = "x0"
    scale: float = 1.0
    name: str = "guide"
    factors: Float[Tensor, " batch"] | None = None

    def __post_init__(self) -> None:
        check_in("at", self.at, ("x0", "x"))
        check_range("scale", self.scale, low=0.0)

    def gradient(self, x: Signal, level: Level) -> Signal:
        """Gradient of the energy's sum over the batch, at `x`."""
        with torch.enable_grad():
            point = x.detach().requires_grad_(True)
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
        if not torch.isfinite(gradient).all():
            raise PgdiffError(
                f"The gradient of '{self.name}' must be finite. Got NaN or Inf at level "
                f"{float(level.max()):.3g}."
            )
        return gradient

    def weight(self, level: Level, level_to: Level, schedule: NoiseSchedule) -> Tensor:
        """Factor of the scaled gradient, `[batch or 1, tokens, 1]`."""
        at = level if self.at == "x0" else level_to
        alpha, sigma = factors(schedule, at)
        if self.at == "x0":
            return sigma.square() / (alpha.square() + sigma.square())
        # A token that stays where there is no signal is copied; its weight must only be finite.
        return sigma.square() / torch.where(alpha > 0, alpha, 1.0)


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


def guide_x0(
    x0_hat: Signal,
    x: Signal,
    level: Level,
    level_to: Level,
    *,
    guidance: Sequence[Guidance],
    schedule: NoiseSchedule,
) -> Signal:
    """Add every guide's move to the clean estimate; all gradients are taken before any move."""
    moved = x0_hat
    for guide in guidance:
        if guide.scale > 0:
            gradient = guide.gradient(x0_hat if guide.at == "x0" else x, level)
            move = guide.scale * guide.weight(level, level_to, schedule) * gradient
            if guide.factors is not None:
                move = guide.factors[:, None, None] * move
            moved = moved + move
    return moved
