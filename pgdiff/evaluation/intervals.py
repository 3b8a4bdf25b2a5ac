"""Statistics of independent rows with percentile bootstrap intervals."""

from collections.abc import Callable

import numpy as np
from jaxtyping import Float

from pgdiff.evaluation.aggregates import Estimate, percentile_estimate
from pgdiff.evaluation.bootstrap import block_sizes, draw_indices

LEVEL = 0.95


def bootstrap_estimate(
    values: Float[np.ndarray, "rows ..."],
    statistic: Callable[[np.ndarray], np.ndarray],
    *,
    level: float = LEVEL,
    resamples: int = 2000,
    seed: int = 0,
) -> Estimate:
    """Return a statistic of rows with its percentile bootstrap interval.

    Args:
        values: at least one row.
        statistic: maps `[resamples, rows, *columns]` to `[resamples]`.
        level: nominal coverage of the interval.
        resamples: number of bootstrap resamples.
        seed: seed of the bootstrap.
    """
    rng = np.random.default_rng(seed)
    drawn = [
        statistic(values[draw_indices(rng, rows, len(values))])
        for rows in block_sizes(resamples, values.size)
    ]
    return percentile_estimate(float(statistic(values[None])[0]), np.concatenate(drawn), level)


def estimate_mean(values: Float[np.ndarray, " rows"]) -> Estimate:
    """Return the mean of `values` with its interval."""
    return bootstrap_estimate(values, lambda drawn: drawn.mean(axis=1))


def estimate_median(values: Float[np.ndarray, " rows"]) -> Estimate:
    """Return the median of `values` with its interval."""
    return bootstrap_estimate(values, lambda drawn: np.median(drawn, axis=1))
