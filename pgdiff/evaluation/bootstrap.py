"""Percentile bootstrap of a mean over episodes.

Source: Efron, "Bootstrap methods: another look at the jackknife", Annals of Statistics 7, 1979;
Efron and Tibshirani, "An Introduction to the Bootstrap", 1993, chapter 13 (percentile intervals).
"""

import numpy as np
import numpy.typing as npt
from jaxtyping import Float

from pgdiff.validation import PgdiffError, check_positive_int, check_range

# Resamples are drawn in blocks of about this many indices: 8 MiB each, whatever the episode count.
_BLOCK = 1_000_000


def interval(
    values: npt.ArrayLike, *, level: float = 0.95, resamples: int = 10_000, seed: int = 0
) -> tuple[float, float]:
    """Return the percentile bootstrap interval of the mean of `values`.

    With few values (below about 20) the interval is too narrow, as every percentile bootstrap is.

    Args:
        values: one number per episode, shape [episodes].
        level: the share of repeated experiments whose interval should hold the true mean, between
            0 and 1.
        resamples: how often the episodes are drawn anew, with replacement.
        seed: seed of the draws.

    Returns:
        The interval's lower and upper end, in the units of `values`.

    Raises:
        PgdiffError: if `values` is empty, not one-dimensional or not finite.
    """
    sample = _checked("values", values)
    share = check_range("level", level, low=0.0, high=1.0, open_low=True, open_high=True)
    means = _resampled_means(sample, check_positive_int("resamples", resamples), seed)
    low, high = np.quantile(means, [(1.0 - share) / 2.0, (1.0 + share) / 2.0])
    return float(low), float(high)


def paired_difference(
    a: npt.ArrayLike,
    b: npt.ArrayLike,
    *,
    level: float = 0.95,
    resamples: int = 10_000,
    seed: int = 0,
) -> tuple[float, float, float]:
    """Return the mean of `a - b` and its bootstrap interval, pairing the episodes.

    Two evaluations with the same seeds meet the same starts, so that the difference within each
    pair is free of the starts' own spread.

    Args:
        a: one number per episode, shape [episodes].
        b: the other agent's numbers on the same episodes, shape [episodes].
        level: as in `interval`.
        resamples: as in `interval`.
        seed: as in `interval`.

    Returns:
        The mean difference, and the interval's lower and upper end.

    Raises:
        PgdiffError: as `interval` does, or if the lengths differ.
    """
    first, second = _checked("a", a), _checked("b", b)
    if first.shape != second.shape:
        raise PgdiffError(
            f"`a` and `b` must hold the same episodes. Got {len(first)} and {len(second)} values."
        )
    difference = first - second
    low, high = interval(difference, level=level, resamples=resamples, seed=seed)
    return float(difference.mean()), low, high


def _checked(name: str, values: npt.ArrayLike) -> Float[np.ndarray, " episodes"]:
    sample = np.asarray(values, dtype=np.float64)
    if sample.ndim != 1 or len(sample) == 0:
        raise PgdiffError(
            f"`{name}` must be a list of one number per episode. Got shape {sample.shape}."
        )
    if not np.isfinite(sample).all():
        row = int(np.flatnonzero(~np.isfinite(sample))[0])
        raise PgdiffError(f"`{name}` must be finite. Got {sample[row]} in row {row}.")
    return sample


def _resampled_means(
    sample: Float[np.ndarray, " episodes"], resamples: int, seed: int
) -> Float[np.ndarray, " resamples"]:
    rng = np.random.default_rng(seed)
    count = len(sample)
    block = max(1, _BLOCK // count)
    means = np.empty(resamples)
    for first in range(0, resamples, block):
        rows = min(block, resamples - first)
        means[first : first + rows] = sample[rng.integers(count, size=(rows, count))].mean(axis=1)
    return means
