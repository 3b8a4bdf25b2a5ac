"""A learned value as a guide."""

from collections.abc import Sequence
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from pgdiff.critics import GoalValue, SegmentValue, TransitionValue
from pgdiff.diffusion import GuidanceRule, GuidanceSchedule
from pgdiff.diffusion.guidance import Normalization
from pgdiff.diffusion.guidance_rules import PLACES, Place
from pgdiff.guides.logarithm import check_log, tangent_log
from pgdiff.guides.steered import Steered, place
from pgdiff.model import TrajectoryDiffusion
from pgdiff.trajectory import Segment
from pgdiff.validation import PgdiffError, check_in, check_range


class Value(Steered):
    """Steers towards segments of high learned value.

    Args:
        value: a `TransitionValue` (rewards and a terminal value, at clean estimates), a `GoalValue`
            (the same for a goal that each plan is told) or a `SegmentValue` (of noisy segments,
            Diffuser's).
        scale: how far the gradient moves a sample; 0 for choosing among candidates only.
        transform: "log" for the value's logarithm, whose push is as strong where values are small,
            far from a reward, as where they are large; "none" for the value itself, where rewards
            may be negative.
        trace: lambda of the lambda-return, in [0, 1]; see `TransitionValue.energy`. A
            `SegmentValue` has none.
        floor: least value under the logarithm, in units of a mean reward.
        at: where the gradient is taken; None for what the value was trained on.
        name: how errors and pictures call it.
        rule: what the gradient is multiplied with; see `Steered`.
        normalize: "step", "plan" or None; see `Steered`.
        schedule: factor of the scale by level or step; see `Steered`.
        tokens: factor of the scale for each token; see `Steered`.
        fields: of the segment, which alone are moved; see `Steered`.
        weight: of its energy, where the candidates of a plan are compared.
    """

    def __init__(
        self,
        value: TransitionValue | GoalValue | SegmentValue,
        *,
        scale: float = 100.0,
        transform: Literal["none", "log"] = "log",
        trace: float = 0.7,
        floor: float = 1e-3,
        at: Place | None = None,
        name: str = "value",
        rule: GuidanceRule | str | None = None,
        normalize: Normalization | None = None,
        schedule: GuidanceSchedule | str | None = None,
        tokens: Sequence[float] | None = None,
        fields: Sequence[str] | None = None,
        weight: float = 1.0,
    ) -> None:
        if not isinstance(value, TransitionValue | GoalValue | SegmentValue):
            raise PgdiffError(
                "`value` must be a TransitionValue, a GoalValue or a SegmentValue. "
                f"Got a {type(value).__name__}."
            )
        trained_at: Place = "x" if isinstance(value, SegmentValue) else "x0"
        check_value_settings(scale=scale, transform=transform, trace=trace, floor=floor, at=at)
        if transform == "log":
            possible = getattr(value, "value_range", None)
            check_log(name, least_reward=None if possible is None else possible[0])
        super().__init__(
            name=name,
            scale=scale,
            at=trained_at if at is None else at,
            rule=rule,
            normalize=normalize,
            schedule=schedule,
            tokens=tokens,
            fields=fields,
            weight=weight,
        )
        self.value = value
        self.transform = transform
        self.trace = float(trace)
        self.floor = float(floor)

    @property
    def needs_goal(self) -> bool:
        """Whether its energy is of a goal, which each plan must then be told."""
        return isinstance(self.value, GoalValue)

    def check_model(self, model: TrajectoryDiffusion) -> None:
        """Refuse a model whose noise the value has not learned."""
        if isinstance(self.value, SegmentValue):
            check_schedule(self.value, model, name=self.name)

    def energy(
        self, segment: Segment, level: Float[Tensor, "#batch tokens"]
    ) -> Float[Tensor, " batch"]:
        """Value of each segment, or its logarithm."""
        place(self.value, segment)
        if isinstance(self.value, TransitionValue | GoalValue):
            value = self.value.energy(segment, trace=self.trace)
        else:
            value = noisy_energy(self.value, segment, level, at=self.at)
        return value if self.transform == "none" else tangent_log(value, floor=self.floor)


def noisy_energy(
    value: SegmentValue, segment: Segment, level: Float[Tensor, "#batch tokens"], *, at: Place
) -> Float[Tensor, " batch"]:
    """Energy of a value of noisy segments, where a guide's gradient is taken."""
    # A clean estimate is clean, whatever the level of the sample that it was made from.
    return value.energy(segment, level if at == "x" else torch.zeros_like(level))


def check_schedule(value: SegmentValue, model: TrajectoryDiffusion, *, name: str) -> None:
    """Refuse a model whose noise a value of noisy segments has not learned."""
    if value.schedule != model.schedule:
        raise PgdiffError(
            f"`schedule` of '{name}' must be that of the model, {model.schedule}. "
            f"Got {value.schedule}: train the value with the model's schedule."
        )


def check_value_settings(
    *,
    scale: float = 0.0,
    transform: str = "log",
    trace: float = 0.0,
    floor: float = 1.0,
    at: str | None = None,
) -> None:
    """Raise an error that names the setting of a `Value` that is out of its range."""
    check_range("scale", scale, low=0.0)
    check_in("transform", transform, ("none", "log"))
    check_range("trace", trace, low=0.0, high=1.0)
    check_range("floor", floor, low=0.0, open_low=True)
    if at is not None:
        check_in("at", at, PLACES)
