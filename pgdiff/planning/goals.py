"""Goals of plans: which models know of them, and when a plan is to be there."""

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float, Num
from torch import Tensor

from pgdiff.diffusion.classifier_free import ClassifierFree
from pgdiff.guides import Guide
from pgdiff.guides.base import needs_goal
from pgdiff.model import TrajectoryDiffusion
from pgdiff.trajectory import Condition
from pgdiff.validation import PgdiffError, as_array, check_positive_int

GOAL = "goal"
"""The condition that `goal` of `plan` gives."""


def knows_goals(model: TrajectoryDiffusion) -> bool:
    """Whether the model was trained with a goal held in its segments."""
    return bool({"start_goal", "start_arrival"} & set(model.known))


def steered_to_goal(model: TrajectoryDiffusion) -> bool:
    """Whether the model has learned a goal as a condition."""
    return GOAL in model.conditioning.names


def checked_goals(
    goals: Float[np.ndarray, "environments goal"], *, count: int
) -> Float[np.ndarray, "environments goal"]:
    """Return goals as float32 if there is a finite one for each of `count` environments."""
    # A copy, which a planner keeps in its state.
    checked = np.array(as_array("goals", goals), dtype=np.float32)
    if checked.ndim != 2 or len(checked) != count or not np.isfinite(checked).all():
        raise PgdiffError(
            f"`goals` must be finite and of shape [{count}, goal]. Got {checked.tolist()}."
        )
    return checked


def check_no_goal(
    guides: Sequence[Guide], condition: Condition | None, classifier_free: ClassifierFree | None
) -> None:
    """Raise an error where a planner that was told no goal cannot do without."""
    if condition is None and classifier_free is not None:
        raise PgdiffError(
            "`goal` must be given to a planner with `classifier_free`: to plan(goal=...), "
            'or to Planner(condition={"goal": ...}). Got None.'
        )
    if any(map(needs_goal, guides)):
        names = ", ".join(guide.name for guide in guides if needs_goal(guide))
        raise PgdiffError(f"`goal` must be given: the guide {names} is of a goal. Got None.")


def check_arrivals(
    arrivals: Sequence[int] | None, model: TrajectoryDiffusion
) -> tuple[int, ...] | None:
    """Return the tokens at which a goal may be held, if the model was trained for that."""
    if arrivals is None:
        return None
    last = model.layout.horizon - 1
    tokens = tuple(check_positive_int("arrivals", token) for token in arrivals)
    if not tokens or max(tokens) > last:
        raise PgdiffError(f"`arrivals` must be tokens in 1 to {last}. Got {list(arrivals)}.")
    if "start_arrival" not in model.known:
        raise PgdiffError(
            "`arrivals` must be None for a model that was trained with the known patterns "
            f"{list(model.known)}, without 'start_arrival'. Got {list(tokens)}."
        )
    return tokens


def shared_out(values: Sequence[float], candidates: int) -> Num[Tensor, " candidates"]:
    """Give each candidate one of the values, in turn."""
    return torch.tensor(values).repeat(-(-candidates // len(values)))[:candidates]
