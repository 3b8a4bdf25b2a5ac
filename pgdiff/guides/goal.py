"""A guide to a goal position."""

import copy
import math
from collections.abc import Sequence
from typing import Literal, Self, Unpack

import torch
from jaxtyping import Float
from torch import Tensor

from pgdiff.core.registry import register
from pgdiff.core.validation import PgdiffError, check_in, check_positive_int, check_range
from pgdiff.diffusion.guidance.rules import Place
from pgdiff.guides.base import GradientGuide, GuidanceOptions
from pgdiff.model import TrajectoryDiffusion
from pgdiff.trajectory import Segment


@register("guide", "goal")
class Goal(GradientGuide):
    """A guide to a goal: a Gaussian log-likelihood of the plan's position.

    With `e_k = -|p_k - goal|^2 / (2 width^2)` for the position at token k the objective is `e` of
    the last token, the mean over all tokens, or `log mean_k exp(e_k)`, which is high if any token
    is at the goal. If `scale / width^2` is large compared to the inverse variance of positions,
    steps overshoot; a `pgdiff.diffusion.TrustRegion` shortens them.

    Args:
        goal: goal position in raw units; None for the goal of each plan.
        goal_features: indices of the observation's features that a goal specifies; those of the
            model if None.
        where: "end" for the last token, "any" for any token, "every" for the mean over all tokens.
        width: distance in raw units at which the objective of one token is -1/2; smaller values
            attract more strongly.
        scale: strength of the gradient; 0 only ranks candidates.
        gradient_at: where the gradient is taken; see `GradientGuide`.
        name: name of the guide in error messages and plots.
        fields: fields of the segment that the guide moves; all if None.
        settings: other arguments of `GradientGuide`.

    Example:
        >>> import torch
        >>> from pgdiff import Segment
        >>> from pgdiff.guides import Goal
        >>> guide = Goal((1.0, 2.0), goal_features=(0, 1), width=0.5)
        >>> segment = Segment(observations=torch.tensor([[[0.0, 0.0], [1.0, 1.5]]]))
        >>> guide.objective(segment, torch.zeros(1, 2)).tolist()
        [-0.5]
    """

    def __init__(
        self,
        goal: Sequence[float] | None = None,
        *,
        goal_features: Sequence[int] | None = None,
        where: Literal["end", "any", "every"] = "end",
        width: float = 1.0,
        scale: float = 1.0,
        gradient_at: Place = "x0",
        name: str = "goal",
        fields: Sequence[str] | None = None,
        **settings: Unpack[GuidanceOptions],
    ) -> None:
        super().__init__(name=name, scale=scale, gradient_at=gradient_at, fields=fields, **settings)
        self.goal = None if goal is None else tuple(check_range("goal", g) for g in goal)
        if goal_features is not None:
            goal_features = tuple(
                check_positive_int("goal_features", i, minimum=0) for i in goal_features
            )
            if not goal_features:
                raise PgdiffError("`goal_features` must name at least one feature. Got none.")
        self.goal_features = goal_features
        if None not in (self.goal, goal_features) and len(self.goal or ()) != len(
            goal_features or ()
        ):
            raise PgdiffError(
                "`goal` must give a number for each feature of `goal_features`, "
                f"{list(goal_features or ())}. Got {list(self.goal or ())}."
            )
        self.where = check_in("where", where, ("end", "any", "every"))
        self.width = check_range("width", width, low=0.0, open_low=True)

    @property
    def needs_goal(self) -> bool:
        """True if a goal must be passed for each plan."""
        return self.goal is None

    def for_model(self, model: TrajectoryDiffusion) -> Self:
        """Return the guide with the model's goal features if `goal_features` is None."""
        if self.goal_features is not None:
            return self
        guide = copy.copy(self)
        guide.goal_features = model.codec.goal_features
        return guide

    def check_model(self, model: TrajectoryDiffusion) -> None:
        """Raise if a model's observations do not have the goal features."""
        features = self.goal_features
        if features is None:
            features = model.codec.goal_features
        size = model.codec.spec.observation_size
        if self.goal is not None and len(self.goal) != len(features):
            raise PgdiffError(
                f"`goal` of '{self.name}' must give a number for each feature of `goal_features`, "
                f"{list(features)}. Got {list(self.goal)}."
            )
        if max(features) >= size:
            raise PgdiffError(
                f"`goal_features` of '{self.name}' must be indices of the {size} features of the "
                f"model's observations. Got {list(features)}."
            )

    def objective(
        self, segment: Segment, level: Float[Tensor, "#batch tokens"]
    ) -> Float[Tensor, " batch"]:
        """Return the log-likelihood of the goal for each segment; at most 0.

        Raises:
            PgdiffError: the goal is missing, or does not have one number per goal feature.
        """
        position = segment.observations[..., list(self.goal_features or (0, 1))]
        way = (position - self._goal(segment, position)) / self.width
        near = -way.square().sum(dim=-1) / 2
        if self.where == "end":
            return near[:, -1]
        if self.where == "every":
            return near.mean(dim=1)
        return torch.logsumexp(near, dim=1) - math.log(near.shape[1])

    def _goal(self, segment: Segment, position: Tensor) -> Float[Tensor, "#batch 1 goal"]:
        if self.goal is not None:
            goal = position.new_tensor([self.goal])
        elif segment.goal is not None:
            goal = segment.goal.to(position)
        else:
            raise PgdiffError(
                f"`goal` of '{self.name}' must be given. Got None. Pass it to Goal(goal) or to "
                'plan(condition={"goal": ...}).'
            )
        if goal.shape[-1] != position.shape[-1]:
            raise PgdiffError(
                f"`goal` of '{self.name}' must give a number for each of the "
                f"{position.shape[-1]} goal features. Got {goal.shape[-1]}."
            )
        return goal[:, None]
