"""A guide by a learned value."""

import math
from collections.abc import Sequence
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from pgdiff.core.registry import register
from pgdiff.core.validation import PgdiffError, check_in, check_range
from pgdiff.critics import GoalValue, SegmentValue, TransitionValue
from pgdiff.diffusion import GuidanceRule, ScaleSchedule
from pgdiff.diffusion.guidance.guidance import Normalization
from pgdiff.diffusion.guidance.rules import PLACES, Place
from pgdiff.guides.base import GradientGuide, move_to_segment
from pgdiff.model import TrajectoryDiffusion
from pgdiff.trajectory import Segment


def tangent_log(value: Float[Tensor, " batch"], *, floor: float) -> Float[Tensor, " batch"]:
    """Return the logarithm, continued by its tangent below `floor`, with a gradient everywhere.

    Args:
        value: any numbers.
        floor: above 0.
    """
    below = value / floor - 1 + math.log(floor)
    above = value.clamp(min=floor).log()
    return torch.where(value > floor, above, below)


def check_log(name: str, *, least_reward: float | None) -> None:
    """Raise if a guide takes the logarithm of values with negative rewards.

    Below the floor the logarithm continues as a steep line, with which the guide would be hundreds
    of times stronger than its scale.

    Args:
        name: name of the guide.
        least_reward: smallest possible value, or smallest recorded reward; None if unknown.
    """
    if least_reward is not None and least_reward < 0:
        raise PgdiffError(
            f"`transform` of the guide '{name}' must be 'none' where rewards are negative, because "
            f"a logarithm needs positive values. Got 'log', and rewards down to {least_reward:g}. "
            "Set transform=none and, for a scale that does not depend on the unit of the rewards, "
            "normalize_gradient=plan."
        )


@register("guide", "value")
class Value(GradientGuide):
    """A guide to segments of high learned value.

    Args:
        value: a `TransitionValue` (rewards and a terminal value, at clean estimates), a `GoalValue`
            (a `TransitionValue` with a goal for each plan) or a `SegmentValue` (of noisy segments,
            as in Diffuser).
        scale: strength of the gradient; 0 only ranks candidates.
        transform: "log" for the value's logarithm, whose gradient is equally strong at small
            values, far from a reward, and at large values; "none" for the value itself, if rewards
            may be negative.
        td_lambda: lambda of the lambda-return, in [0, 1]; see `TransitionValue.objective`. Ignored
            with a `SegmentValue`.
        floor: value below which the logarithm continues as its tangent, in units of a mean reward.
        gradient_at: where the gradient is taken; if None, "x" for a `SegmentValue` and "x0" for
            others, as in their training.
        name: name of the guide in error messages and plots.
        rule: weight of the gradient by level; see `GradientGuide`.
        normalize_gradient: "step", "plan" or None; see `GradientGuide`.
        scale_schedule: factor of the scale by level or step; see `GradientGuide`.
        token_weights: factor of the scale for each token; see `GradientGuide`.
        fields: fields of the segment that the guide moves; see `GradientGuide`.
        score_weight: weight of the objective in the sum over guides that ranks candidates.

    Example:
        >>> from pgdiff.critics import TransitionValue
        >>> from pgdiff.guides import Value
        >>> from pgdiff.testing import example_episodes
        >>> value = TransitionValue.from_episodes(example_episodes(), stride=2, width=16)
        >>> Value(value, scale=10.0).gradient_at
        'x0'
    """

    def __init__(
        self,
        value: TransitionValue | GoalValue | SegmentValue,
        *,
        scale: float = 100.0,
        transform: Literal["none", "log"] = "log",
        td_lambda: float = 0.7,
        floor: float = 1e-3,
        gradient_at: Place | None = None,
        name: str = "value",
        rule: GuidanceRule | str | None = None,
        normalize_gradient: Normalization | None = None,
        scale_schedule: ScaleSchedule | str | None = None,
        token_weights: Sequence[float] | None = None,
        fields: Sequence[str] | None = None,
        score_weight: float = 1.0,
    ) -> None:
        if not isinstance(value, TransitionValue | GoalValue | SegmentValue):
            raise PgdiffError(
                "`value` must be a TransitionValue, a GoalValue or a SegmentValue. "
                f"Got a {type(value).__name__}."
            )
        trained_at: Place = "x" if isinstance(value, SegmentValue) else "x0"
        check_value_settings(
            scale=scale,
            transform=transform,
            td_lambda=td_lambda,
            floor=floor,
            gradient_at=gradient_at,
        )
        if transform == "log":
            possible = getattr(value, "value_range", None)
            check_log(name, least_reward=None if possible is None else possible[0])
        super().__init__(
            name=name,
            scale=scale,
            gradient_at=trained_at if gradient_at is None else gradient_at,
            rule=rule,
            normalize_gradient=normalize_gradient,
            scale_schedule=scale_schedule,
            token_weights=token_weights,
            fields=fields,
            score_weight=score_weight,
        )
        self.value = value
        self.transform = transform
        self.td_lambda = float(td_lambda)
        self.floor = float(floor)

    @property
    def needs_goal(self) -> bool:
        """True if the objective depends on a goal, which must be passed for each plan."""
        return isinstance(self.value, GoalValue)

    def check_rewards(self, least: float) -> None:
        """Raise if recorded rewards down to `least` do not fit the objective."""
        # The rewards of a value of goals are not the recorded ones.
        if self.transform == "log" and not isinstance(self.value, GoalValue):
            check_log(self.name, least_reward=least)

    def check_model(self, model: TrajectoryDiffusion) -> None:
        """Raise if the noise schedule of a model differs from that of the value."""
        if isinstance(self.value, SegmentValue):
            check_noise_schedule(self.value, model, name=self.name)

    def objective(
        self, segment: Segment, level: Float[Tensor, "#batch tokens"]
    ) -> Float[Tensor, " batch"]:
        """Return the value of each segment, or its logarithm."""
        move_to_segment(self.value, segment)
        if isinstance(self.value, TransitionValue | GoalValue):
            value = self.value.objective(segment, td_lambda=self.td_lambda)
        else:
            value = noisy_objective(self.value, segment, level, gradient_at=self.gradient_at)
        return value if self.transform == "none" else tangent_log(value, floor=self.floor)


def noisy_objective(
    value: SegmentValue,
    segment: Segment,
    level: Float[Tensor, "#batch tokens"],
    *,
    gradient_at: Place,
) -> Float[Tensor, " batch"]:
    """Return the objective of a value of noisy segments, at the point of a guide's gradient."""
    # Clean estimates have level 0 for samples of any level.
    return value.objective(segment, level if gradient_at == "x" else torch.zeros_like(level))


def check_noise_schedule(value: SegmentValue, model: TrajectoryDiffusion, *, name: str) -> None:
    """Raise if the noise schedule of a model differs from that of a value of noisy segments."""
    if value.noise_schedule != model.process.noise_schedule:
        raise PgdiffError(
            f"`noise_schedule` of '{name}' must be that of the model, "
            f"{model.process.noise_schedule}. Got {value.noise_schedule}. "
            "Train the value with the model's noise schedule."
        )


def check_value_settings(
    *,
    scale: float = 0.0,
    transform: str = "log",
    td_lambda: float = 0.0,
    floor: float = 1.0,
    gradient_at: str | None = None,
) -> None:
    """Raise if a setting of a `Value` is out of range; the message names it."""
    check_range("scale", scale, low=0.0)
    check_in("transform", transform, ("none", "log"))
    check_range("td_lambda", td_lambda, low=0.0, high=1.0)
    check_range("floor", floor, low=0.0, open_low=True)
    if gradient_at is not None:
        check_in("gradient_at", gradient_at, PLACES)
