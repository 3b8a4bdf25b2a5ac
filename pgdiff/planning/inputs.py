"""Checks of a planner's observations, and seeds of plans."""

import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from pgdiff.core.validation import PgdiffError
from pgdiff.model import TrajectoryDiffusion


def checked_observations(
    observations: np.ndarray, *, shape: tuple[int, ...]
) -> Float[np.ndarray, "environments observation"]:
    """Return observations as float32 if they are finite and each has this shape."""
    if observations.ndim != 2 or observations.shape[1:] != shape:
        raise PgdiffError(
            f"`observation` must have the shape {list(shape)} of the model's training data, "
            "or a batch of it, [environments, ...]. "
            f"Got {list(observations.shape[1:])}."
        )
    if not len(observations):
        raise PgdiffError("`observation` must hold one environment or more. Got none.")
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
    """Warn of an observation far outside the training data, and return True if one is."""
    message = model.codec.check_observation(observations)
    if message is not None:
        warnings.warn(message, stacklevel=4)
    return message is not None


def split_goal(
    observation: Any, model: TrajectoryDiffusion
) -> tuple[Any, Float[np.ndarray, "*environments goal"] | None]:
    """Return a Dict observation flattened as in the recording, and its goal.

    An array is returned unchanged, with None as its goal.
    """
    if not isinstance(observation, Mapping):
        return observation, None
    if model.codec.observation_layout is None:
        raise PgdiffError(
            "`observation` must be an array, because the model was trained on flat observations. "
            f"Got a mapping of {sorted(map(str, observation))}."
        )
    return model.codec.observation_layout.flatten(observation)


def plan_seeds(
    seeds: Int[np.ndarray, " environments"], counts: Int[np.ndarray, " environments"]
) -> list[int]:
    """Return one independent seed for each pair of an environment's seed and a count."""
    return [
        int(np.random.SeedSequence([int(seed), int(count)]).generate_state(1, np.uint64)[0] >> 1)
        for seed, count in zip(seeds, counts, strict=True)
    ]
