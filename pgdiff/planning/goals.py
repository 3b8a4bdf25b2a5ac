"""Goals of plans: settings, and the models and guides that use them."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Num
from torch import Tensor

from pgdiff.core.registry import register
from pgdiff.core.validation import PgdiffError, check_flag, check_positive_int
from pgdiff.model import TrajectoryDiffusion

GOAL = "goal"
"""Name of the condition that holds the goal of a plan."""


@register("goals", "goals")
@dataclass(frozen=True, kw_only=True)
class Goals:
    """Settings of the in-painting of goals.

    Attributes:
        hold: whether the goal is in-painted, for a model that was trained with the patterns
            "start_goal" or "start_arrival". If False, only guides and conditions get the goal.
        tokens: tokens that are in-painted with the goal, one for each candidate in turn, for a
            model that was trained with "start_arrival"; earlier tokens demand an earlier arrival.
            None for the last token.

    Example:
        >>> from pgdiff import Goals
        >>> Goals(tokens=[4, 8]).tokens
        (4, 8)
    """

    hold: bool = True
    tokens: Sequence[int] | None = None

    def __post_init__(self) -> None:
        check_flag("hold", self.hold)
        if self.tokens is None:
            return
        if isinstance(self.tokens, str) or not isinstance(self.tokens, Sequence) or not self.tokens:
            raise PgdiffError(
                f"`tokens` must be indices of tokens, for example [4, 8]. Got {self.tokens!r}."
            )
        tokens = tuple(check_positive_int("tokens", token) for token in self.tokens)
        object.__setattr__(self, "tokens", tokens)

    def check(self, model: TrajectoryDiffusion) -> None:
        """Raise if the model was not trained to reach goals at these tokens."""
        if self.tokens is None:
            return
        last = model.codec.tokens - 1
        if max(self.tokens) > last:
            raise PgdiffError(f"`goals.tokens` must be from 1 to {last}. Got {list(self.tokens)}.")
        if "start_arrival" not in model.patterns:
            raise PgdiffError(
                "`goals.tokens` must be None for a model that was trained with the patterns "
                f"{list(model.patterns)}, without 'start_arrival'. Got {list(self.tokens)}."
            )


def inpaints_goal(model: TrajectoryDiffusion) -> bool:
    """Return whether the model was trained with in-painted goals."""
    return bool({"start_goal", "start_arrival"} & set(model.patterns))


def conditioned_on_goal(model: TrajectoryDiffusion) -> bool:
    """Return whether a goal is one of the model's conditions."""
    return GOAL in model.conditions.names


def cycle_over(values: Sequence[float], candidates: int) -> Num[Tensor, " candidates"]:
    """Return one of the values for each candidate, in turn."""
    return torch.tensor(values).repeat(-(-candidates // len(values)))[:candidates]
