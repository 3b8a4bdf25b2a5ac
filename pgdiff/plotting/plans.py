"""Plans over their place: one with all its candidates, or two side by side."""

from pathlib import Path
from typing import Any

import numpy as np

from pgdiff.plotting.canvas import INK, PathLike, colour_bar, heading, new_figure, save_png
from pgdiff.plotting.scene import (
    draw_best,
    draw_candidates,
    draw_ends,
    draw_place,
    goal_of,
    positions,
    score_scale,
)
from pgdiff.trajectory import Plan


def plan_picture(
    plan: Plan,
    path: PathLike,
    *,
    env: Any = None,
    position: tuple[int, int] = (0, 1),
    score_label: str = "score",
    title: str = "",
) -> Path:
    """Write one plan: its candidates coloured by score, the chosen one in bold, start and goal.

    Args:
        plan: what a planner returned, in raw units.
        path: the PNG to write.
        env: draws its background and tells its goal where it can.
        position: which two features of an observation are the place.
        score_label: what the score is, for the colour bar.
        title: stands above the picture.
    """
    figure = new_figure(5.6, 4.8)
    axes = figure.add_subplot()
    norm = score_scale(plan.scores)
    lines = _draw_plan(axes, plan, env, position, norm)
    count = len(plan.candidates)
    heading(axes, title or (f"Plan: the best of {count} candidates" if count > 1 else "Plan"))
    _legend(figure, axes)
    if norm is not None:
        colour_bar(figure, lines, axes, score_label)
    return save_png(figure, path)


def comparison_picture(
    unguided: Plan,
    guided: Plan,
    path: PathLike,
    *,
    env: Any = None,
    position: tuple[int, int] = (0, 1),
    score_label: str = "score",
    titles: tuple[str, str] = ("Unguided", "Guided by the value"),
) -> Path:
    """Write two plans side by side on one scale of colour.

    Args:
        unguided: the plan on the left.
        guided: the plan on the right.
        path: the PNG to write.
        env: as in `plan_picture`.
        position: as in `plan_picture`.
        score_label: as in `plan_picture`.
        titles: stand above the two plans; the mean score is added where there is one.
    """
    figure = new_figure(9.6, 4.6)
    norm = score_scale(unguided.scores, guided.scores)
    panels = figure.subplots(1, 2)
    lines = None
    for axes, plan, title in zip(panels, (unguided, guided), titles, strict=True):
        lines = _draw_plan(axes, plan, env, position, norm)
        scores = np.asarray(plan.scores, dtype=np.float64)
        if np.isfinite(scores).any():
            title = f"{title}: mean {score_label} {np.nanmean(scores):.2f}"
        heading(axes, title)
    _legend(figure, panels[0])
    if norm is not None:
        colour_bar(figure, lines, list(panels), score_label)
    return save_png(figure, path)


def _draw_plan(axes: Any, plan: Plan, env: Any, position: tuple[int, int], norm: Any) -> Any:
    candidates = positions("plan.candidates", plan.candidates, position)
    best = positions("plan.observations", plan.observations, position)
    draw_place(axes, env, candidates)
    scores = np.asarray(plan.scores, dtype=np.float64)
    lines = draw_candidates(axes, candidates, scores if np.isfinite(scores).any() else None, norm)
    draw_best(axes, best)
    draw_ends(axes, best[:1], goal_of(env, plan.goal))
    return lines


def _legend(figure: Any, axes: Any) -> None:
    """Explain the marks in one line below the picture."""
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(
        handles,
        labels,
        loc="outside lower center",
        ncols=3,
        frameon=False,
        fontsize=9,
        labelcolor=INK,
        markerscale=0.7,
    )
