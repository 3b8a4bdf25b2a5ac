"""A value over the place: what a state is worth, and so where its gradient leads."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Float

from pgdiff.plotting.canvas import (
    INK,
    MAP,
    PathLike,
    colour_bar,
    heading,
    legend,
    new_figure,
    save_png,
)
from pgdiff.plotting.names import observation_names
from pgdiff.plotting.scene import draw_ends, draw_place, goal_of, positions
from pgdiff.validation import PgdiffError, check_positive_int, require

_UNVISITED = "#c9ced6"


def value_picture(
    value: Callable[[Float[np.ndarray, "points obs"]], Any],
    path: PathLike,
    *,
    observation: Sequence[float],
    env: Any = None,
    low: Sequence[float] | None = None,
    high: Sequence[float] | None = None,
    visited: Float[np.ndarray, "steps obs"] | None = None,
    position: tuple[int, int] = (0, 1),
    goal: Any = None,
    points: int = 80,
    label: str = "value",
    title: str = "",
    note: str = "",
) -> Path:
    """Write a value over the place, with all other features held.

    The map lies beneath what the environment draws, so that walls cover it. Cells that no recorded
    state has visited are grey: there the value was never learned. A cross marks the highest value
    of the other cells.

    Args:
        value: from float32 observations [points, obs] to one number each. A value of a goal is
            handed over with the goal filled in.
        path: the PNG to write.
        observation: the features that are held, such as a velocity of 0; those of the place are
            replaced. Shape [obs].
        env: draws its background, gives the extent, and tells its goal where it can.
        low: (x, y) of the lower left corner; the environment's if None.
        high: (x, y) of the upper right corner; the environment's if None.
        visited: recorded observations; without them no cell is grey.
        position: which two features of an observation are the place.
        goal: (x, y) to mark, where the environment does not tell.
        points: of the grid along its longer side.
        label: what the value is, for the colour bar.
        title: stands above the picture.
        note: stands below the picture.

    Raises:
        PgdiffError: no extent, a value that is not one finite number for each observation, or no
            recorded state in the extent.
    """
    check_positive_int("points", points, minimum=2)
    figure = new_figure(5.6, 5.0)
    axes = figure.add_subplot()
    corners = _corners(env, low, high)
    names = observation_names(env, len(observation))
    place = np.zeros((1, 2)) if corners is None else corners
    _check_position(observation, position)
    draw_place(axes, env, place, names=(names[position[0]], names[position[1]]))
    if corners is None:
        x, y = axes.get_xlim(), axes.get_ylim()
        corners = np.array([[x[0], y[0]], [x[1], y[1]]])
    (left, bottom), (right, top) = corners
    step = max(right - left, top - bottom) / points
    xs = np.arange(left + step / 2, right, step)
    ys = np.arange(bottom + step / 2, top, step)
    grid = np.tile(np.asarray(observation, dtype=np.float32), (len(xs) * len(ys), 1))
    grid[:, position[0]] = np.tile(xs, len(ys))
    grid[:, position[1]] = np.repeat(ys, len(xs))
    worth = _worth(value, grid)
    places = grid[:, list(position)]
    hidden = np.zeros(len(grid), dtype=bool)
    if visited is not None:
        hidden = ~_visited(positions("visited", visited, position), xs, ys, step)
    seen = ~hidden & ~_covered(axes, places)
    if not seen.any():
        seen = ~hidden
    least, most = worth[seen].min(), worth[seen].max()
    shape = (len(ys), len(xs))
    drawn = np.ma.masked_array(worth, mask=hidden).reshape(shape)
    shades = require("matplotlib", extra="viz").colormaps[MAP].with_extremes(bad=_UNVISITED)
    mesh = axes.pcolormesh(
        xs, ys, drawn, cmap=shades, vmin=least, vmax=most, zorder=0.5, shading="nearest"
    )
    mesh.set_rasterized(True)
    if most > least:
        _contours(axes, xs, ys, drawn, np.linspace(least, most, 14)[1:-1])
    axes.set_xlim(left, right)
    axes.set_ylim(bottom, top)
    draw_ends(axes, None, goal_of(env, goal))
    highest = places[int(np.argmax(np.where(seen, worth, -np.inf)))]
    axes.scatter(
        highest[0],
        highest[1],
        s=70,
        marker="X",
        color=INK,
        edgecolor="white",
        linewidth=1.0,
        zorder=9,
        label="highest value",
    )
    if hidden.any():
        axes.scatter([], [], s=90, marker="s", color=_UNVISITED, label="no recorded state")
    legend(figure)
    colour_bar(figure, mesh, axes, label)
    heading(axes, title or "Value of a state")
    if note:
        axes.text(
            0.0, -0.02, note, transform=axes.transAxes, va="top", fontsize=8, color=INK, wrap=True
        )
    return save_png(figure, path)


def _check_position(observation: Sequence[float], position: tuple[int, int]) -> None:
    if len(observation) <= max(position):
        raise PgdiffError(
            f"`observation` must hold features {position[0]} and {position[1]}. "
            f"Got {len(observation)} features."
        )


def _worth(value: Callable[[Any], Any], grid: Float[np.ndarray, "points obs"]) -> np.ndarray:
    """Return the value of every point, checked."""
    worth = np.asarray(value(grid), dtype=np.float64)
    if worth.shape != (len(grid),) or not np.isfinite(worth).all():
        raise PgdiffError(
            f"`value` must return one finite number for each of {len(grid)} observations. "
            f"Got shape {worth.shape}."
        )
    return worth


def _visited(
    recorded: Float[np.ndarray, "steps 2"], xs: np.ndarray, ys: np.ndarray, step: float
) -> Bool[np.ndarray, " points"]:
    """Return which cells hold a recorded state, in the order of the grid.

    Raises:
        PgdiffError: none of them does.
    """
    edges = [np.append(centres - step / 2, centres[-1] + step / 2) for centres in (xs, ys)]
    counts, _, _ = np.histogram2d(recorded[:, 0], recorded[:, 1], bins=edges)
    if not counts.any():
        raise PgdiffError(
            "`visited` must hold states within the picture, got none. Give the recording of this "
            "environment."
        )
    return np.asarray(counts.T.ravel() > 0)


def _contours(axes: Any, xs: np.ndarray, ys: np.ndarray, drawn: Any, levels: np.ndarray) -> None:
    axes.contour(
        xs,
        ys,
        drawn,
        levels=levels,
        colors="white",
        linewidths=0.5,
        linestyles="solid",
        alpha=0.6,
        zorder=0.6,
    )


def _covered(axes: Any, points: Float[np.ndarray, "points 2"]) -> Bool[np.ndarray, " points"]:
    """Which points lie beneath something opaque, such as a wall: the colours need not span them."""
    covered = np.zeros(len(points), dtype=bool)
    for patch in axes.patches:
        if patch.get_alpha() in (None, 1):
            shape = patch.get_patch_transform().transform_path(patch.get_path())
            covered |= shape.contains_points(points)
    for collection in axes.collections:
        if collection.get_alpha() in (None, 1) and len(collection.get_facecolor()):
            for shape in collection.get_paths():
                covered |= shape.contains_points(points)
    return covered


def _corners(
    env: Any, low: Sequence[float] | None, high: Sequence[float] | None
) -> np.ndarray | None:
    """The extent that is asked for, or None for the environment's own."""
    if low is None and high is None and hasattr(getattr(env, "unwrapped", env), "draw"):
        return None
    corners = np.array([low, high], dtype=object)
    try:
        corners = corners.astype(np.float64)
    except (TypeError, ValueError):
        corners = np.empty(0)
    if corners.shape != (2, 2) or not (corners[0] < corners[1]).all():
        raise PgdiffError(
            "`low` and `high` must be (x, y) of two corners, where no environment draws itself. "
            f"Got {low!r} and {high!r}."
        )
    return corners
