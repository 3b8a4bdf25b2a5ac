"""Planning: from an observation to a plan, and from a plan to actions."""

from pgdiff.planning.controllers import (
    Controller,
    FollowWaypoints,
    PlanActions,
    WaypointController,
)
from pgdiff.planning.explain import explain
from pgdiff.planning.explanation import Explanation
from pgdiff.planning.goals import Goals
from pgdiff.planning.observation_filter import ObservationFilter
from pgdiff.planning.planner import PLANNING, Planner
from pgdiff.planning.protocol import PlannerLike
from pgdiff.planning.replanning import Replanning, WarmStart
from pgdiff.planning.selection import Plausibility, Selection
from pgdiff.planning.state import PlannerState

__all__ = [
    "PLANNING",
    "Controller",
    "Explanation",
    "FollowWaypoints",
    "Goals",
    "ObservationFilter",
    "PlanActions",
    "Planner",
    "PlannerLike",
    "PlannerState",
    "Plausibility",
    "Replanning",
    "Selection",
    "WarmStart",
    "WaypointController",
    "explain",
]
