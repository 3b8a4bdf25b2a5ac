"""Any statistic of independent rows with its percentile bootstrap interval."""

from collections.abc import Callable

import numpy as np
from jaxtyping import Float

from pgdiff.evaluation.aggregates import Estimate, estimate
from pgdiff.evaluation.resampling import blocks, draws

LEVEL = 0.95


def estimated(
    values: Float[np.ndarray, "rows ..."],
    statistic: Callable[[np.ndarray], np.ndarray],
    *,
    level: float = LEVEL,
    resamples: int = 2000,
    seed: int = 0,
) -> Estimate:
    """Return a statistic of rows and the interval of its values over resampled rows.

    Args:
        values: at least one row.
        statistic: from `[draws, rows, *columns]` to `[draws]`.
        level: share of repeated experiments whose interval should hold the true value.
        resamples: how often the rows are drawn, with replacement.
        seed: of the draws.
    """
    rng = np.random.default_rng(seed)
    drawn = [
        statistic(values[draws(rng, rows, len(values))]) for rows in blocks(resamples, values.size)
    ]
    return estimate(float(statistic(values[None])[0]), np.concatenate(drawn), level)


def mean_of(values: Float[np.ndarray, " rows"]) -> Estimate:
    """Return the mean of rows with its interval."""
    return estimated(values, lambda drawn: drawn.mean(axis=1))


def median_of(values: Float[np.ndarray, " rows"]) -> Estimate:
    """Return the median of rows with its interval."""
    return estimated(values, lambda drawn: np.median(drawn, axis=1))
