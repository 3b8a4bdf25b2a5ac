"""How well an agent acts: rollouts, normalised scores, and intervals that say how sure we are."""

from pgdiff.evaluation.bootstrap import interval, paired_difference
from pgdiff.evaluation.results import Evaluation, comparison_table
from pgdiff.evaluation.rollouts import Agent, evaluate

__all__ = [
    "Agent",
    "Evaluation",
    "comparison_table",
    "evaluate",
    "interval",
    "paired_difference",
]
