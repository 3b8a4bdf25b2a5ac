"""How a guide steers: the settings that all guides of this package share."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, TypedDict

import torch
from jaxtyping import Float
from torch import Tensor, nn

from pgdiff.diffusion.guidance import Normalization
from pgdiff.diffusion.guidance_rules import PLACES, GuidanceRule, Place
from pgdiff.diffusion.guidance_schedules import GuidanceSchedule
from pgdiff.registry import create
from pgdiff.trajectory import FIELDS, Layout, Segment
from pgdiff.validation import PgdiffError, check_in, check_range

if TYPE_CHECKING:
    from pgdiff.guides.sum import Sum


class SteeredSettings(TypedDict, total=False):
    """Arguments of `Steered` that a guide hands on to it as they are."""

    rule: GuidanceRule | str | None
    normalize: Normalization | None
    schedule: GuidanceSchedule | str | None
    tokens: Sequence[float] | None
    weight: float


class Steered:
    """Base of guides: where the gradient is taken and how it enters the sampling.

    A guide need not derive from it, and then has the defaults. Guides that do can be weighted and
    added up, `0.5 * one + other`, to a `pgdiff.guides.Sum`.

    Args:
        name: how errors and pictures call it.
        scale: how far its gradient moves a sample; 0 for choosing among candidates only.
        at: where the gradient is taken: "x0", at clean estimates; "x", at noisy samples, for
            energies that were trained on those; "denoiser", at clean estimates with respect to the
            noisy sample, through the denoiser, whose gradient guides of one rule share.
        rule: what the gradient is multiplied with, by name or as a `pgdiff.diffusion.GuidanceRule`:
            "score", "diffuser", "diffusion_forcing" or "policy_guided"; that of `at` if None.
        normalize: "step" divides the gradient by its norm at every token, "plan" by that of the
            whole plan; None leaves it.
        schedule: factor of the scale by noise level or progress, by name or as a
            `pgdiff.diffusion.GuidanceSchedule`; 1 if None.
        tokens: factor of the scale for each token; all 1 if None.
        fields: of the segment, which alone are moved; all if None. "actions" are the action chunks
            of a model that has these in their place.
        weight: of its energy, where the candidates of a plan are compared.
    """

    def __init__(
        self,
        *,
        name: str,
        scale: float,
        at: Place = "x0",
        rule: GuidanceRule | str | None = None,
        normalize: Normalization | None = None,
        schedule: GuidanceSchedule | str | None = None,
        tokens: Sequence[float] | None = None,
        fields: Sequence[str] | None = None,
        weight: float = 1.0,
    ) -> None:
        self.name = name
        self.scale = check_range("scale", scale, low=0.0)
        self.at: Place = at
        check_in("at", at, PLACES)
        self.rule: GuidanceRule | None = (
            create("guidance_rule", rule) if isinstance(rule, str) else rule
        )
        if normalize is not None:
            check_in("normalize", normalize, ("step", "plan"))
        self.normalize = normalize
        self.schedule: GuidanceSchedule | None = (
            create("guidance_schedule", schedule) if isinstance(schedule, str) else schedule
        )
        self.tokens = None if tokens is None else tuple(check_range("tokens", t) for t in tokens)
        for field in fields or ():
            check_in("fields", field, FIELDS)
        self.fields = None if fields is None else tuple(fields)
        self.weight = check_range("weight", weight)

    def energy(
        self, segment: Segment, level: Float[Tensor, "#batch tokens"]
    ) -> Float[Tensor, " batch"]:
        """How good each segment is; see `pgdiff.guides.Guide`."""
        raise NotImplementedError

    def __mul__(self, factor: float) -> "Sum":
        from pgdiff.guides.sum import Sum

        return Sum([self], weights=[factor])

    __rmul__ = __mul__

    def __add__(self, other: Any) -> "Sum":
        from pgdiff.guides.sum import Sum

        return Sum([self, other])

    def __radd__(self, other: Any) -> "Sum":
        from pgdiff.guides.sum import Sum

        return Sum([other, self])


def setting(guide: object, name: str, default: Any = None) -> Any:
    """A setting of `Steered`; the default of a guide that is none, whatever it has by that name."""
    return getattr(guide, name) if isinstance(guide, Steered) else default


def place(network: object, segment: Segment) -> None:
    """Move a network to where a segment is: where the planner's model went."""
    if isinstance(network, nn.Module):
        weight = next(network.parameters(), None)
        if weight is not None and weight.device != segment.observations.device:
            network.to(segment.observations.device)


def steering_mask(guide: object, layout: Layout) -> Float[Tensor, "tokens features"] | None:
    """Factor of a guide's move for each feature of each token; None for 1 everywhere.

    Raises:
        PgdiffError: `tokens` of another number than the layout's, or `fields` that it has not.
    """
    tokens: Sequence[float] | None = setting(guide, "tokens")
    fields: Sequence[str] | None = setting(guide, "fields")
    if tokens is None and fields is None:
        return None
    mask = torch.ones(layout.horizon, layout.features)
    name = getattr(guide, "name", type(guide).__name__)
    if tokens is not None:
        if len(tokens) != layout.horizon:
            raise PgdiffError(
                f"`tokens` of the guide '{name}' must be {layout.horizon} factors, one a token. "
                f"Got {len(tokens)}."
            )
        mask *= torch.tensor(tokens)[:, None]
    if fields is not None:
        chosen = torch.zeros(layout.features)
        for field in fields:
            if field == "actions" and field not in layout.slices:
                chunked = ("action_chunks", "previous_actions")
                field = next((name for name in chunked if name in layout.slices), chunked[0])
            chosen[layout.slices[check_in(f"fields of '{name}'", field, layout.slices)]] = 1.0
        mask *= chosen
    return mask
