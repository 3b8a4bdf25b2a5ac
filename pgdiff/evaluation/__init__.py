"""Evaluation of agents: rollouts, normalised scores, and bootstrap intervals."""

from pgdiff.evaluation.aggregates import Aggregate, Estimate, aggregate
from pgdiff.evaluation.bootstrap import interval, paired_difference
from pgdiff.evaluation.comparisons import Comparison, compare
from pgdiff.evaluation.fidelity.report import Fidelity, fidelity
from pgdiff.evaluation.results import Evaluation, comparison_table
from pgdiff.evaluation.results_io import load_evaluation, load_evaluations
from pgdiff.evaluation.rollouts import Agent, evaluate
from pgdiff.evaluation.wrappers import NoisyObservations

__all__ = [
    "Agent",
    "Aggregate",
    "Comparison",
    "Estimate",
    "Evaluation",
    "Fidelity",
    "NoisyObservations",
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
