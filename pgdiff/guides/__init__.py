"""Guides: objectives of plans in raw units, whose gradients move samples."""

from pgdiff.guides.base import GradientGuide, Sum
from pgdiff.guides.constraint import Constraint
from pgdiff.guides.costs import ActionLimit, Box, Disc, SpeedLimit
from pgdiff.guides.critic import Critic
from pgdiff.guides.goal import Goal
from pgdiff.guides.policy import Policy
from pgdiff.guides.returns import Return
from pgdiff.guides.value import Value
from pgdiff.model.guidance import Guide, TokenGuide, bind

__all__ = [
    "ActionLimit",
    "Box",
    "Constraint",
    "Critic",
    "Disc",
    "Goal",
    "GradientGuide",
    "Guide",
    "Policy",
    "Return",
    "SpeedLimit",
    "Sum",
    "TokenGuide",
    "Value",
    "bind",
]
