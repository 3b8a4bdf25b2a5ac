"""Percentile bootstrap of a mean over episodes.

Source: Efron, "Bootstrap methods: another look at the jackknife", Annals of Statistics 7, 1979;
Efron and Tibshirani, "An Introduction to the Bootstrap", 1993, chapter 13 (percentile intervals).
"""

from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt
from jaxtyping import Float, Int

from pgdiff.core.validation import PgdiffError, check_positive_int, check_range

_BLOCK = 1_000_000  # numbers in memory at a time: 8 MB


def block_sizes(resamples: int, width: int) -> Iterator[int]:
    """Yield how many resamples to draw at a time if each has `width` numbers."""
    most = max(1, _BLOCK // max(1, width))
    for first in range(0, resamples, most):
        yield min(most, resamples - first)


def draw_indices(rng: np.random.Generator, rows: int, count: int) -> Int[np.ndarray, "rows count"]:
    """Draw `count` indices below `count` with replacement, for each resample."""
    return rng.integers(count, size=(rows, count))


def means_over_episodes(
    runs: Float[np.ndarray, "runs episodes"], episodes: Int[np.ndarray, "rows episodes"]
) -> Float[np.ndarray, "rows runs"]:
    """Return the mean of each run over the same drawn episodes, ignoring NaN.

    The mean is NaN if all drawn episodes of a run are NaN.
    """
    count = runs.shape[1]
    flat = (np.arange(len(episodes))[:, None] * count + episodes).ravel()
    times = np.bincount(flat, minlength=len(episodes) * count).reshape(len(episodes), count)
    finite = np.isfinite(runs)
    if finite.all():
        return np.asarray(times @ runs.T / count)
    with np.errstate(invalid="ignore"):
        return np.asarray(times @ np.where(finite, runs, 0.0).T / (times @ finite.T))


def resample_means(
    runs: Sequence[Float[np.ndarray, " episodes"]],
    which: Int[np.ndarray, "rows runs"],
    rng: np.random.Generator,
    *,
    shared: bool,
) -> Float[np.ndarray, "rows runs"]:
    """Return the mean of every drawn run over resampled episodes.

    Args:
        runs: scores of each run's episodes.
        which: indices of the drawn runs.
        rng: random source for the episodes.
        shared: True if the runs have the same environment seeds, row for row. One draw of episodes
            is then used for all runs; otherwise each drawn run has a separate draw.
    """
    if shared:
        matrix = np.stack(runs)
        means = means_over_episodes(matrix, draw_indices(rng, len(which), matrix.shape[1]))
        return np.take_along_axis(means, which, axis=1)
    means = np.empty(which.shape)
    for number, run in enumerate(runs):
        chosen = which == number
        scores = run[np.isfinite(run)]
        episodes = rng.integers(len(scores), size=(int(chosen.sum()), len(scores)))
        means[chosen] = scores[episodes].mean(axis=1)
    return means


def interval(
    values: npt.ArrayLike, *, level: float = 0.95, resamples: int = 10_000, seed: int = 0
) -> tuple[float, float]:
    """Return the percentile bootstrap interval of the mean of `values`.

    With few values (below about 20) the interval is too narrow, as every percentile bootstrap is.

    Args:
        values: one number per episode, shape [episodes].
        level: nominal coverage, between 0 and 1; larger values widen the interval.
        resamples: number of bootstrap resamples.
        seed: seed of the bootstrap.

    Returns:
        The interval's lower and upper end, in the units of `values`.

    Raises:
        PgdiffError: if `values` is empty, not one-dimensional or not finite.

    Example:
        >>> from pgdiff.evaluation import interval
        >>> interval([3.0, 3.0, 3.0])
        (3.0, 3.0)
        >>> low, high = interval([61.0, 75.0, 88.0, 70.0], level=0.9)
        >>> 61.0 < low < 73.5 < high < 88.0
        True
    """
    sample = _check_sample("values", values)
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
    """Return the mean of `a - b` and its bootstrap interval, with paired episodes.

    Two evaluations with the same seeds have the same initial states. Pairing removes the variation
    between initial states from the difference.

    Args:
        a: one number per episode, shape [episodes].
        b: the other agent's numbers on the same episodes, shape [episodes].
        level: as in `interval`.
        resamples: as in `interval`.
        seed: as in `interval`.

    Returns:
        The mean difference, and the interval's lower and upper end.

    Raises:
        PgdiffError: as `interval`, or if the lengths differ.

    Example:
        >>> from pgdiff.evaluation import paired_difference
        >>> paired_difference([4.0, 7.0, 9.0], [3.0, 6.0, 8.0])
        (1.0, 1.0, 1.0)
    """
    first, second = _check_sample("a", a), _check_sample("b", b)
    if first.shape != second.shape:
        raise PgdiffError(
            f"`a` and `b` must hold the same episodes. Got {len(first)} and {len(second)} values. "
            "Evaluate both with the same seed and number of episodes."
        )
    difference = first - second
    low, high = interval(difference, level=level, resamples=resamples, seed=seed)
    return float(difference.mean()), low, high


def _check_sample(name: str, values: npt.ArrayLike) -> Float[np.ndarray, " episodes"]:
    sample = np.asarray(values, dtype=np.float64)
    if sample.ndim != 1 or len(sample) == 0:
        raise PgdiffError(
            f"`{name}` must be a list with one number per episode. Got shape {sample.shape}."
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
