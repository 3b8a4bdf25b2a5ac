"""Parts of maps: the environment's background, paths, start and goal.

An environment may have `env.unwrapped.draw(axes, plan=None)`, which draws its walls in the units of
its observations, and `env.unwrapped.goal`. Both are optional.
"""

from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float

from pgdiff.core.validation import PgdiffError, require
from pgdiff.plotting.canvas import GOAL, INK, QUIET, colours, style_axes

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.collections import LineCollection

Points = Float[np.ndarray, "points 2"]


def positions(name: str, observations: Any, axes: tuple[int, int]) -> Float[np.ndarray, "... 2"]:
    """Return the two position features of `observations` as float64.

    Args:
        name: name of the argument, for the error.
        observations: [..., obs].
        axes: indices of the horizontal and the vertical coordinate.

    Raises:
        PgdiffError: if an index is out of range or `observations` is empty.
    """
    array = np.asarray(observations, dtype=np.float64)
    if array.ndim < 2 or array.size == 0 or max(axes) >= array.shape[-1] or min(axes) < 0:
        raise PgdiffError(
            f"`{name}` must be an array [..., obs] with features {axes[0]} and {axes[1]}. "
            f"Got shape {array.shape}."
        )
    return array[..., list(axes)]


def draw_place(
    axes: "Axes",
    env: Any,
    extent: Float[np.ndarray, "... 2"],
    *,
    names: tuple[str, str] = ("", ""),
) -> None:
    """Draw the environment's background, or axes that contain the `extent` of the data.

    Args:
        axes: axes to draw on.
        env: an environment, or None.
        extent: points that the axes must contain if the environment has no `draw`.
        names: names of both axes, shown if the environment has no `draw`.
    """
    draw = getattr(getattr(env, "unwrapped", env), "draw", None)
    if draw is not None:
        draw(axes)
        # Single marks show the environment's present state; the pictures show other times.
        for mark in [line for line in axes.lines if len(np.atleast_1d(line.get_xdata())) == 1]:
            mark.remove()
    else:
        flat = extent.reshape(-1, 2)
        flat = flat[np.isfinite(flat).all(axis=1)]
        low, high = flat.min(axis=0), flat.max(axis=0)
        margin = 0.06 * max(float((high - low).max()), 1e-6)
        axes.set_xlim(float(low[0]) - margin, float(high[0]) + margin)
        axes.set_ylim(float(low[1]) - margin, float(high[1]) + margin)
        style_axes(axes, x=names[0], y=names[1])
    # Without walls the axes keep their width and show more, to leave room for names.
    axes.set_aspect("equal", adjustable="datalim" if draw is None else "box")
    if draw is None:
        return
    axes.set_xticks([])
    axes.set_yticks([])
    axes.set_xlabel("")
    axes.set_ylabel("")
    for spine in axes.spines.values():
        spine.set_visible(False)


def resolve_goal(env: Any, goal: Any = None) -> Points | None:
    """Return `goal`, else the environment's goal, with shape [1, 2]; None without a goal."""
    if goal is None:
        goal = getattr(getattr(env, "unwrapped", env), "goal", None)
    if goal is None:
        return None
    return np.asarray(goal, dtype=np.float64).reshape(-1)[None, :2]


def draw_ends(axes: "Axes", start: Points | None, goal: Points | None) -> None:
    """Mark the start with a ring and the goal with a star, with labels for a legend."""
    if goal is not None:
        axes.scatter(
            goal[:, 0],
            goal[:, 1],
            s=260,
            label="goal",
            marker="*",
            color=GOAL,
            edgecolor="white",
            linewidth=1.0,
            zorder=8,
        )
    if start is not None:
        axes.scatter(
            start[:, 0],
            start[:, 1],
            s=70,
            label="start",
            marker="o",
            color="white",
            edgecolor=INK,
            linewidth=1.8,
            zorder=8,
        )


def draw_best(axes: "Axes", path: Points, colour: str = INK) -> Any:
    """Draw one path in bold with a dot at each way-point; return its line."""
    effects = require("matplotlib.patheffects", extra="viz")
    (line,) = axes.plot(
        *path.T,
        color=colour,
        linewidth=2.4,
        marker="o",
        markersize=3.6,
        zorder=7,
        label="chosen plan",
        solid_capstyle="round",
        solid_joinstyle="round",
        path_effects=[effects.Stroke(linewidth=4.6, foreground="white"), effects.Normal()],
    )
    return line


def score_scale(*scores: Float[np.ndarray, " candidates"]) -> Any:
    """Return a colour norm over all finite `scores`; None if no score is finite."""
    pooled = np.concatenate([np.asarray(group, dtype=np.float64).ravel() for group in scores])
    pooled = pooled[np.isfinite(pooled)]
    if len(pooled) == 0:
        return None
    low, high = float(pooled.min()), float(pooled.max())
    if high - low < 1e-9:
        low, high = low - 0.5, high + 0.5
    return require("matplotlib.colors", extra="viz").Normalize(low, high)


def draw_candidates(
    axes: "Axes",
    paths: Float[np.ndarray, "candidates tokens 2"],
    scores: Float[np.ndarray, " candidates"] | None,
    norm: Any,
) -> "LineCollection":
    """Draw all candidates, coloured by score if there are scores, the best on top."""
    lines = require("matplotlib.collections", extra="viz").LineCollection
    label = "candidates"
    count = len(paths)
    alpha = float(np.clip(6.0 / count**0.5, 0.35, 0.85))
    if scores is None or norm is None:
        return axes.add_collection(  # type: ignore[return-value]
            lines(
                list(paths),
                colors=QUIET,
                linewidths=1.2,
                alpha=0.7 * alpha,
                zorder=5,
                label=label,
            ),
            autolim=False,
        )
    order = np.argsort(np.nan_to_num(np.asarray(scores), nan=-np.inf), kind="stable")
    collection = lines(
        list(paths[order]),
        cmap=colours(),
        norm=norm,
        linewidths=1.3,
        alpha=alpha,
        zorder=5,
        label=label,
    )
    collection.set_array(np.asarray(scores)[order])
    return axes.add_collection(collection, autolim=False)  # type: ignore[return-value]
