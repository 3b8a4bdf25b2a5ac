"""Rank correlation of a value with the distance to the goal."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float

from pgdiff.core.validation import PgdiffError
from pgdiff.evaluation.aggregates import Estimate
from pgdiff.evaluation.intervals import bootstrap_estimate
from pgdiff.planning import Planner

Observations = Float[np.ndarray, "states obs"]
ValueOf = Callable[[Observations, "np.ndarray | None"], Float[np.ndarray, " states"]]
"""Returns values of observations, and of their goals if the value depends on a goal."""


@dataclass(frozen=True, kw_only=True)
class ValueTruth:
    """Spearman's rank correlation of a value with the negative distance to the goal.

    It is 1 if a state closer to the goal always has the higher value.

    Attributes:
        name: name of the value.
        recorded: correlation over recorded states.
        at_rest: correlation over the same positions with all other features set to 0.
        states: number of states.
    """

    name: str
    recorded: Estimate
    at_rest: Estimate
    states: int


def value_truth(
    value: ValueOf,
    observations: Observations,
    distances: Float[np.ndarray, " states"],
    *,
    position: tuple[int, ...] = (0, 1),
    goals: Float[np.ndarray, "states goal"] | None = None,
    name: str = "value",
    seed: int = 0,
) -> ValueTruth:
    """Compute the rank correlation of a value with the negative distance to the goal.

    Args:
        value: returns values of observations and goals.
        observations: recorded states.
        distances: length of the shortest path from each state to the goal, finite, such as a maze's
            `distance_to_goal`.
        position: features of an observation that are a position.
        goals: goal of each state, for a value that depends on a goal.
        name: name of the value.
        seed: seed of the bootstrap.

    Raises:
        PgdiffError: if there are fewer than 2 states or a distance is not finite.

    Example:
        >>> places = np.linspace([0.0, 0.0], [4.0, 3.0], num=20)
        >>> away = np.linalg.norm(places, axis=1)
        >>> truth = value_truth(lambda observations, goals: -away, places, away)
        >>> truth.recorded.value
        1.0
    """
    rows = np.flatnonzero(~np.isfinite(distances))
    if len(distances) < 2 or len(rows):
        got = f"{len(distances)}" if not len(rows) else f"{distances[rows[0]]} in row {rows[0]}"
        raise PgdiffError(
            f"`distances` must be finite and have at least 2 entries. Got {got}. Leave out states "
            "from which no path leads to the goal."
        )
    rest = np.zeros_like(observations)
    rest[:, list(position)] = observations[:, list(position)]

    def correlation(states: Observations) -> Estimate:
        pairs = np.stack([value(states, goals), -distances], axis=1)
        return bootstrap_estimate(
            pairs,
            lambda drawn: np.array([rank_correlation(*pair.T) for pair in drawn]),
            resamples=1000,
            seed=seed,
        )

    return ValueTruth(
        name=name,
        recorded=correlation(observations),
        at_rest=correlation(rest),
        states=len(distances),
    )


def guide_value(planner: Planner) -> tuple[str, ValueOf] | None:
    """Return name and function of a planner's first value of single observations.

    None if no guide has such a value.
    """
    for guide in planner.guides:
        learner = getattr(guide, "value", None)
        if hasattr(learner, "value"):
            return guide.name, _on_arrays(learner, needs_goal=getattr(guide, "needs_goal", False))
    return None


def _on_arrays(learner: Any, *, needs_goal: bool) -> ValueOf:
    @torch.no_grad()
    def value(observations: Observations, goals: np.ndarray | None) -> np.ndarray:
        arrays = [observations, goals] if needs_goal else [observations]
        tensors = [
            torch.as_tensor(np.asarray(array, np.float32), device=learner.device)
            for array in arrays
        ]
        values: np.ndarray = learner.value(*tensors).double().cpu().numpy()
        return values

    return value


Values = Float[np.ndarray, " values"]


def rank_correlation(a: Values, b: Values) -> float:
    """Compute Spearman's rank correlation; equal values share the mean of their ranks.

    It is NaN if all values of `a` or all values of `b` are equal.
    """
    first, second = _ranks(a), _ranks(b)
    first, second = first - first.mean(), second - second.mean()
    size = np.sqrt((first**2).sum() * (second**2).sum())
    return float((first * second).sum() / size) if size > 0 else float("nan")


def _ranks(values: Values) -> Values:
    _, which, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    return np.asarray((last - (counts - 1) / 2.0)[which])
