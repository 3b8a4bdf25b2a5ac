"""The base class of guides, and weighted sums of guides."""

import copy
from collections.abc import Sequence
from typing import Any, Self, TypedDict

import torch
from jaxtyping import Float
from torch import Tensor, nn

from pgdiff.core.registry import create
from pgdiff.core.validation import PgdiffError, check_in, check_range
from pgdiff.data.fields import token_field
from pgdiff.diffusion.guidance.guidance import Normalization, checked_objective
from pgdiff.diffusion.guidance.rules import PLACES, GuidanceRule, Place
from pgdiff.diffusion.guidance.scale_schedules import ScaleSchedule
from pgdiff.model import TrajectoryDiffusion
from pgdiff.model.guidance import (
    Guide,
    TokenGuide,
    guidance_options,
    is_differentiable,
    is_guide,
    needs_goal,
)
from pgdiff.trajectory import Segment

Level = Float[Tensor, "#batch tokens"]


class GuidanceOptions(TypedDict, total=False):
    """Arguments that guides pass on to `GradientGuide`."""

    rule: GuidanceRule | str | None
    normalize_gradient: Normalization | None
    scale_schedule: ScaleSchedule | str | None
    token_weights: Sequence[float] | None
    score_weight: float


class GradientGuide:
    """Base class of guides, with the settings of the gradient.

    A guide need not inherit from it; other guides have the default settings. Guides that do can be
    weighted and added, `0.5 * one + other`, which gives a `pgdiff.guides.Sum`.

    Args:
        name: name of the guide in error messages and plots.
        scale: strength of the gradient; larger values move samples further. 0 only ranks
            candidates.
        gradient_at: where the gradient is taken: "x0", at clean estimates; "x", at noisy samples,
            for objectives that were trained on noisy samples; "denoiser", at clean estimates with
            respect to the noisy sample, through the denoiser. Guides with one rule share its
            backward pass.
        rule: weight of the gradient by level, by name or as a `pgdiff.diffusion.GuidanceRule`:
            "score", "diffuser", "diffusion_forcing" or "policy_guided"; the default of
            `gradient_at` if None.
        normalize_gradient: "step" divides the gradient by its norm at every token, "plan" by the
            norm over the whole plan; None does not normalise.
        scale_schedule: factor of the scale by noise level or step, by name or as a
            `pgdiff.diffusion.ScaleSchedule`; 1 if None.
        token_weights: factor of the scale for each token; all 1 if None.
        fields: fields of the segment that the guide moves; all if None. "actions" stands for
            action chunks in models that have them instead.
        score_weight: weight of the objective in the sum over guides that ranks candidates.

    Example:
        >>> from pgdiff.guides import GradientGuide
        >>> class Slow(GradientGuide):
        ...     def objective(self, segment, level):
        ...         return -segment.observations[..., 2:].square().sum((1, 2))
        >>> Slow(name="slow", scale=0.1).gradient_at
        'x0'
    """

    def __init__(
        self,
        *,
        name: str,
        scale: float,
        gradient_at: Place = "x0",
        rule: GuidanceRule | str | None = None,
        normalize_gradient: Normalization | None = None,
        scale_schedule: ScaleSchedule | str | None = None,
        token_weights: Sequence[float] | None = None,
        fields: Sequence[str] | None = None,
        score_weight: float = 1.0,
    ) -> None:
        self.name = name
        self.scale = check_range("scale", scale, low=0.0)
        self.gradient_at: Place = gradient_at
        check_in("gradient_at", gradient_at, PLACES)
        self.rule: GuidanceRule | None = (
            create("guidance_rule", rule) if isinstance(rule, str) else rule
        )
        if normalize_gradient is not None:
            check_in("normalize_gradient", normalize_gradient, ("step", "plan"))
        self.normalize_gradient = normalize_gradient
        self.scale_schedule: ScaleSchedule | None = (
            create("scale_schedule", scale_schedule)
            if isinstance(scale_schedule, str)
            else scale_schedule
        )
        self.token_weights = (
            None
            if token_weights is None
            else tuple(check_range("token_weights", weight) for weight in token_weights)
        )
        fields = (fields,) if isinstance(fields, str) else fields
        for field in fields or ():
            token_field(field)
        self.fields = None if fields is None else tuple(fields)
        self.score_weight = check_range("score_weight", score_weight)

    @property
    def guidance_options(self) -> dict[str, Any]:
        """Optional settings by name, for `pgdiff.guides.bind`."""
        names = ("rule", "normalize_gradient", "scale_schedule", "token_weights", "fields")
        return {name: getattr(self, name) for name in (*names, "score_weight")}

    def objective(
        self, segment: Segment, level: Float[Tensor, "#batch tokens"]
    ) -> Float[Tensor, " batch"]:
        """Return the objective of each segment; see `pgdiff.guides.Guide`."""
        raise NotImplementedError

    def __mul__(self, factor: float) -> "Sum":
        return Sum([self], weights=[factor])

    __rmul__ = __mul__

    def __add__(self, other: Any) -> "Sum":
        return Sum([self, other])

    def __radd__(self, other: Any) -> "Sum":
        return Sum([other, self])


def move_to_segment(network: object, segment: Segment) -> None:
    """Move a network to the device of a segment."""
    if isinstance(network, nn.Module):
        weight = next(network.parameters(), None)
        if weight is not None and weight.device != segment.observations.device:
            network.to(segment.observations.device)


OPTIONAL = ("rule", "normalize_gradient", "scale_schedule")
"""Settings that a member of a sum takes from the other members if it has none."""


class Sum(GradientGuide):
    """A weighted sum of guides with one common gradient.

    `0.5 * one + other` creates a sum. With a list of guides, each guide has a separate gradient and
    the moves are added. The results differ for settings of the whole gradient, such as
    `normalize_gradient`.

    The objective is `sum_i weight_i scale_i objective_i`, with the scales of the members.

    Args:
        guides: members. They must agree in `gradient_at`, `token_weights` and `fields`, and in
            `rule`, `normalize_gradient` and `scale_schedule` unless these are None.
        weights: one for each member, of any sign; all 1 if None.
        scale: strength of the gradient of the sum.
        name: name of the sum in error messages and plots; the members' names if None.

    Raises:
        PgdiffError: members cannot share a gradient; the message names them.

    Example:
        >>> from pgdiff.guides import Constraint, Disc, Goal
        >>> guide = Goal((1.0, 0.0)) + 0.5 * Constraint(Disc(center=(0.5, 0.0), radius=0.2))
        >>> guide.name
        'goal + constraint'
    """

    def __init__(
        self,
        guides: Sequence[Guide],
        *,
        weights: Sequence[float] | None = None,
        scale: float = 1.0,
        name: str | None = None,
    ) -> None:
        if is_guide(guides) or not guides:
            raise PgdiffError(f"`guides` must be a list of at least one guide. Got {guides!r}.")
        for guide in guides:
            if not isinstance(guide, Guide) or isinstance(guide, type):
                raise PgdiffError(
                    "`guides` must have the attributes name, gradient_at and scale, and a method "
                    f"objective. Got a {type(guide).__name__}."
                )
            _check_member(guide)
        weights = [1.0] * len(guides) if weights is None else weights
        if len(weights) != len(guides):
            raise PgdiffError(
                f"`weights` must be {len(guides)} numbers, one for each guide. Got {len(weights)}."
            )
        shared = {
            key: _agreed(guides, key)
            for key in ("gradient_at", "token_weights", "fields", *OPTIONAL)
        }
        super().__init__(
            name=" + ".join(guide.name for guide in guides) if name is None else name,
            scale=scale,
            **shared,
        )
        self.guides = tuple(guides)
        self.weights = tuple(check_range("weights", weight) for weight in weights)

    @property
    def needs_goal(self) -> bool:
        """True if the objective of a member depends on a goal."""
        return any(map(needs_goal, self.guides))

    def check_model(self, model: TrajectoryDiffusion) -> None:
        """Raise if a model does not fit a member."""
        for guide in self.guides:
            if hasattr(guide, "check_model"):
                guide.check_model(model)

    def for_model(self, model: TrajectoryDiffusion) -> Self:
        """Return a copy whose members have the settings that they take from the model."""
        bound = copy.copy(self)
        bound.guides = tuple(
            guide.for_model(model) if hasattr(guide, "for_model") else guide
            for guide in self.guides
        )
        return bound

    def objective(
        self, segment: Segment, level: Float[Tensor, "#batch tokens"]
    ) -> Float[Tensor, " batch"]:
        """Return the weighted sum of the members' objectives.

        Raises:
            PgdiffError: the objective of a member is not one finite number for each segment.
        """
        batch = len(segment.observations)
        parts = [
            weight
            * guide.scale
            * checked_objective(guide.objective(segment, level), batch=batch, name=guide.name)
            for guide, weight in zip(self.guides, self.weights, strict=True)
        ]
        return torch.stack(parts).sum(dim=0)


def _check_member(guide: Guide) -> None:
    """Raise if a member has no gradient in segments, or a setting that a sum would ignore."""
    if isinstance(guide, TokenGuide) or not is_differentiable(guide):
        kind = "of tokens" if isinstance(guide, TokenGuide) else "without a gradient"
        raise PgdiffError(
            f"`guides` of a Sum must have differentiable objectives of segments. Got '{guide.name}'"
            f", whose objective is {kind}. Pass a list of guides instead of a Sum."
        )
    if guide.scale == 0:
        raise PgdiffError(
            f"`scale` of '{guide.name}' must be above 0 in a Sum, where it is a weight. Got 0. "
            "Pass a list of guides to the planner to rank candidates by this one."
        )
    weight = guidance_options(guide).get("score_weight", 1.0)
    if weight != 1.0:
        raise PgdiffError(
            f"`score_weight` of '{guide.name}' must be 1 in a Sum, which has `weights`. "
            f"Got {weight}."
        )


def _agreed(guides: Sequence[Guide], key: str) -> Any:
    """Return the members' common value of a setting."""
    values = [
        (g.name, g.gradient_at if key == "gradient_at" else guidance_options(g).get(key))
        for g in guides
    ]
    if key in OPTIONAL:
        values = [(name, value) for name, value in values if value is not None] or values[:1]
    (first, one), *others = values
    for other, two in others:
        if one != two:
            raise PgdiffError(
                f"`{key}` of '{first}' and '{other}' must be equal in a Sum, which has one "
                f"gradient. Got {one!r} and {two!r}. Make them equal, or pass a list of guides to "
                "the planner, with a gradient for each."
            )
    return one
