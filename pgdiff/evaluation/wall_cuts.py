"""How near the straight legs of plans come to a wall."""

from collections.abc import Callable

import numpy as np
from jaxtyping import Float

from pgdiff.data import Episodes
from pgdiff.data.transitions import rows_of

Clearance = Callable[[np.ndarray], np.ndarray]
"""Distance of each position `[..., 2]` to the nearest wall; 0 inside one."""
Positions = Float[np.ndarray, "plans tokens 2"]

SPACING = 0.02
QUANTILE = 0.001
_ROWS = 200_000
"""Most rows of a recording of which the clearance is taken."""


def recorded_clearance(
    episodes: Episodes,
    clearance: Clearance,
    *,
    position: tuple[int, ...],
    quantile: float = QUANTILE,
    seed: int = 0,
) -> float:
    """Return the clearance that this share of a recording's rows does not exceed.

    Args:
        episodes: the recording.
        clearance: of the environment.
        position: features of an observation that are a place.
        quantile: the share.
        seed: of the rows that are drawn, where a recording has more than 200,000.
    """
    rows = rows_of(episodes)
    if len(rows) > _ROWS:
        rows = np.sort(np.random.default_rng(seed).choice(rows, _ROWS, replace=False))
    places = np.asarray(episodes.observations[rows], np.float64)[:, list(position)]
    return float(np.quantile(clearance(places), quantile))


def leg_clearances(
    waypoints: Positions, clearance: Clearance, *, spacing: float = SPACING
) -> Float[np.ndarray, "plans legs"]:
    """Return the least clearance of the points of each leg.

    Args:
        waypoints: positions of the way-points.
        clearance: of the environment.
        spacing: greatest distance between neighbouring points of a leg; both of its ends count.
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
