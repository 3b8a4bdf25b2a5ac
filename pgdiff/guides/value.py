"""A learned value as a guide."""

import math
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from pgdiff.critics import GoalValue, SegmentValue, TransitionValue
from pgdiff.model import TrajectoryDiffusion
from pgdiff.trajectory import Segment
from pgdiff.validation import PgdiffError, check_in, check_range


class Value:
    """Steers towards segments of high learned value.

    Args:
        value: a `TransitionValue` (rewards and a terminal value, at clean estimates), a `GoalValue`
            (the same for a goal that each plan is told) or a `SegmentValue` (of noisy segments,
            Diffuser's).
        scale: how far the gradient moves a sample; 0 for choosing among candidates only.
        transform: "log" for the value's logarithm, whose push is as strong where values are small,
            far from a reward, as where they are large; "none" for the value itself.
        trace: lambda of the lambda-return, in [0, 1]; see `TransitionValue.energy`. A
            `SegmentValue` has none.
        floor: least value under the logarithm, in units of a mean reward.
        at: where the gradient is taken; None for what the value was trained on.
        name: how errors and pictures call it.
    """

    def __init__(
        self,
        value: TransitionValue | GoalValue | SegmentValue,
        *,
        scale: float = 100.0,
        transform: Literal["none", "log"] = "log",
        trace: float = 0.7,
        floor: float = 1e-3,
        at: Literal["x0", "x"] | None = None,
        name: str = "value",
    ) -> None:
        if not isinstance(value, TransitionValue | GoalValue | SegmentValue):
            raise PgdiffError(
                "`value` must be a TransitionValue, a GoalValue or a SegmentValue. "
                f"Got a {type(value).__name__}."
            )
        trained_at: Literal["x0", "x"] = "x" if isinstance(value, SegmentValue) else "x0"
        self.value = value
        check_value_settings(scale=scale, transform=transform, trace=trace, floor=floor, at=at)
        self.scale = float(scale)
        self.transform = transform
        self.trace = float(trace)
        self.floor = float(floor)
        self.at: Literal["x0", "x"] = at if at is not None else trained_at
        self.name = name

    @property
    def needs_goal(self) -> bool:
        """Whether its energy is of a goal, which each plan must then be told."""
        return isinstance(self.value, GoalValue)

    def check_model(self, model: TrajectoryDiffusion) -> None:
        """Refuse a model whose noise the value has not learned."""
        if isinstance(self.value, SegmentValue) and self.value.schedule != model.schedule:
            raise PgdiffError(
                f"`schedule` of '{self.name}' must be that of the model, {model.schedule}. "
                f"Got {self.value.schedule}: train the value with the model's schedule."
            )

    def energy(
        self, segment: Segment, level: Float[Tensor, "#batch tokens"]
    ) -> Float[Tensor, " batch"]:
        """Value of each segment, or its logarithm."""
        if self.value.device != segment.observations.device:  # where the planner's model went
            self.value.to(segment.observations.device)
        if isinstance(self.value, TransitionValue | GoalValue):
            value = self.value.energy(segment, trace=self.trace)
        else:
            # A clean estimate is clean, whatever the level of the sample that it was made from.
            seen = torch.zeros_like(level) if self.at == "x0" else level
            value = self.value.energy(segment, seen)
        if self.transform == "none":
            return value
        # Below the floor the logarithm goes on as its tangent, so that the gradient never ends.
        below = value / self.floor - 1 + math.log(self.floor)
        above = value.clamp(min=self.floor).log()
        return torch.where(value > self.floor, above, below)


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
        check_in("at", at, ("x0", "x"))
