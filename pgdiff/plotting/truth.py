"""Picture of plans from the same starts, with the paths that following them leads to."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Float

from pgdiff.core.validation import PgdiffError, require
from pgdiff.plotting.canvas import COLOURS, GOAL, INK, PathLike, heading, new_figure, save_png
from pgdiff.plotting.scene import draw_place, positions

SOUND, CUT = COLOURS[0], COLOURS[1]


@dataclass(frozen=True, eq=False, kw_only=True)
class ShownPlans:
    """Plans of one kind.

    Attributes:
        waypoints: way-points of the plans, `[plans, tokens, obs]`.
        driven: `[plans, tokens, obs]`, observations when each plan is followed; None if no plan
            was followed.
        cuts: `[plans]`, True if a plan cuts a wall; None if unknown.
    """

    waypoints: Float[np.ndarray, "plans tokens obs"]
    driven: Float[np.ndarray, "plans tokens obs"] | None = None
    cuts: Bool[np.ndarray, " plans"] | None = None


def truth_picture(
    kinds: Mapping[str, ShownPlans],
    path: PathLike,
    *,
    env: Any = None,
    goals: Float[np.ndarray, "plans goal"] | None = None,
    position: tuple[int, int] = (0, 1),
    title: str = "",
) -> Any:
    """Write a panel for each kind of plans, with way-points and thin lines for driven paths.

    Args:
        kinds: plans from the same starts, by name of their kind.
        path: the PNG to write.
        env: environment for the background.
        goals: goals of the starts; each distinct goal is marked once.
        position: indices of the two position features of an observation.
        title: title of the picture.

    Raises:
        PgdiffError: if `kinds` is empty.
    """
    if not kinds:
        raise PgdiffError("`kinds` must hold at least one kind of plans. Got none.")
    figure = new_figure(4.4 * len(kinds), 4.9)
    extent = np.concatenate(
        [positions(name, kind.waypoints, position).reshape(-1, 2) for name, kind in kinds.items()]
    )
    panels = np.atleast_1d(figure.subplots(1, len(kinds)))
    for axes, (name, kind) in zip(panels, kinds.items(), strict=True):
        draw_place(axes, env, extent)
        # The goal that the environment draws is only the goal of its last reset.
        for mark in [patch for patch in axes.patches if goals is not None]:
            mark.remove()
        _draw(axes, kind, position)
        if goals is not None:
            axes.scatter(
                *_unique_places(goals).T, s=90, marker="*", color=GOAL, zorder=9, label="goal"
            )
        share = "" if kind.cuts is None else f": {kind.cuts.sum()} of {len(kind.cuts)} cut a wall"
        heading(axes, f"{name}{share}")
    if title:
        figure.suptitle(title, color=INK, fontsize=12)
    handles = {
        label: handle
        for axes in panels
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)
    }
    figure.legend(
        handles.values(),
        handles.keys(),
        loc="outside lower center",
        ncols=5,
        frameon=False,
        fontsize=9,
        labelcolor=INK,
    )
    return save_png(figure, path)


def _draw(axes: Any, kind: ShownPlans, position: tuple[int, int]) -> None:
    lines = require("matplotlib.collections", extra="viz").LineCollection
    ways = positions("waypoints", kind.waypoints, position)
    cuts = np.zeros(len(ways), np.bool_) if kind.cuts is None else kind.cuts
    for flag, colour, label in ((False, SOUND, "plan"), (True, CUT, "plan that cuts a wall")):
        chosen = ways[cuts == flag]
        if not len(chosen):
            continue
        axes.add_collection(
            lines(list(chosen), colors=colour, linewidths=1.5, zorder=6, label=label), autolim=False
        )
        axes.scatter(*chosen[:, 1:].reshape(-1, 2).T, s=8, color=colour, linewidths=0, zorder=7)
    if kind.driven is not None:
        driven = positions("driven", kind.driven, position)
        axes.add_collection(
            lines(
                list(driven),
                colors=INK,
                linewidths=0.9,
                linestyles="dotted",
                zorder=8,
                label="driven path",
            ),
            autolim=False,
        )
    axes.scatter(
        *ways[:, 0].T, s=34, color="white", edgecolor=INK, linewidth=1.3, zorder=9, label="start"
    )


def _unique_places(goals: Float[np.ndarray, "plans goal"]) -> Float[np.ndarray, "places 2"]:
    places: np.ndarray = np.unique(np.asarray(goals, np.float64)[:, :2], axis=0)
    return places
