"""Clearances of the straight legs of plans from walls."""

from collections.abc import Callable

import numpy as np
from jaxtyping import Float

from pgdiff.data import Episodes
from pgdiff.data.transitions import rows_of

Clearance = Callable[[np.ndarray], np.ndarray]
"""Returns the distance of each position `[..., 2]` to the nearest wall; 0 inside a wall."""
Positions = Float[np.ndarray, "plans tokens 2"]

SPACING = 0.02
QUANTILE = 0.001
_ROWS = 200_000
"""Maximum number of rows of a recording whose clearance is computed."""


def recorded_clearance(
    episodes: Episodes,
    clearance: Clearance,
    *,
    position: tuple[int, ...],
    quantile: float = QUANTILE,
    seed: int = 0,
) -> float:
    """Return a quantile of the clearances of a recording's rows.

    Args:
        episodes: the recording.
        clearance: the environment's clearance.
        position: features of an observation that are a position.
        quantile: the quantile, in [0, 1].
        seed: seed of the row sample, for a recording with more than 200,000 rows.
    """
    rows = rows_of(episodes)
    if len(rows) > _ROWS:
        rows = np.sort(np.random.default_rng(seed).choice(rows, _ROWS, replace=False))
    places = np.asarray(episodes.observations[rows], np.float64)[:, list(position)]
    return float(np.quantile(clearance(places), quantile))


def leg_clearances(
    waypoints: Positions, clearance: Clearance, *, spacing: float = SPACING
) -> Float[np.ndarray, "plans legs"]:
    """Return the smallest clearance along each leg.

    Args:
        waypoints: positions of the way-points.
        clearance: the environment's clearance.
        spacing: greatest distance between neighbouring points of a leg, both ends included; larger
            values may miss thin walls.
    """
    starts, ends = waypoints[:, :-1].reshape(-1, 2), waypoints[:, 1:].reshape(-1, 2)
    steps = np.ceil(np.linalg.norm(ends - starts, axis=-1) / spacing).astype(np.int64)
    counts = np.maximum(steps, 1) + 1
    leg = np.repeat(np.arange(len(counts)), counts)
    first = np.concatenate([[0], np.cumsum(counts)[:-1]])
    share = (np.arange(len(leg)) - first[leg]) / (counts[leg] - 1)
    points = starts[leg] + share[:, None] * (ends[leg] - starts[leg])
    least = np.minimum.reduceat(np.asarray(clearance(points), np.float64), first)
    return np.asarray(least.reshape(len(waypoints), -1))
