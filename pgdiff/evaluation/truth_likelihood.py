"""How likely a model finds plans, given where they start."""

from types import SimpleNamespace

import numpy as np
import torch
from jaxtyping import Float

from pgdiff.planning import Planner
from pgdiff.planning.goals import GOAL
from pgdiff.trajectory import Condition
from pgdiff.validation import PgdiffError

STEPS = 25
NOISE_MIN = 0.05
"""Detail of a plan that is finer than this, in normalised units, does not count: the last step of a
planner's sampling begins at this noise (log-SNR 6) and is not corrected by another."""
_BATCH = 128


def likelihood_refusal(planner: Planner) -> str | None:
    """Return why plans of this planner have no likelihood given their start; None if they have."""
    model = planner.model
    if "start" not in model.known:
        return "the model was not trained with the known pattern 'start'"
    if planner.observation_level > 0:
        return "the plans start from noisy observations"
    try:
        model.tokens_of(
            np.zeros((1, model.layout.horizon, *planner.observation_shape), np.float32),
            _no_actions(planner),
        )
    except PgdiffError:
        return "the model generates more than plans keep"
    return None


def plan_nats(
    planner: Planner,
    observations: Float[np.ndarray, "plans tokens obs"],
    actions: Float[np.ndarray, "plans steps act"] | None,
    goals: Float[np.ndarray, "plans goal"] | None,
    *,
    steps: int = STEPS,
    noise_min: float = NOISE_MIN,
) -> Float[np.ndarray, " plans"]:
    """Return the log-density of each plan given its start, in nats per free feature.

    The trace is exact (`TrajectoryDiffusion.log_likelihood`). Densities are those of raw units:
    differences between plans of one model are the same in normalised ones.

    Args:
        planner: whose model is asked, under the planner's condition.
        observations: way-points.
        actions: of every step, for a model that generates actions.
        goals: of the plans, for a model with the condition "goal".
        steps: Runge-Kutta steps.
        noise_min: ratio sigma / alpha that counts as clean.
    """
    model = planner.model
    x = model.tokens_of(observations.astype(np.float32), actions)
    free = int((~model.pattern("start")).sum())
    found = []
    for first in range(0, len(x), _BATCH):
        part = x[first : first + _BATCH]
        fields = {name: part[..., where] for name, where in model.layout.slices.items()}
        batch = SimpleNamespace(
            mask=torch.ones(part.shape[:2], dtype=torch.bool, device=part.device), **fields
        )
        goal = None if goals is None else goals[first : first + _BATCH]
        condition = _condition(planner, goal)
        value = model.log_likelihood(
            batch, condition=condition, steps=steps, noise_min=noise_min
        ).value
        found.append(value.double().cpu().numpy() / free)
    return np.concatenate(found)


def _condition(planner: Planner, goals: Float[np.ndarray, "plans goal"] | None) -> Condition | None:
    """What the plans were conditioned on."""
    values = dict(planner.condition)
    if goals is not None and GOAL in planner.model.conditioning.names:
        values[GOAL] = torch.as_tensor(goals, device=planner.model.device)
    return Condition(values=values) if values else None


def _no_actions(planner: Planner) -> Float[np.ndarray, "plans steps act"] | None:
    """Actions of no meaning, in the shape that the model's plans have."""
    layout = planner.model.layout
    made = layout.segment(torch.zeros(1, layout.horizon, layout.features)).every_action
    return None if made is None else made.numpy()
