"""Value networks: what a segment is worth, learned from recorded rewards."""

from pgdiff.critics.segment_value import SegmentValue
from pgdiff.critics.transition_value import TransitionValue

__all__ = ["SegmentValue", "TransitionValue"]
