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
    new_figure,
    save_png,
)
from pgdiff.plotting.scene import draw_ends, draw_place, goal_of, positions
from pgdiff.trajectory import Plan
from pgdiff.validation import check_positive_int, require


def reach_picture(
    plan: Plan,
    path: PathLike,
    *,
    env: Any = None,
    position: tuple[int, int] = (0, 1),
    bins: int = 40,
    title: str = "",
) -> Path:
    """Write how far the candidates of one plan reach, best of a plan without a guide.

    On the left is every candidate, its tokens coloured from the first to the last. On the right is
    the share of candidates that come through each cell, and where they end.

    Args:
        plan: what a planner returned, with many candidates, in raw units.
        path: the PNG to write.
        env: draws its background and tells its goal where it can.
        position: which two features of an observation are the place.
        bins: cells of the map along its longer side.
        title: stands above the picture.
    """
    check_positive_int("bins", bins)
    ways = positions("plan.candidates", plan.candidates, position)
    count, tokens = ways.shape[:2]
    figure = new_figure(10.6, 4.8)
    left, right = figure.subplots(1, 2)
    goal = goal_of(env, plan.goal)

    draw_place(left, env, ways)
    lines = require("matplotlib.collections", extra="viz").LineCollection
    left.add_collection(
        lines(list(ways), colors=INK, linewidths=0.6, alpha=0.25, zorder=4), autolim=False
    )
    dots = left.scatter(
        *ways.reshape(-1, 2).T,
        c=np.tile(np.arange(tokens) * plan.stride, count),
        cmap=colours(),
        s=9,
        linewidth=0,
        zorder=5,
    )
    draw_ends(left, ways[0, :1], goal)
    colour_bar(figure, dots, left, "steps from now")
    heading(left, title or f"{count} plans from one start")

    draw_place(right, env, ways)
    edges = _edges(ways, bins)
    share = _share(ways, edges)
    mesh = right.pcolormesh(
        *edges,
        np.ma.masked_equal(100 * share.T, 0),
        cmap=MAP,
        vmin=0,
        vmax=100,
        zorder=4,
        rasterized=True,
    )
    right.scatter(
        *ways[:, -1].T, s=16, color=COLOURS[1], edgecolor="white", linewidth=0.6, zorder=7
    )
    draw_ends(right, ways[0, :1], goal)
    colour_bar(figure, mesh, right, "% of the plans that come through")
    way = np.linalg.norm(np.diff(ways, axis=1), axis=-1).sum(axis=1)
    heading(right, f"Their ends; median length of a way {np.median(way):.1f}")
    return save_png(figure, path)


def _edges(ways: np.ndarray, bins: int) -> list[np.ndarray]:
    low, high = ways.min(axis=(0, 1)), ways.max(axis=(0, 1))
    cell = max(float((high - low).max()), 1e-6) / bins
    return [np.arange(low[i], high[i] + 2 * cell, cell) for i in range(2)]


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
