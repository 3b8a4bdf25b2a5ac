"""How well an agent acts: rollouts, normalised scores, and intervals that say how sure we are."""

from pgdiff.evaluation.aggregates import Aggregate, Estimate, aggregate
from pgdiff.evaluation.bootstrap import interval, paired_difference
from pgdiff.evaluation.comparisons import Comparison, compare
from pgdiff.evaluation.disturbances import Disturbed
from pgdiff.evaluation.fidelity import Fidelity, fidelity
from pgdiff.evaluation.files import load_evaluation, load_evaluations
from pgdiff.evaluation.results import Evaluation, comparison_table
from pgdiff.evaluation.rollouts import Agent, evaluate

__all__ = [
    "Agent",
    "Aggregate",
    "Comparison",
    "Disturbed",
    "Estimate",
    "Evaluation",
    "Fidelity",
    "aggregate",
    "compare",
    "comparison_table",
    "evaluate",
    "fidelity",
    "interval",
    "load_evaluation",
    "load_evaluations",
    "paired_difference",
]
