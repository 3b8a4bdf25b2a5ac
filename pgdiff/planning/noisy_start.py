"""A present observation that is not taken for the truth: it is noisy, or there is none."""

from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from pgdiff.diffusion import Known, Observed
from pgdiff.planning.memory import PlanMemory
from pgdiff.validation import PgdiffError, check_level

Observations = Float[np.ndarray, "environments observation"]


def checked_levels(levels: Any, *, count: int) -> Float[np.ndarray, " environments"]:
    """Return the noise level of each observation, from one of all or one an environment."""
    given = np.asarray(levels, dtype=object)
    if given.shape not in ((), (count,)):
        raise PgdiffError(
            f"`levels` must be {count}, one an environment. Got the shape {list(given.shape)}."
        )
    checked = [check_level("levels", level) for level in np.broadcast_to(given, count).tolist()]
    return np.array(checked, dtype=np.float64)


def seen_noisily(
    known: Known, levels: Float[np.ndarray, " environments"], *, candidates: int
) -> tuple[Known, Observed | None]:
    """What is given of plans but the noisy first tokens, and these as measurements.

    Args:
        known: what is given, of the candidates of each environment in turn.
        levels: of the noise in each environment's first token; 0 for the truth.
        candidates: of each environment.
    """
    if not levels.any():
        return known, None
    level = torch.from_numpy(levels).to(known.values).repeat_interleave(candidates)
    first = known.mask.expand(known.values.shape).clone()
    first[:, 1:] = False
    first &= (level > 0)[:, None, None]
    return Known(known.mask & ~first, known.values), Observed(first, known.values, level)


def known_after(known: Known, observed: Observed | None, x: Tensor) -> Known:
    """What is given of finished plans: what was measured is by then what they made of it."""
    if observed is None:
        return known
    values = torch.where(observed.mask, x, known.values)
    return Known(known.mask | observed.mask, values)


def missing(observations: np.ndarray) -> Bool[np.ndarray, " environments"]:
    """Which observations are not there: all of their features are NaN."""
    if observations.dtype.kind != "f" or observations.ndim != 2:
        return np.zeros(len(observations), bool)
    return np.asarray(np.isnan(observations).all(axis=1))


def filled_in(
    observations: Observations,
    absent: Bool[np.ndarray, " environments"],
    memory: PlanMemory,
    stride: int,
) -> Observations:
    """Observations, in place of absent ones what the plans that are followed expect by now.

    Raises:
        PgdiffError: one is absent where there is no plan yet.
    """
    early = np.flatnonzero(absent & (memory.age < 0))
    if len(early):
        raise PgdiffError(
            "`observation` must be there where an episode begins. Got NaN for environment "
            f"{early[0]}, which has no plan yet that could say what to expect."
        )
    expected = memory.expected(stride)
    return np.where(absent[:, None], expected, observations).astype(np.float32)
