"""Log-likelihood of plans under a model, given their start."""

from collections.abc import Mapping

import numpy as np
import torch
from jaxtyping import Float

from pgdiff.core.validation import PgdiffError
from pgdiff.planning import Planner
from pgdiff.trajectory import Condition

STEPS = 25
NOISE_MIN = 0.05
"""Noise level sigma / alpha at which a plan counts as clean, in normalised units. The last sampling
step of a planner starts at this noise (log-SNR 6), so finer detail is not corrected."""
_BATCH = 128


def likelihood_refusal(planner: Planner) -> str | None:
    """Return why the likelihood of this planner's plans is undefined; None if it is defined."""
    model = planner.model
    if "start" not in model.patterns:
        return "the model was not trained with the known pattern 'start'"
    if planner.filter.noise_level > 0:
        return "the plans start from noisy observations"
    try:
        model.codec.as_batch(
            np.zeros((1, model.codec.tokens, *planner.observation_shape), np.float32),
            _no_actions(planner),
        )
    except PgdiffError:
        return "the model generates features that plans do not contain"
    return None


def plan_nats(
    planner: Planner,
    observations: Float[np.ndarray, "plans tokens obs"],
    actions: Float[np.ndarray, "plans steps act"] | None,
    condition: Mapping[str, np.ndarray],
    *,
    steps: int = STEPS,
    noise_min: float = NOISE_MIN,
) -> Float[np.ndarray, " plans"]:
    """Compute the log-density of each plan given its start, in nats per free feature.

    The trace is exact (`TrajectoryDiffusion.log_likelihood`). Densities are in raw units;
    differences between plans of one model are the same in normalised units.

    Args:
        planner: planner with the model and the condition.
        observations: way-points.
        actions: actions of every step, for a model that generates actions.
        condition: values of the plans by name, `[plans, ...]` each, besides the planner's defaults.
        steps: Runge-Kutta steps; larger values are more accurate.
        noise_min: ratio sigma / alpha that counts as clean; larger values ignore more detail.
    """
    model = planner.model
    free = int((~model.codec.pattern("start")).sum())
    nats: list[np.ndarray] = []
    for first in range(0, len(observations), _BATCH):
        part = slice(first, first + _BATCH)
        batch = model.codec.as_batch(
            observations[part].astype(np.float32),
            None if actions is None else actions[part],
            device=model.device,
        )
        values = {name: value[part] for name, value in condition.items()}
        likelihood = model.log_likelihood(
            batch,
            condition=_condition(planner, observations[part, 0], values),
            steps=steps,
            noise_min=noise_min,
        )
        value = likelihood.value
        nats.append(value.double().cpu().numpy() / free)
    return np.concatenate(nats)


def _condition(
    planner: Planner, observations: Float[np.ndarray, "plans obs"], values: Mapping[str, np.ndarray]
) -> Condition | None:
    """Return the condition of the plans; None without one."""
    model = planner.model
    all_values = dict(planner.condition)
    for name, value in values.items():
        all_values[name] = torch.as_tensor(value, device=model.device)
    of_model = {name: all_values[name] for name in model.conditions.names if name in all_values}
    start = torch.as_tensor(observations, dtype=torch.float32, device=model.device)
    of_model = model.conditions.from_plan(start, of_model)
    return Condition(values=of_model) if of_model else None


def _no_actions(planner: Planner) -> Float[np.ndarray, "plans steps act"] | None:
    """Return zero actions in the shape of the plans; None for a model without actions."""
    shape = planner.model.codec.spec.action_shape
    return None if shape is None else np.zeros((1, *shape), np.float32)
