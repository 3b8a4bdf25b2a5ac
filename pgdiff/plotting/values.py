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
    new_figure,
    save_png,
)
from pgdiff.plotting.scene import draw_ends, draw_place, goal_of
from pgdiff.validation import PgdiffError, check_positive_int


def value_picture(
    value: Callable[[Float[np.ndarray, "points obs"]], Any],
    path: PathLike,
    *,
    observation: Sequence[float],
    env: Any = None,
    low: Sequence[float] | None = None,
    high: Sequence[float] | None = None,
    position: tuple[int, int] = (0, 1),
    goal: Any = None,
    points: int = 120,
    label: str = "value",
    title: str = "",
) -> Path:
    """Write a value over the place, with all other features held.

    The map lies beneath what the environment draws, so that walls cover it: there the value has
    never been learned.

    Args:
        value: from float32 observations [points, obs] to one number each. A value of a goal is
            handed over with the goal filled in.
        path: the PNG to write.
        observation: the features that are held, such as a velocity of 0; those of the place are
            replaced. Shape [obs].
        env: draws its background, gives the extent, and tells its goal where it can.
        low: (x, y) of the lower left corner; the environment's if None.
        high: (x, y) of the upper right corner; the environment's if None.
        position: which two features of an observation are the place.
        goal: (x, y) to mark, where the environment does not tell.
        points: of the grid along its longer side.
        label: what the value is, for the colour bar.
        title: stands above the picture.

    Raises:
        PgdiffError: no extent, or a value that is not one finite number for each observation.
    """
    check_positive_int("points", points, minimum=2)
    figure = new_figure(5.4, 4.6)
    axes = figure.add_subplot()
    corners = _corners(env, low, high)
    draw_place(axes, env, np.zeros((1, 2)) if corners is None else corners)
    if corners is None:
        x, y = axes.get_xlim(), axes.get_ylim()
        corners = np.array([[x[0], y[0]], [x[1], y[1]]])
    (left, bottom), (right, top) = corners
    step = max(right - left, top - bottom) / points
    xs = np.arange(left + step / 2, right, step)
    ys = np.arange(bottom + step / 2, top, step)
    grid = np.tile(np.asarray(observation, dtype=np.float32), (len(xs) * len(ys), 1))
    if grid.shape[1] <= max(position):
        raise PgdiffError(
            f"`observation` must hold features {position[0]} and {position[1]}. "
            f"Got {grid.shape[1]} features."
        )
    grid[:, position[0]] = np.tile(xs, len(ys))
    grid[:, position[1]] = np.repeat(ys, len(xs))
    worth = np.asarray(value(grid), dtype=np.float64)
    if worth.shape != (len(grid),) or not np.isfinite(worth).all():
        raise PgdiffError(
            f"`value` must return one finite number for each of {len(grid)} observations. "
            f"Got shape {worth.shape}."
        )
    seen = worth[~_covered(axes, grid[:, list(position)])]
    least, most = (seen.min(), seen.max()) if len(seen) else (worth.min(), worth.max())
    mesh = axes.pcolormesh(
        xs,
        ys,
        worth.reshape(len(ys), len(xs)),
        cmap=MAP,
        vmin=least,
        vmax=most,
        zorder=0.5,
        shading="nearest",
    )
    mesh.set_rasterized(True)
    levels = np.linspace(least, most, 14)[1:-1]
    if most > least:
        axes.contour(
            xs,
            ys,
            worth.reshape(len(ys), len(xs)),
            levels=levels,
            colors="white",
            linewidths=0.5,
            linestyles="solid",
            alpha=0.6,
            zorder=0.6,
        )
    axes.set_xlim(left, right)
    axes.set_ylim(bottom, top)
    draw_ends(axes, None, goal_of(env, goal))
    colour_bar(figure, mesh, axes, label)
    heading(axes, title or "What a state is worth")
    axes.title.set_color(INK)
    return save_png(figure, path)


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
