"""Spearman's rank correlation."""

import numpy as np
from jaxtyping import Float

Values = Float[np.ndarray, " values"]


def rank_correlation(a: Values, b: Values) -> float:
    """Return Spearman's rank correlation; equal values share the mean of their ranks.

    It is NaN where all values of `a` or all of `b` are equal.
    """
    first, second = _ranks(a), _ranks(b)
    first, second = first - first.mean(), second - second.mean()
    size = np.sqrt((first**2).sum() * (second**2).sum())
    return float((first * second).sum() / size) if size > 0 else float("nan")


def _ranks(values: Values) -> Values:
    _, which, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    return np.asarray((last - (counts - 1) / 2.0)[which])
