"""What a recording's fields and episodes are like, in numbers, block by block."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from pgdiff.data.episodes import Episodes

_BLOCK_ROWS = 65_536


@dataclass(frozen=True, eq=False)
class FieldStatistics:
    """The values of one field, feature by feature.

    Attributes:
        shape: of the array.
        low: lowest value of each feature.
        high: highest.
        mean: of all rows.
        std: standard deviation over all rows.
    """

    shape: tuple[int, ...]
    low: Float[np.ndarray, " features"]
    high: Float[np.ndarray, " features"]
    mean: Float[np.ndarray, " features"]
    std: Float[np.ndarray, " features"]

    @property
    def constant(self) -> list[int]:
        """Features that have one value only."""
        return [int(feature) for feature in np.flatnonzero(self.low == self.high)]


def field_statistics(values: np.ndarray) -> FieldStatistics:
    """Describe a field; memory stays bounded however many rows there are.

    Args:
        values: `[steps]` or `[steps, features]`, with at least one row.
    """
    rows = values.reshape(len(values), -1)
    low, high = rows[0].astype(np.float64), rows[0].astype(np.float64)
    count, mean, square = 0, np.zeros(rows.shape[1]), np.zeros(rows.shape[1])
    for first in range(0, len(rows), _BLOCK_ROWS):
        block = rows[first : first + _BLOCK_ROWS].astype(np.float64)
        low, high = np.minimum(low, block.min(axis=0)), np.maximum(high, block.max(axis=0))
        # Chan, Golub and LeVeque 1979, eq. 1.5: joins mean and squared deviations of blocks.
        block_mean = block.mean(axis=0)
        step = block_mean - mean
        square += ((block - block_mean) ** 2).sum(axis=0)
        square += step**2 * (count * len(block) / (count + len(block)))
        mean = mean + step * (len(block) / (count + len(block)))
        count += len(block)
    return FieldStatistics(values.shape, low, high, mean, np.sqrt(square / count))


def episode_returns(episodes: Episodes) -> Float[np.ndarray, " episodes"]:
    """The undiscounted return of each episode."""
    bounds = zip(episodes.starts, episodes.ends, strict=True)
    return np.array([episodes.rewards[a:b].sum(dtype=np.float64) for a, b in bounds])
