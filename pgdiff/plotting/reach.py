"""Where plans from one start lead: their tokens, their ends, and how often each place is met."""

from pathlib import Path
from typing import Any

import numpy as np

from pgdiff.plotting.canvas import (
    COLOURS,
    INK,
    MAP,
    PathLike,
    colour_bar,
    colours,
    heading,
    legend,
    new_figure,
    save_png,
)
from pgdiff.plotting.scene import draw_ends, goal_of
from pgdiff.plotting.views import Features, View, views
from pgdiff.trajectory import Plan
from pgdiff.validation import check_positive_int, require

_PANELS = 3  # features over time where none are chosen


def reach_picture(
    plan: Plan,
    path: PathLike,
    *,
    env: Any = None,
    position: tuple[int, int] | None = None,
    features: Features | None = None,
    bins: int = 40,
    title: str = "",
) -> Path:
    """Write how far the candidates of one plan reach, best of a plan without a guide.

    On the left is every candidate, its tokens coloured from the first to the last. On the right is
    the share of candidates that come through each cell, and where they end. A task without a place
    has a row for each feature, over time.

    Args:
        plan: what a planner returned, with many candidates, in raw units.
        path: the PNG to write.
        env: draws its background, names its features and states its goal where it can.
        position: which two features of an observation are the place; see `views`.
        features: indices or names of features to draw over time.
        bins: cells of the map along its longer side.
        title: stands above the picture.

    Raises:
        PgdiffError: a position or a feature that the observation does not have.
    """
    check_positive_int("bins", bins)
    size = plan.candidates.shape[-1]
    shown = views(env, size, position=position, features=features, most=_PANELS)
    rows = len(shown)
    figure = new_figure(10.6, 4.9 if shown[0].place else 2.6 * rows + 0.9)
    panels = figure.subplots(rows, 2, squeeze=False)
    for (left, right), view in zip(panels, shown, strict=True):
        ways = view.path("plan.candidates", plan.candidates, stride=plan.stride)
        dots = _every_way(left, ways, view, plan, env)
        mesh = _shares(right, ways, view, plan, env, bins)
    bars = [(dots, "environment steps from now"), (mesh, "% of the plans that pass through")]
    for column, (mappable, label) in enumerate(bars):
        colour_bar(figure, mappable, list(panels[:, column]), label)
    heading(panels[0, 0], title or f"{len(plan.candidates)} plans from one start")
    ends = "Where they pass and end"
    if shown[0].place:
        way = np.linalg.norm(np.diff(ways, axis=1), axis=-1).sum(axis=1)
        ends = f"Their ends; median length of a plan {np.median(way):.1f}"
    heading(panels[0, 1], ends)
    legend(figure)
    return save_png(figure, path)


def _every_way(axes: Any, ways: np.ndarray, view: View, plan: Plan, env: Any) -> Any:
    """Draw every candidate, its tokens coloured by their time."""
    count, tokens = ways.shape[:2]
    goal = goal_of(env, plan.goal)
    view.draw(axes, env, ways, goal=goal)
    lines = require("matplotlib.collections", extra="viz").LineCollection
    axes.add_collection(
        lines(list(ways), colors=INK, linewidths=0.6, alpha=0.25, zorder=4, label="plans"),
        autolim=False,
    )
    dots = axes.scatter(
        *ways.reshape(-1, 2).T,
        c=np.tile(np.arange(tokens) * plan.stride, count),
        cmap=colours(),
        s=9,
        linewidth=0,
        zorder=5,
    )
    draw_ends(axes, ways[0, :1], goal if view.place else None)
    return dots


def _shares(axes: Any, ways: np.ndarray, view: View, plan: Plan, env: Any, bins: int) -> Any:
    """Draw the share of candidates that pass through each cell, and their ends."""
    goal = goal_of(env, plan.goal)
    view.draw(axes, env, ways, goal=goal)
    edges = _edges(ways, bins, square=view.place)
    mesh = axes.pcolormesh(
        *edges,
        np.ma.masked_equal(100 * _share(ways, edges).T, 0),
        cmap=MAP,
        vmin=0,
        vmax=100,
        zorder=4,
        rasterized=True,
    )
    axes.scatter(
        *ways[:, -1].T,
        s=16,
        color=COLOURS[1],
        edgecolor="white",
        linewidth=0.6,
        zorder=7,
        label="end of a plan",
    )
    draw_ends(axes, ways[0, :1], goal if view.place else None)
    return mesh


def _edges(ways: np.ndarray, bins: int, *, square: bool) -> list[np.ndarray]:
    """Return the edges of cells: square ones in a place, as many on both axes over time."""
    low, high = ways.min(axis=(0, 1)), ways.max(axis=(0, 1))
    cells = np.maximum(high - low, 1e-6) / bins
    if square:
        cells[:] = cells.max()
    return [np.arange(low[i], high[i] + 2 * cells[i], cells[i]) for i in range(2)]


def _share(ways: np.ndarray, edges: list[np.ndarray]) -> np.ndarray:
    """The share of candidates that come through each cell, between tokens as well."""
    fine = np.concatenate(
        [(1 - s) * ways[:, :-1] + s * ways[:, 1:] for s in np.linspace(0, 1, 12)], axis=1
    )
    met = np.zeros((len(edges[0]) - 1, len(edges[1]) - 1))
    for way in fine:
        counts, _, _ = np.histogram2d(way[:, 0], way[:, 1], bins=edges)
        met += counts > 0
    return met / len(ways)
