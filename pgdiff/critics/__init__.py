"""Value networks for segments, learned from recordings."""

from pgdiff.critics.goal_value import GoalValue
from pgdiff.critics.segment_value import SegmentValue
from pgdiff.critics.transition_value import TransitionValue

__all__ = ["GoalValue", "SegmentValue", "TransitionValue"]
