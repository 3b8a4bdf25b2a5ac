"""What a guide is, and how it meets a model."""

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from pgdiff.diffusion import Guidance
from pgdiff.diffusion.guidance import checked_energy
from pgdiff.diffusion.guidance_rules import Place
from pgdiff.guides.steered import setting, steering_mask
from pgdiff.model import TrajectoryDiffusion
from pgdiff.trajectory import Segment
from pgdiff.validation import PgdiffError

Level = Float[Tensor, "#batch tokens"]


@runtime_checkable
class Guide(Protocol):
    """Something that says how good a segment is, in raw units; it knows nothing of diffusion.

    Attributes:
        name: how errors and pictures call it.
        at: where its gradient is taken: "x0", at clean estimates; "x", at noisy samples, for
            energies that were trained on those; "denoiser", at clean estimates with respect to the
            noisy sample.
        scale: how far its gradient moves a sample; 0 for choosing among candidates only.

    One that derives from `pgdiff.guides.Steered` has further settings; any other has their
    defaults. It may have a method `check_model(model)` that refuses a model which it does not fit,
    and a method `for_model(model)` that returns the guide with what it takes from a model.
    """

    @property
    def name(self) -> str: ...  # noqa: D102
    @property
    def at(self) -> Place: ...  # noqa: D102
    @property
    def scale(self) -> float: ...  # noqa: D102

    def energy(self, segment: Segment, level: Level) -> Float[Tensor, " batch"]:
        """How good each segment is; differentiable in its fields.

        Args:
            segment: raw units.
            level: noise levels of its tokens, 0 where clean.
        """
        ...


@dataclass(frozen=True)
class BoundEnergy:
    """A guide's energy as a function of a model's normalised tokens."""

    guide: Guide
    model: TrajectoryDiffusion
    goal: Float[Tensor, "#batch goal"] | None = None

    def __call__(self, x: Float[Tensor, "batch tokens features"], level: Level) -> Tensor:
        """Energy of each trajectory, in full precision: candidates may differ by little.

        Raises:
            PgdiffError: the guide computes in another precision than the samples have.
        """
        segment = self.model.segment(x)
        if self.goal is not None:
            segment = replace(segment, goal=self.goal.to(segment.observations))
        with _no_autocast(x.device.type):
            try:
                return self.guide.energy(segment, level)
            except RuntimeError as error:
                if "dtype" not in str(error):
                    raise
                raise PgdiffError(
                    f"The guide '{self.guide.name}' must compute in {x.dtype}, as the samples "
                    f"are. Convert its network with .to({x.dtype}). ({error})"
                ) from error


def _no_autocast(device: str) -> AbstractContextManager[Any]:
    if torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device):
        return torch.autocast(device, enabled=False)
    return nullcontext()


def needs_goal(guide: Guide) -> bool:
    """Whether a guide's energy is of a goal: its attribute `needs_goal`, which it may leave out."""
    return bool(getattr(guide, "needs_goal", False))


def bind(
    guide: Guide,
    model: TrajectoryDiffusion,
    *,
    goal: Float[Tensor, "#batch goal"] | None = None,
    factors: Float[Tensor, " batch"] | None = None,
) -> Guidance:
    """Translate a guide into the normalised units in which a model's samples live.

    Args:
        guide: in raw units.
        model: whose samples it is to steer.
        goal: of each trajectory, in raw units; the guide finds it in its segments.
        factors: of the guide's scale, one for each trajectory; 1 if None.

    Raises:
        PgdiffError: something that is no guide, or whose `at` or `scale` are out of range.
    """
    if not isinstance(guide, Guide):
        raise PgdiffError(
            "`guides` must have the attributes name, at and scale, and a method energy. "
            f"Got a {type(guide).__name__}."
        )
    if hasattr(guide, "check_model"):
        guide.check_model(model)
    if hasattr(guide, "for_model"):
        guide = guide.for_model(model)
    return Guidance(
        energy=BoundEnergy(guide, model, goal),
        at=guide.at,
        scale=guide.scale,
        name=guide.name,
        factors=factors,
        rule=setting(guide, "rule"),
        normalize=setting(guide, "normalize"),
        schedule=setting(guide, "schedule"),
        mask=steering_mask(guide, model.layout),
        weight=setting(guide, "weight", 1.0),
    )


@torch.no_grad()
def score(
    guidance: Sequence[Guidance], x: Float[Tensor, "batch tokens features"]
) -> Float[Tensor, " batch"]:
    """Weighted sum of the guides' energies of clean samples; NaN where there is no guide."""
    if not guidance:
        return x.new_full((len(x),), float("nan"))
    level = x.new_zeros(1, x.shape[1])
    energies = [
        g.weight * checked_energy(g.energy(x, level), batch=len(x), name=g.name) for g in guidance
    ]
    return torch.stack(energies).sum(dim=0)
