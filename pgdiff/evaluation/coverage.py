"""How well generated rows fill the real ones' space, and whether they copy them."""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float

from pgdiff.data import Episodes
from pgdiff.data.transitions import TransitionDataset
from pgdiff.validation import PgdiffError, check_positive_int, check_range, check_seed

_BLOCK = 4096
Rows = Float[np.ndarray, "rows features"]


@dataclass(frozen=True)
class Space:
    """The features in which rows are compared: observation, action, reward, next observation.

    Each is standardised by a real recording; a feature that does not change there has scale 1. Rows
    that a terminal ends are left out: nothing is known of what follows.

    Attributes:
        center: `[features]`.
        scale: `[features]`.
    """

    center: Float[np.ndarray, " features"]
    scale: Float[np.ndarray, " features"]

    @classmethod
    def fit(cls, real: Episodes, *, rows: int = 100_000, seed: int = 0) -> "Space":
        """Standardise by some rows of a real recording."""
        drawn = _drawn(real, rows=rows, seed=seed).astype(np.float64)
        scale = drawn.std(axis=0)
        return cls(drawn.mean(axis=0), np.where(scale > 0, scale, 1.0))

    def rows(self, episodes: Episodes, *, rows: int, seed: int = 0) -> Rows:
        """Draw rows of a recording, without repetition, as points of this space.

        Args:
            episodes: of the same features.
            rows: at most.
            seed: of the draw.

        Raises:
            PgdiffError: a recording of other features, or of none that goes on.
        """
        drawn = _drawn(episodes, rows=rows, seed=seed)
        if drawn.shape[1] != len(self.center):
            raise PgdiffError(
                f"The recordings must be of one task: {len(self.center)} features of a row. "
                f"Got {drawn.shape[1]}."
            )
        standard: Rows = ((drawn - self.center) / self.scale).astype(np.float32)
        return standard


@dataclass(frozen=True)
class Coverage:
    """Naeem et al. (2020), density and coverage; Kynkaanniemi et al. (2019), precision and recall.

    Attributes:
        density: mean number of real neighbourhoods that a generated row lies in, over k; 1 for the
            real law, above 1 where generated rows keep to the densest places.
        coverage: share of the real neighbourhoods that hold a generated row.
        precision: share of the generated rows within a real neighbourhood.
        recall: share of the real rows within a generated neighbourhood.
    """

    density: float
    coverage: float
    precision: float
    recall: float


def coverage(real: Rows, generated: Rows, *, neighbours: int = 5) -> Coverage:
    """Compare two sets of points by their balls up to the k-th nearest point of the same set.

    Args:
        real: points, at least `neighbours` + 1.
        generated: points, likewise.
        neighbours: k.

    Raises:
        PgdiffError: too few points.
    """
    check_positive_int("neighbours", neighbours)
    for name, points in (("real", real), ("generated", generated)):
        if len(points) <= neighbours:
            raise PgdiffError(
                f"`{name}` must hold more than {neighbours} points. Got {len(points)}."
            )
    one, other = torch.as_tensor(real), torch.as_tensor(generated)
    radius, own = _radius(one, neighbours), _radius(other, neighbours)
    inside = torch.zeros(len(other))
    held = torch.zeros(len(one), dtype=torch.bool)
    recalled = torch.zeros(len(one), dtype=torch.bool)
    for first in range(0, len(one), _BLOCK):
        block = slice(first, first + _BLOCK)
        distance = torch.cdist(one[block], other)
        within = distance <= radius[block, None]
        inside += within.sum(dim=0)
        held[block] = within.any(dim=1)
        recalled[block] = (distance <= own).any(dim=1)
    return Coverage(
        density=float(inside.mean() / neighbours),
        coverage=float(held.float().mean()),
        precision=float((inside > 0).float().mean()),
        recall=float(recalled.float().mean()),
    )


@dataclass(frozen=True)
class Copies:
    """How many generated rows lie as near to a training row as hardly any held-out row does.

    Attributes:
        generated: share of the generated rows that do.
        held_out: share of the held-out rows that do, by the choice of the threshold.
        threshold: distance to the nearest training row.
        median: of the generated rows' distances, in units of the held-out rows' median.
    """

    generated: float
    held_out: float
    threshold: float
    median: float


def copies(generated: Rows, training: Rows, held_out: Rows, *, quantile: float = 0.01) -> Copies:
    """Look for copies of training rows.

    Args:
        generated: points.
        training: those that the model has learned from.
        held_out: real points that it has not.
        quantile: share of the held-out rows that are nearer than the threshold.
    """
    check_range("quantile", quantile, low=0.0, high=1.0, open_low=True, open_high=True)
    found, real = nearest(generated, training), nearest(held_out, training)
    threshold = float(np.quantile(real, quantile))
    return Copies(
        generated=float((found <= threshold).mean()),
        held_out=float((real <= threshold).mean()),
        threshold=threshold,
        median=float(np.median(found) / max(np.median(real), 1e-12)),
    )


def nearest(points: Rows, among: Rows) -> Float[np.ndarray, " rows"]:
    """Distance of each point to the nearest of the others."""
    one, other = torch.as_tensor(points), torch.as_tensor(among)
    least = torch.full((len(one),), float("inf"))
    for first in range(0, len(other), _BLOCK):
        least = torch.minimum(least, torch.cdist(one, other[first : first + _BLOCK]).amin(dim=1))
    result: np.ndarray = least.numpy()
    return result


def _radius(points: torch.Tensor, neighbours: int) -> torch.Tensor:
    parts = []
    for first in range(0, len(points), _BLOCK):
        distance = torch.cdist(points[first : first + _BLOCK], points)
        # A point is its own nearest, whatever the rounding says.
        rows = torch.arange(len(distance))
        distance[rows, rows + first] = -1.0
        parts.append(distance.kthvalue(neighbours + 1, dim=1).values)
    return torch.cat(parts)


def _drawn(episodes: Episodes, *, rows: int, seed: int) -> Rows:
    check_positive_int("rows", rows)
    data = TransitionDataset(episodes)
    going = np.flatnonzero(data.ongoing)
    if not len(going):
        raise PgdiffError("A recording must hold a transition that goes on. Got none.")
    source = np.random.default_rng(check_seed("seed", seed))
    chosen = np.sort(source.permutation(going)[:rows])
    batch = data.batch(chosen)
    return np.concatenate(
        [
            batch.observation[:, 0],
            batch.action[:, 0],
            batch.reward,
            batch.next_observation[:, 0],
        ],
        axis=1,
    )
