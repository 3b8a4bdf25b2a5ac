"""What a planner is told, checked: observations, conditions, seeds."""

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from pgdiff.data import LimitsNormalizer
from pgdiff.model import TrajectoryDiffusion
from pgdiff.planning.goals import GOAL
from pgdiff.trajectory import Condition
from pgdiff.validation import PgdiffError, check_range

FAR_OF_LIMITS, FAR_OF_DEVIATIONS = 3.0, 10.0
"""From how many half-ranges, or standard deviations, an observation is far outside the data."""

FAR_OF_CONSTANT, ROUNDING = 1e-3, 1e-5
"""How far a feature may be from a value that it had throughout the data, in units of what the
network sees, where data spread over about 1; and how far as a share of that value."""


def checked_observations(
    observations: np.ndarray, *, shape: tuple[int, ...]
) -> Float[np.ndarray, "environments observation"]:
    """Return observations as float32 if they are finite and of that shape."""
    if observations.ndim != 2 or observations.shape[1:] != shape:
        raise PgdiffError(
            f"`observation` must have shape {list(shape)}, that of the data "
            "the model was trained on, or [environments, ...] of it. "
            f"Got {list(observations.shape[1:])}."
        )
    if not len(observations):
        raise PgdiffError("`observation` must be that of one environment or more. Got none.")
    if observations.dtype.kind not in "fiu":
        raise PgdiffError(f"`observation` must be numbers. Got {observations.dtype}.")
    with np.errstate(over="ignore"):
        checked = observations.astype(np.float32)
    rows = np.flatnonzero(~np.isfinite(checked).all(axis=1))
    if len(rows):
        raise PgdiffError(
            "`observation` must be finite numbers of float32. Got "
            f"{observations[rows[0]].tolist()} for environment {rows[0]}."
        )
    return checked


def warn_far(
    observations: Float[np.ndarray, "environments observation"], model: TrajectoryDiffusion
) -> bool:
    """Warn of an observation far outside the data that the model has learned from.

    Returns:
        Whether there was one.
    """
    where = model.layout.slices["observations"]
    normalizer = model.normalizer
    center, scale, constant = (
        values[where].cpu().numpy()
        for values in (normalizer.center, normalizer.scale, normalizer.constant)
    )
    limits = isinstance(normalizer, LimitsNormalizer)
    far = FAR_OF_LIMITS if limits else FAR_OF_DEVIATIONS
    # In units of the distance from which on a value is far.
    least = np.maximum(FAR_OF_CONSTANT, ROUNDING * np.abs(center))
    size = np.abs(observations - center) / np.where(constant, least, far * scale)
    row, feature = np.unravel_index(size.argmax(), size.shape)
    if size[row, feature] <= 1:
        return False
    low, high = (center + sign * scale for sign in (-1, 1))
    if constant[feature]:
        data = f"the data have {center[feature]:.4g} throughout"
    else:
        data = "the data lie" if limits else "the middle of the data lies"
        data += f" in [{low[feature]:.4g}, {high[feature]:.4g}]"
    warnings.warn(
        f"Feature {feature} of `observation` is far outside the data that the model has learned "
        f"from: {float(observations[row, feature]):.4g} for environment {row}, where {data}. "
        "Plans from there mean little.",
        stacklevel=4,
    )
    return True


def split_goal(
    observation: Any, model: TrajectoryDiffusion
) -> tuple[Any, Float[np.ndarray, "*environments goal"] | None]:
    """Flatten a Dict observation as the recording was, and take its goal out; else leave it."""
    if not isinstance(observation, Mapping):
        return observation, None
    if model.observation_layout is None:
        raise PgdiffError(
            "`observation` must be an array: the model was trained on a recording of flat "
            f"observations. Got a mapping of {sorted(map(str, observation))}."
        )
    return model.observation_layout.flatten(observation)


def checked_condition(given: Mapping[str, Any], model: TrajectoryDiffusion) -> dict[str, Tensor]:
    """Return the given condition as tensors of batch 1."""
    model.conditioning.check_names(given, later=[GOAL])
    raw: dict[str, Any] = {}
    for name, value in given.items():
        numbers = value.tolist() if isinstance(value, np.ndarray | torch.Tensor) else value
        raw[name] = [numbers if isinstance(numbers, Sequence) else [numbers]]
    condition = Condition(values=raw)
    model.conditioning.check_values(condition)
    return dict(condition.values)


def check_scale_factors(factors: Sequence[float] | None) -> tuple[float, ...] | None:
    """Return the factors of the guides' scales, each at least 0; None for none."""
    if factors is None:
        return None
    if isinstance(factors, np.ndarray | Tensor):
        factors = factors.tolist()
    if isinstance(factors, str) or not isinstance(factors, Sequence) or not factors:
        raise PgdiffError(
            f"`scale_factors` must be numbers, for example [0.25, 0.5, 1]. Got {factors!r}."
        )
    return tuple(check_range("scale_factors", factor, low=0.0) for factor in factors)


def plan_seeds(
    seeds: Int[np.ndarray, " environments"], counts: Int[np.ndarray, " environments"]
) -> list[int]:
    """One independent seed for each pair of an environment's seed and a count."""
    return [
        int(np.random.SeedSequence([int(seed), int(count)]).generate_state(1, np.uint64)[0] >> 1)
        for seed, count in zip(seeds, counts, strict=True)
    ]
