"""Bootstrap draws of runs and of their episodes, in blocks of bounded memory.

The data are crossed, not nested: the runs of a task (one training seed each) meet the same starts,
so that an easy start is easy for all of them. Drawing each run's episodes apart would take that
common part for noise that averages out over runs, and drawing runs alone would leave it out; both
give intervals that are too narrow. So runs and episodes are drawn each for themselves, and every
drawn run has the same drawn episodes. Source: Owen, "The pigeonhole bootstrap", Annals of Applied
Statistics 1(2), 2007, where it is shown to err on the side of caution.
"""

from collections.abc import Iterator, Sequence

import numpy as np
from jaxtyping import Float, Int

_BLOCK = 1_000_000  # numbers held at a time: 8 MB


def blocks(resamples: int, width: int) -> Iterator[int]:
    """Yield how many resamples to draw at a time, where each holds `width` numbers."""
    most = max(1, _BLOCK // max(1, width))
    for first in range(0, resamples, most):
        yield min(most, resamples - first)


def draws(rng: np.random.Generator, rows: int, count: int) -> Int[np.ndarray, "rows count"]:
    """`count` indices below `count` for each resample, with replacement."""
    return rng.integers(count, size=(rows, count))


def means_of_episodes(
    runs: Float[np.ndarray, "runs episodes"], episodes: Int[np.ndarray, "rows episodes"]
) -> Float[np.ndarray, "rows runs"]:
    """The mean of each run over the same drawn episodes that have a value.

    Episodes without one are NaN, and so is the mean of a draw of nothing else.
    """
    count = runs.shape[1]
    flat = (np.arange(len(episodes))[:, None] * count + episodes).ravel()
    times = np.bincount(flat, minlength=len(episodes) * count).reshape(len(episodes), count)
    there = np.isfinite(runs)
    if there.all():
        return np.asarray(times @ runs.T / count)
    with np.errstate(invalid="ignore"):
        return np.asarray(times @ np.where(there, runs, 0.0).T / (times @ there.T))


def drawn_means(
    runs: Sequence[Float[np.ndarray, " episodes"]],
    which: Int[np.ndarray, "rows runs"],
    rng: np.random.Generator,
    *,
    shared: bool,
) -> Float[np.ndarray, "rows runs"]:
    """The mean of every drawn run over drawn episodes.

    Args:
        runs: scores of each run's episodes.
        which: the runs that were drawn.
        rng: draws the episodes.
        shared: whether the runs met the same starts, row for row: then one draw of episodes serves
            them all, else each drawn run has its own.
    """
    if shared:
        matrix = np.stack(runs)
        means = means_of_episodes(matrix, draws(rng, len(which), matrix.shape[1]))
        return np.take_along_axis(means, which, axis=1)
    found = np.empty(which.shape)
    for number, run in enumerate(runs):
        chosen = which == number
        scores = run[np.isfinite(run)]
        episodes = rng.integers(len(scores), size=(int(chosen.sum()), len(scores)))
        found[chosen] = scores[episodes].mean(axis=1)
    return found
