"""Density, coverage, precision and recall of generated rows, and copies of training rows."""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float

from pgdiff.core.validation import PgdiffError, check_positive_int, check_range, check_seed
from pgdiff.data import Episodes
from pgdiff.data.transitions import TransitionDataset

_BLOCK = 4096
Rows = Float[np.ndarray, "rows features"]


@dataclass(frozen=True)
class Space:
    """Standardised features of rows: observation, action, reward, next observation.

    Features are standardised by a real recording; a feature that is constant there has scale 1.
    Terminal rows are left out, because they have no next observation.

    Attributes:
        center: mean of each feature, `[features]`.
        scale: standard deviation of each feature, `[features]`.
    """

    center: Float[np.ndarray, " features"]
    scale: Float[np.ndarray, " features"]

    @classmethod
    def fit(cls, real: Episodes, *, rows: int = 100_000, seed: int = 0) -> "Space":
        """Compute mean and standard deviation from random rows of a real recording."""
        drawn = _draw_rows(real, rows=rows, seed=seed).astype(np.float64)
        scale = drawn.std(axis=0)
        return cls(drawn.mean(axis=0), np.where(scale > 0, scale, 1.0))

    def rows(self, episodes: Episodes, *, rows: int, seed: int = 0) -> Rows:
        """Draw rows of a recording without replacement, as points of this space.

        Args:
            episodes: a recording with the same features.
            rows: maximum number of rows.
            seed: seed of the draw.

        Raises:
            PgdiffError: if the recording has other features, or only terminal rows.
        """
        drawn = _draw_rows(episodes, rows=rows, seed=seed)
        if drawn.shape[1] != len(self.center):
            raise PgdiffError(
                f"The recordings must be of one task, with {len(self.center)} features per row. "
                f"Got {drawn.shape[1]} features."
            )
        standard: Rows = ((drawn - self.center) / self.scale).astype(np.float32)
        return standard


@dataclass(frozen=True)
class Coverage:
    """Naeem et al. (2020), density and coverage; Kynkaanniemi et al. (2019), precision and recall.

    Attributes:
        density: mean number of real neighbourhoods that contain a generated row, divided by k. It
            is 1 for rows from the real distribution, and above 1 for rows in its densest regions.
        coverage: share of the real neighbourhoods that contain a generated row.
        precision: share of the generated rows within a real neighbourhood.
        recall: share of the real rows within a generated neighbourhood.
    """

    density: float
    coverage: float
    precision: float
    recall: float


def coverage(real: Rows, generated: Rows, *, neighbours: int = 5) -> Coverage:
    """Compute density, coverage, precision and recall of generated points.

    The neighbourhood of a point is the ball up to the k-th nearest point of the same set.

    Args:
        real: more than `neighbours` points.
        generated: more than `neighbours` points.
        neighbours: k; larger values give larger neighbourhoods.

    Raises:
        PgdiffError: if there are too few points.
    """
    check_positive_int("neighbours", neighbours)
    for name, points in (("real", real), ("generated", generated)):
        if len(points) <= neighbours:
            raise PgdiffError(
                f"`{name}` must hold more than {neighbours} points. Got {len(points)}. Pass more "
                "points, or a smaller number of `neighbours`."
            )
    reals, others = torch.as_tensor(real), torch.as_tensor(generated)
    radius, other_radius = _radius(reals, neighbours), _radius(others, neighbours)
    inside = torch.zeros(len(others))
    covered = torch.zeros(len(reals), dtype=torch.bool)
    recalled = torch.zeros(len(reals), dtype=torch.bool)
    for first in range(0, len(reals), _BLOCK):
        block = slice(first, first + _BLOCK)
        distance = torch.cdist(reals[block], others)
        within = distance <= radius[block, None]
        inside += within.sum(dim=0)
        covered[block] = within.any(dim=1)
        recalled[block] = (distance <= other_radius).any(dim=1)
    return Coverage(
        density=float(inside.mean() / neighbours),
        coverage=float(covered.float().mean()),
        precision=float((inside > 0).float().mean()),
        recall=float(recalled.float().mean()),
    )


@dataclass(frozen=True)
class Copies:
    """Shares of rows that are closer to a training row than nearly all held-out rows are.

    Attributes:
        generated: share of the generated rows within the threshold.
        held_out: share of the held-out rows within the threshold, about `quantile`.
        threshold: distance to the nearest training row that counts as a copy.
        median: median distance of the generated rows, divided by the median of the held-out rows.
    """

    generated: float
    held_out: float
    threshold: float
    median: float


def find_copies(
    generated: Rows, training: Rows, held_out: Rows, *, quantile: float = 0.01
) -> Copies:
    """Compute the share of generated points that are copies of training points.

    Args:
        generated: generated points.
        training: points that the model was trained on.
        held_out: real points that it was not trained on.
        quantile: share of the held-out points within the threshold; larger values raise it.
    """
    check_range("quantile", quantile, low=0.0, high=1.0, open_low=True, open_high=True)
    distances = nearest_distances(generated, training)
    real = nearest_distances(held_out, training)
    threshold = float(np.quantile(real, quantile))
    return Copies(
        generated=float((distances <= threshold).mean()),
        held_out=float((real <= threshold).mean()),
        threshold=threshold,
        median=float(np.median(distances) / max(np.median(real), 1e-12)),
    )


def nearest_distances(points: Rows, among: Rows) -> Float[np.ndarray, " rows"]:
    """Return the distance of each point to the nearest point of `among`."""
    queries, others = torch.as_tensor(points), torch.as_tensor(among)
    least = torch.full((len(queries),), float("inf"))
    for first in range(0, len(others), _BLOCK):
        distance = torch.cdist(queries, others[first : first + _BLOCK])
        least = torch.minimum(least, distance.amin(dim=1))
    result: np.ndarray = least.numpy()
    return result


def _radius(points: torch.Tensor, neighbours: int) -> torch.Tensor:
    parts = []
    for first in range(0, len(points), _BLOCK):
        distance = torch.cdist(points[first : first + _BLOCK], points)
        # The distance of a point to itself must be the smallest despite rounding.
        rows = torch.arange(len(distance))
        distance[rows, rows + first] = -1.0
        parts.append(distance.kthvalue(neighbours + 1, dim=1).values)
    return torch.cat(parts)


def _draw_rows(episodes: Episodes, *, rows: int, seed: int) -> Rows:
    check_positive_int("rows", rows)
    data = TransitionDataset(episodes)
    ongoing = np.flatnonzero(data.ongoing)
    if not len(ongoing):
        raise PgdiffError("A recording must hold at least one row that is not terminal. Got none.")
    source = np.random.default_rng(check_seed("seed", seed))
    chosen = np.sort(source.permutation(ongoing)[:rows])
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
