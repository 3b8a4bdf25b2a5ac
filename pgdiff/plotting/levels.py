"""Pictures of the noise level of every token at every sampling row, with the plan."""

from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from pgdiff.core.validation import PgdiffError, check_positive_int
from pgdiff.plotting.animations import evenly_spaced
from pgdiff.plotting.canvas import (
    GOAL,
    INK,
    PathLike,
    caption,
    colour_bar,
    colours,
    heading,
    legend,
    new_figure,
    pixels,
    save_gif,
    save_png,
    style_axes,
)
from pgdiff.plotting.scene import draw_ends, resolve_goal
from pgdiff.plotting.views import Features, View, views

Levels = Float[np.ndarray, "rows tokens"]
Frames = Float[np.ndarray, "rows tokens obs"]
_HOLD = 1500  # milliseconds that the last frame is shown


def level_picture(
    levels: Levels,
    frames: Frames,
    path: PathLike,
    *,
    env: Any = None,
    position: tuple[int, int] | None = None,
    features: Features | None = None,
    stride: int = 1,
    goal: Any = None,
    panels: int = 4,
    title: str = "",
) -> Path:
    """Write the level matrix as a heat map, and the plan at some of its rows.

    Args:
        levels: noise level of every token after every row, from 1 (noise) to 0 (clean).
        frames: the plan after every row, in raw units.
        path: the PNG to write.
        env: environment for background, feature names and goal; see `views`.
        position: indices of the two position features of an observation; see `views`.
        features: indices or names of features; the first is drawn over time.
        stride: environment steps between tokens, for the time axis.
        goal: the goal; None for the environment's goal.
        panels: number of evenly spaced rows whose plan is drawn, including the last row.
        title: title of the picture.

    Raises:
        PgdiffError: if levels and frames differ in rows or tokens.

    Example:
        >>> from tempfile import mkdtemp
        >>> from pgdiff.plotting import level_picture
        >>> levels = np.array([[0.5, 1.0], [0.0, 0.0]])
        >>> frames = np.random.default_rng(0).normal(size=(2, 2, 4))
        >>> level_picture(levels, frames, f"{mkdtemp()}/levels.png", panels=1).name
        'levels.png'
    """
    view = _check_levels(levels, frames, env, position, features)
    places = view.path("frames", frames, stride=stride)
    rows = evenly_spaced(len(levels) - 1, check_positive_int("panels", panels))
    figure = new_figure(4.4 + (2.3 if view.place else 2.9) * len(rows), 3.5)
    grid = figure.add_gridspec(1, len(rows) + 1, width_ratios=[1.5] + [1.0] * len(rows))
    axes = figure.add_subplot(grid[0])
    image = _heat_map(axes, levels)
    for row in rows:
        axes.axhline(row, color=GOAL, linewidth=1.2, linestyle=":", label="row of a panel")
    colour_bar(figure, image, axes, "noise level")
    for column, row in enumerate(rows):
        panel = figure.add_subplot(grid[column + 1])
        _background(panel, view, places, env, goal)
        _draw_plan(panel, places[row], levels[row])
        heading(panel, f"row {row}")
    if title:
        caption(figure, title)
    legend(figure)
    return save_png(figure, path)


def level_gif(
    levels: Levels,
    frames: Frames,
    path: PathLike,
    *,
    env: Any = None,
    position: tuple[int, int] | None = None,
    features: Features | None = None,
    stride: int = 1,
    goal: Any = None,
    milliseconds: int = 160,
    max_frames: int = 40,
) -> Path:
    """Write an animation of the denoising of a plan, with the row of the level matrix marked.

    Args:
        levels: as in `level_picture`.
        frames: as in `level_picture`.
        path: the GIF to write.
        env: as in `level_picture`.
        position: as in `level_picture`.
        features: as in `level_picture`.
        stride: as in `level_picture`.
        goal: as in `level_picture`.
        milliseconds: duration of a frame; larger values are slower. The last one is shown longer.
        max_frames: maximum number of frames, evenly spaced over the rows.

    Raises:
        PgdiffError: if levels and frames differ in rows or tokens.

    Example:
        >>> from tempfile import mkdtemp
        >>> from pgdiff.plotting import level_gif
        >>> levels = np.array([[0.5, 1.0], [0.0, 0.0]])
        >>> frames = np.random.default_rng(0).normal(size=(2, 2, 4))
        >>> level_gif(levels, frames, f"{mkdtemp()}/levels.gif").name
        'levels.gif'
    """
    view = _check_levels(levels, frames, env, position, features)
    places = view.path("frames", frames, stride=stride)
    check_positive_int("milliseconds", milliseconds)
    figure = new_figure(8.0, 4.1, dpi=90)
    left, right = figure.subplots(1, 2, width_ratios=(1.0, 1.2))
    image = _heat_map(left, levels)
    colour_bar(figure, image, left, "noise level")
    mark = left.axhline(0, color=GOAL, linewidth=1.8, label="row shown")
    _background(right, view, places, env, goal)
    legend(figure)
    pictures = []
    for row in evenly_spaced(len(levels) - 1, check_positive_int("max_frames", max_frames)):
        mark.set_ydata([row, row])
        artists = _draw_plan(right, places[row], levels[row])
        heading(right, f"row {row} of {len(levels) - 1}")
        pictures.append(pixels(figure))
        for artist in artists:
            artist.remove()
    times = [milliseconds] * (len(pictures) - 1) + [_HOLD]
    return save_gif(pictures, path, milliseconds=times)


def _check_levels(
    levels: Levels,
    frames: Frames,
    env: Any,
    position: tuple[int, int] | None,
    features: Features | None,
) -> View:
    if np.ndim(levels) != 2 or np.ndim(frames) != 3 or levels.shape != frames.shape[:2]:
        raise PgdiffError(
            "`levels` must have shape [rows, tokens], and `frames` [rows, tokens, obs]. "
            f"Got {list(np.shape(levels))} and {list(np.shape(frames))}."
        )
    return views(env, frames.shape[-1], position=position, features=features)[0]


def _heat_map(axes: Any, levels: Levels) -> Any:
    image = axes.imshow(levels, aspect="auto", cmap=colours(), vmin=0, vmax=1, rasterized=True)
    style_axes(axes, x="token", y="row of the sampling")
    axes.locator_params(integer=True)
    heading(axes, "Noise levels")
    return image


def _background(axes: Any, view: View, places: Any, env: Any, goal: Any) -> None:
    goal = resolve_goal(env, goal)
    view.draw(axes, env, places[-1:], goal=goal)
    draw_ends(axes, places[-1][:1], goal if view.place else None)


def _draw_plan(axes: Any, place: Any, level: Any) -> list[Any]:
    """Draw the tokens, coloured by noise level, and lines between nearly clean tokens."""
    artists = [
        axes.scatter(*place.T, c=level, cmap=colours(), vmin=0, vmax=1, s=14, linewidth=0, zorder=6)
    ]
    for token in np.flatnonzero((level[:-1] < 0.5) & (level[1:] < 0.5)):
        artists += axes.plot(
            *place[token : token + 2].T, color=INK, linewidth=1.0, zorder=5, label="plan"
        )
    return artists
