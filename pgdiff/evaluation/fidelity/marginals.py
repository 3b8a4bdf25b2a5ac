"""Marginal distributions and correlations of the features of generated rows."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

Rows = Float[np.ndarray, "rows features"]


@dataclass(frozen=True)
class Marginals:
    """Differences of two sets of rows, feature by feature.

    Attributes:
        kolmogorov_smirnov: `[features]`, greatest difference of the distribution functions.
        wasserstein: `[features]`, Wasserstein-1 distance, in standard deviations of the first set.
        correlation: greatest difference of a correlation between two features.
    """

    kolmogorov_smirnov: Float[np.ndarray, " features"]
    wasserstein: Float[np.ndarray, " features"]
    correlation: float


def marginals(real: Rows, generated: Rows) -> Marginals:
    """Compare the marginal distributions and correlations of two sets of rows."""
    pairs = list(zip(real.T, generated.T, strict=True))
    return Marginals(
        kolmogorov_smirnov=np.array([_kolmogorov_smirnov(a, b) for a, b in pairs]),
        wasserstein=np.array([_wasserstein(a, b) for a, b in pairs]),
        correlation=float(np.abs(_correlations(real) - _correlations(generated)).max()),
    )


def _kolmogorov_smirnov(one: np.ndarray, other: np.ndarray) -> float:
    one, other = np.sort(one), np.sort(other)
    places = np.concatenate([one, other])
    shares = [np.searchsorted(x, places, side="right") / len(x) for x in (one, other)]
    return float(np.abs(shares[0] - shares[1]).max())


def _wasserstein(one: np.ndarray, other: np.ndarray) -> float:
    # Difference of the quantile functions at the midpoints of 1,000 equal shares.
    shares = (np.arange(1000) + 0.5) / 1000
    spread = float(np.std(one)) or 1.0
    return float(np.abs(np.quantile(one, shares) - np.quantile(other, shares)).mean() / spread)


def _correlations(rows: np.ndarray) -> np.ndarray:
    x = np.asarray(rows, np.float64)
    x = x - x.mean(axis=0)
    size = np.sqrt((x**2).sum(axis=0))
    x = x / np.where(size > 0, size, 1.0)
    result: np.ndarray = x.T @ x
    return result
