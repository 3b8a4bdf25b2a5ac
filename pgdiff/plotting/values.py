"""Map of a value over positions."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Float

from pgdiff.core.validation import PgdiffError, check_positive_int, require
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
from pgdiff.plotting.scene import draw_ends, draw_place, positions, resolve_goal

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
    """Write a map of a value over positions, with all other features fixed.

    The environment's walls are drawn over the map. Cells without a recorded state are grey, because
    the value was not trained there. A cross marks the highest value of the other cells.

    Args:
        value: returns one number for each float32 observation [points, obs]. Bind the goal of a
            value that depends on a goal.
        path: the PNG to write.
        observation: values of the fixed features, such as a velocity of 0, shape [obs]. The
            position features are replaced.
        env: environment for background, extent and goal.
        low: (x, y) of the lower left corner; None for the environment's corner.
        high: (x, y) of the upper right corner; None for the environment's corner.
        visited: recorded observations; None for a map without grey cells.
        position: indices of the two position features of an observation.
        goal: (x, y) of the marked goal; None for the environment's goal.
        points: grid points along the longer side; larger values give smaller cells.
        label: name of the value, for the colour bar.
        title: title of the picture.
        note: text below the picture.

    Raises:
        PgdiffError: if the extent is missing, `value` does not return one finite number for each
            observation, or no recorded state lies in the extent.

    Example:
        >>> from tempfile import mkdtemp
        >>> from pgdiff.plotting import value_picture
        >>> value = lambda observations: -np.square(observations[:, :2]).sum(axis=1)
        >>> corners = {"low": (-1.0, -1.0), "high": (1.0, 1.0)}
        >>> value_picture(value, f"{mkdtemp()}/value.png", observation=[0.0] * 4, **corners).name
        'value.png'
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
    grid = _make_grid(observation, position, xs, ys)
    values = _evaluate(value, grid)
    places = grid[:, list(position)]
    hidden = np.zeros(len(grid), dtype=bool)
    if visited is not None:
        hidden = ~_find_visited(positions("visited", visited, position), xs, ys, step)
    shown = ~hidden & ~_find_covered(axes, places)
    if not shown.any():
        shown = ~hidden
    mesh = _draw_values(axes, xs, ys, values, hidden=hidden, shown=shown)
    axes.set_xlim(left, right)
    axes.set_ylim(bottom, top)
    draw_ends(axes, None, resolve_goal(env, goal))
    _mark_highest(axes, places[int(np.argmax(np.where(shown, values, -np.inf)))])
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


def _make_grid(
    observation: Sequence[float], position: tuple[int, int], xs: np.ndarray, ys: np.ndarray
) -> Float[np.ndarray, "points obs"]:
    """Return the observation with its position replaced by every point of a grid, row by row."""
    grid = np.tile(np.asarray(observation, dtype=np.float32), (len(xs) * len(ys), 1))
    grid[:, position[0]] = np.tile(xs, len(ys))
    grid[:, position[1]] = np.repeat(ys, len(xs))
    return grid


def _draw_values(
    axes: Any,
    xs: np.ndarray,
    ys: np.ndarray,
    values: np.ndarray,
    *,
    hidden: Bool[np.ndarray, " points"],
    shown: Bool[np.ndarray, " points"],
) -> Any:
    """Draw the colours and the contours of the values, and return the colour mesh.

    Args:
        axes: axes of the picture.
        xs: x of the grid's columns.
        ys: y of the grid's rows.
        values: value of every point, row by row.
        hidden: True for grey points.
        shown: True for the points whose values set the range of the colours.
    """
    least, most = values[shown].min(), values[shown].max()
    drawn = np.ma.masked_array(values, mask=hidden).reshape((len(ys), len(xs)))
    shades = require("matplotlib", extra="viz").colormaps[MAP].with_extremes(bad=_UNVISITED)
    mesh = axes.pcolormesh(
        xs, ys, drawn, cmap=shades, vmin=least, vmax=most, zorder=0.5, shading="nearest"
    )
    mesh.set_rasterized(True)
    if most > least:
        _contours(axes, xs, ys, drawn, np.linspace(least, most, 14)[1:-1])
    return mesh


def _mark_highest(axes: Any, point: np.ndarray) -> None:
    axes.scatter(
        point[0],
        point[1],
        s=70,
        marker="X",
        color=INK,
        edgecolor="white",
        linewidth=1.0,
        zorder=9,
        label="highest value",
    )


def _check_position(observation: Sequence[float], position: tuple[int, int]) -> None:
    if len(observation) <= max(position):
        raise PgdiffError(
            f"`observation` must contain the position features {position[0]} and {position[1]}. "
            f"Got {len(observation)} features."
        )


def _evaluate(value: Callable[[Any], Any], grid: Float[np.ndarray, "points obs"]) -> np.ndarray:
    """Return the value of every point; raise unless all are finite numbers."""
    values = np.asarray(value(grid), dtype=np.float64)
    if values.shape != (len(grid),) or not np.isfinite(values).all():
        raise PgdiffError(
            f"`value` must return one finite number for each of {len(grid)} observations. "
            f"Got shape {values.shape} with {int((~np.isfinite(values)).sum())} values that are "
            "not finite."
        )
    return values


def _find_visited(
    recorded: Float[np.ndarray, "steps 2"], xs: np.ndarray, ys: np.ndarray, step: float
) -> Bool[np.ndarray, " points"]:
    """Return True for each grid cell with a recorded state.

    Raises:
        PgdiffError: if no cell has a recorded state.
    """
    edges = [np.append(centres - step / 2, centres[-1] + step / 2) for centres in (xs, ys)]
    counts, _, _ = np.histogram2d(recorded[:, 0], recorded[:, 1], bins=edges)
    if not counts.any():
        raise PgdiffError(
            "`visited` must hold states within the picture, got none. Pass a recording of this "
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


def _find_covered(axes: Any, points: Float[np.ndarray, "points 2"]) -> Bool[np.ndarray, " points"]:
    """Return True for points below an opaque shape, such as a wall; the colours ignore them."""
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
    """Return the requested extent; None for the environment's extent."""
    if low is None and high is None and hasattr(getattr(env, "unwrapped", env), "draw"):
        return None
    corners = np.array([low, high], dtype=object)
    try:
        corners = corners.astype(np.float64)
    except (TypeError, ValueError):
        corners = np.empty(0)
    if corners.shape != (2, 2) or not (corners[0] < corners[1]).all():
        raise PgdiffError(
            "`low` and `high` must be (x, y) of two corners, lower left and upper right, unless "
            f"`env` draws itself. Got {low!r} and {high!r}."
        )
    return corners
