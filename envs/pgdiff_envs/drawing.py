"""Drawing of mazes and plans into matplotlib axes."""

from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float

from pgdiff_envs.errors import PgdiffEnvsError, require
from pgdiff_envs.layouts import CELL_OFFSET, Layout

if TYPE_CHECKING:
    from matplotlib.axes import Axes

WALL = "#454f61"
FLOOR = "#f6f4ee"
GOAL = "#e2574c"
BALL = "#2563c8"


def draw_maze(
    axes: "Axes", layout: Layout, *, ball: Float[np.ndarray, "2"], goal: Float[np.ndarray, "2"]
) -> None:
    """Draw walls as squares, the goal as a star in its reward circle, and the ball."""
    patches = require("matplotlib.patches", extra="viz")
    collections = require("matplotlib.collections", extra="viz")
    width, height = layout.shape
    corners = np.argwhere(layout.walls) + CELL_OFFSET - 0.5
    squares = [patches.Rectangle(corner, 1.0, 1.0) for corner in corners]
    axes.add_collection(
        collections.PatchCollection(
            squares, facecolor=WALL, edgecolor=WALL, linewidth=0.5, zorder=1
        )
    )
    axes.add_patch(
        patches.Circle((goal[0], goal[1]), 0.5, color=GOAL, alpha=0.15, lw=0, zorder=1.5)
    )
    axes.plot(*goal, marker="*", color=GOAL, markersize=14, markeredgecolor="white", zorder=6)
    axes.plot(*ball, marker="o", color=BALL, markersize=7, markeredgecolor="white", zorder=6)
    axes.set_facecolor(FLOOR)
    axes.set_xlim(CELL_OFFSET - 0.5, width + CELL_OFFSET - 0.5)
    axes.set_ylim(CELL_OFFSET - 0.5, height + CELL_OFFSET - 0.5)
    axes.set_aspect("equal")
    axes.set_xticks([])
    axes.set_yticks([])


def draw_plan(axes: "Axes", plan: Any) -> None:
    """Draw the plan in bold and its candidates coloured by score (yellow is best).

    Raises:
        PgdiffEnvsError: `plan.observations` is missing or not of shape [tokens, >= 2].
    """
    collections = require("matplotlib.collections", extra="viz")
    best = np.asarray(getattr(plan, "observations", None), dtype=object)
    if best.ndim != 2 or best.shape[1] < 2:
        raise PgdiffEnvsError(
            "`plan` must have `observations` of shape [tokens, at least 2]. "
            f"Got the shape {best.shape}."
        )
    best = best.astype(np.float64)
    candidates = getattr(plan, "candidates", None)
    if candidates is not None and len(candidates):
        lines = np.asarray(candidates, np.float64)[..., :2]
        scores = getattr(plan, "scores", None)
        values = np.zeros(len(lines)) if scores is None else np.asarray(scores, np.float64)
        # The best candidates are drawn last, on top.
        order = np.argsort(values, kind="stable")
        colours = collections.LineCollection(
            list(lines[order]), cmap="viridis", linewidths=1.0, alpha=0.6, zorder=3
        )
        colours.set_array(values[order])
        axes.add_collection(colours, autolim=False)
    axes.plot(best[:, 0], best[:, 1], color="white", linewidth=4.5, zorder=4)
    axes.plot(best[:, 0], best[:, 1], color="black", linewidth=2.2, zorder=5)
