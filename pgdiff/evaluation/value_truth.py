"""Whether a learned value orders states as the true way to the goal does."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float

from pgdiff.evaluation.aggregates import Estimate
from pgdiff.evaluation.intervals import estimated
from pgdiff.evaluation.rank_correlation import rank_correlation
from pgdiff.planning import Planner
from pgdiff.validation import PgdiffError

Observations = Float[np.ndarray, "states obs"]
ValueOf = Callable[[Observations, "np.ndarray | None"], Float[np.ndarray, " states"]]
"""Values of observations, for the goals of each where the value is of a goal."""


@dataclass(frozen=True, kw_only=True)
class ValueTruth:
    """Spearman's rank correlation of a value with the true way to the goal.

    1 means that a state nearer to the goal always has the higher value.

    Attributes:
        name: of the value.
        recorded: over recorded states.
        at_rest: over the same places with every other feature 0.
        states: how many.
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
    """Return the rank correlation of a value with the negative distance to the goal.

    Args:
        value: of observations and goals.
        observations: recorded states.
        distances: true length of the way from each to the goal, finite, such as a maze's
            `distance_to_goal`.
        position: features of an observation that are a place.
        goals: of each state, for a value of a goal.
        name: of the value.
        seed: of the bootstrap's draws.

    Raises:
        PgdiffError: if there are fewer than 2 states or a distance is not finite.

    Example:
        >>> places = np.linspace([0.0, 0.0], [4.0, 3.0], num=20)
        >>> away = np.linalg.norm(places, axis=1)
        >>> found = value_truth(lambda observations, goals: -away, places, away)
        >>> found.recorded.value
        1.0
    """
    rows = np.flatnonzero(~np.isfinite(distances))
    if len(distances) < 2 or len(rows):
        got = f"{len(distances)}" if not len(rows) else f"{distances[rows[0]]} in row {rows[0]}"
        raise PgdiffError(f"`distances` must be finite, of at least 2 states. Got {got}.")
    rest = np.zeros_like(observations)
    rest[:, list(position)] = observations[:, list(position)]

    def correlation(states: Observations) -> Estimate:
        pairs = np.stack([value(states, goals), -distances], axis=1)
        return estimated(
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
    """Return the name of a planner's first value of single observations, and that value.

    None where its guides have none.
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
        found: np.ndarray = learner.value(*tensors).double().cpu().numpy()
        return found

    return value
