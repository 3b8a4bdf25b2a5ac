"""Picture of the positions and speeds in recorded experience."""

from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from pgdiff.core.validation import check_positive_int, require
from pgdiff.plotting.canvas import (
    COLOURS,
    MAP,
    PathLike,
    caption,
    colour_bar,
    heading,
    new_figure,
    save_png,
    style_axes,
)
from pgdiff.plotting.names import observation_names
from pgdiff.plotting.scene import positions
from pgdiff.plotting.views import Features, View, views

_PANELS = 24  # default number of features


def coverage_picture(
    observations: Float[np.ndarray, "steps obs"],
    path: PathLike,
    *,
    env: Any = None,
    position: tuple[int, int] | None = None,
    velocity: tuple[int, int] | None = (2, 3),
    features: Features | None = None,
    bins: int = 80,
    title: str = "Recorded experience",
) -> Path:
    """Write a map of the visited positions, with a histogram of speed.

    For a task without a position, write a histogram of each feature instead.

    Args:
        observations: recorded observations, shape [steps, obs].
        path: the PNG to write.
        env: environment for background and feature names; see `views`.
        position: indices of the two position features; see `views`.
        velocity: indices of the two velocity features; None for no histogram of speed.
        features: indices or names of features whose histograms replace the map.
        bins: cells of the map along its longer side; larger values give smaller cells.
        title: title of the picture.

    Raises:
        PgdiffError: if the observation does not have a position or feature.

    Example:
        >>> from tempfile import mkdtemp
        >>> from pgdiff.plotting import coverage_picture
        >>> from pgdiff.testing import example_episodes
        >>> observations = example_episodes().observations
        >>> coverage_picture(observations, f"{mkdtemp()}/data.png", position=(0, 1)).name
        'data.png'
    """
    check_positive_int("bins", bins)
    size = np.shape(observations)[-1]
    shown = views(env, size, position=position, features=features, most=_PANELS)
    title = f"{title}: {len(observations):,} steps"
    if not shown[0].place:
        return _histograms(np.asarray(observations), shown, path, title)
    places = shown[0].path("observations", observations)
    figure = new_figure(9.0 if velocity is not None else 5.0, 4.3)
    grid = figure.add_gridspec(
        1, 2 if velocity else 1, width_ratios=[1.6, 1] if velocity else [1], wspace=0.12
    )
    left = figure.add_subplot(grid[0])
    shown[0].draw(left, env, places)
    low, high = places.min(axis=0), places.max(axis=0)
    cell = max(float((high - low).max()), 1e-6) / bins
    edges = [np.arange(low[i], high[i] + 2 * cell, cell) for i in range(2)]
    counts, _, _ = np.histogram2d(places[:, 0], places[:, 1], bins=edges)
    # Counts differ by orders of magnitude between corridors and corners; empty cells are clear.
    mesh = left.pcolormesh(
        *edges,
        np.ma.masked_equal(counts.T, 0),
        norm=require("matplotlib.colors", extra="viz").LogNorm(1, max(counts.max(), 2)),
        cmap=MAP,
        zorder=4,
        rasterized=True,
    )
    colour_bar(figure, mesh, left, "visits per cell")
    heading(left, title)
    if velocity is not None:
        names = observation_names(env, size)
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
        style_axes(right, x=f"norm of {' and '.join(names[i] for i in velocity)}", y="% of steps")
        heading(right, "Speed")
        right.margins(x=0)
    return save_png(figure, path)


def _histograms(observations: np.ndarray, shown: list[View], path: PathLike, title: str) -> Path:
    """Write a histogram of each feature."""
    columns = min(4, len(shown))
    rows = -(-len(shown) // columns)
    figure = new_figure(2.6 * columns + 0.4, 1.9 * rows + 0.6)
    panels = figure.subplots(rows, columns, squeeze=False)
    for axes, view in zip(panels.flat, shown, strict=False):
        values = observations[:, view.vertical]
        axes.hist(
            values, bins=50, color=COLOURS[0], weights=np.full(len(values), 100 / len(values))
        )
        style_axes(axes, x=view.names[1], y="% of steps")
    for axes in panels.flat[len(shown) :]:
        axes.set_axis_off()
    left_out = observations.shape[1] - len(shown)
    caption(
        figure, title + (f" ({len(shown)} of {observations.shape[1]} features)" if left_out else "")
    )
    return save_png(figure, path)
