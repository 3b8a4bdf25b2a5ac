"""Where recorded experience has been, and how fast it went there."""

from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from pgdiff.plotting.canvas import (
    COLOURS,
    MAP,
    PathLike,
    colour_bar,
    heading,
    new_figure,
    save_png,
    tidy,
)
from pgdiff.plotting.scene import draw_place, positions
from pgdiff.validation import check_positive_int, require


def coverage_picture(
    observations: Float[np.ndarray, "steps obs"],
    path: PathLike,
    *,
    env: Any = None,
    position: tuple[int, int] = (0, 1),
    velocity: tuple[int, int] | None = (2, 3),
    bins: int = 80,
    title: str = "Recorded experience",
) -> Path:
    """Write how often every place was visited, and a histogram of speed beside it.

    Args:
        observations: recorded observations, shape [steps, obs].
        path: the PNG to write.
        env: draws its background where it can.
        position: which two features are the place.
        velocity: which two features are the velocity, or None for no histogram of speed.
        bins: cells of the two-dimensional histogram along its longer side.
        title: stands above the picture.
    """
    check_positive_int("bins", bins)
    places = positions("observations", observations, position)
    figure = new_figure(9.0 if velocity is not None else 5.0, 4.3)
    grid = figure.add_gridspec(
        1, 2 if velocity else 1, width_ratios=[1.6, 1] if velocity else [1], wspace=0.12
    )
    left = figure.add_subplot(grid[0])
    draw_place(left, env, places)
    low, high = places.min(axis=0), places.max(axis=0)
    cell = max(float((high - low).max()), 1e-6) / bins
    edges = [np.arange(low[i], high[i] + 2 * cell, cell) for i in range(2)]
    counts, _, _ = np.histogram2d(places[:, 0], places[:, 1], bins=edges)
    # Visits differ by orders of magnitude between corridors and corners; empty cells stay clear.
    mesh = left.pcolormesh(
        *edges,
        np.ma.masked_equal(counts.T, 0),
        norm=require("matplotlib.colors", extra="viz").LogNorm(1, max(counts.max(), 2)),
        cmap=MAP,
        zorder=4,
        rasterized=True,
    )
    colour_bar(figure, mesh, left, "visits per cell")
    heading(left, f"{title}: {len(places):,} steps")
    if velocity is not None:
        speeds = np.linalg.norm(positions("observations", observations, velocity), axis=-1)
        right = figure.add_subplot(grid[1])
        right.hist(
            speeds, bins=50, color=COLOURS[0], weights=np.full(len(speeds), 100 / len(speeds))
        )
        right.axvline(float(np.median(speeds)), color=COLOURS[1], linewidth=1.6)
        right.annotate(
            f"median {np.median(speeds):.2f}",
            (float(np.median(speeds)), 1.0),
            xycoords=("data", "axes fraction"),
            xytext=(5, -4),
            textcoords="offset points",
            va="top",
            color=COLOURS[1],
            fontsize=9,
        )
        tidy(right, x="speed", y="% of steps")
        heading(right, "How fast")
        right.margins(x=0)
    return save_png(figure, path)
