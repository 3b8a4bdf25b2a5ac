"""Plans over their place or over time: one with all its candidates, or two side by side."""

from pathlib import Path
from typing import Any

import numpy as np

from pgdiff.plotting.canvas import (
    COLOURS,
    QUIET,
    PathLike,
    caption,
    colour_bar,
    heading,
    legend,
    new_figure,
    save_png,
)
from pgdiff.plotting.names import action_names
from pgdiff.plotting.scene import draw_best, draw_candidates, draw_ends, goal_of, score_scale
from pgdiff.plotting.views import PANELS, TIME, Features, View, over_time, padded, views
from pgdiff.trajectory import Plan

_COLUMNS = 3


def plan_picture(
    plan: Plan,
    path: PathLike,
    *,
    env: Any = None,
    position: tuple[int, int] | None = None,
    features: Features | None = None,
    score_label: str = "score",
    title: str = "",
) -> Path:
    """Write one plan: its candidates coloured by score, the chosen one in bold, start and goal.

    A task with a place is drawn from above. Any other task, or one with chosen `features`, is drawn
    over time: a panel for each feature and, where the plan has actions, for each number of an
    action.

    Args:
        plan: what a planner returned, in raw units.
        path: the PNG to write.
        env: draws its background, names its features and states its goal where it can.
        position: which two features of an observation are the place; see `views`.
        features: indices or names of features to draw over time.
        score_label: what the score is, for the colour bar.
        title: stands above the picture.

    Raises:
        PgdiffError: a position or a feature that the observation does not have.
    """
    shown = views(env, plan.candidates.shape[-1], position=position, features=features)
    norm = score_scale(plan.scores)
    count = len(plan.candidates)
    title = title or (f"Plan: chosen from {count} candidates" if count > 1 else "Plan")
    if shown[0].place:
        figure = new_figure(5.6, 4.9)
        axes = figure.add_subplot()
        lines = _draw_plan(axes, plan, shown[0], env, norm)
        heading(axes, title)
        bar: Any = axes
    else:
        actions = _actions(plan)
        cells = len(shown) + actions
        columns = min(_COLUMNS, cells)
        rows = -(-cells // columns)
        figure = new_figure(3.3 * columns + 1.0, 2.1 * rows + 0.9)
        panels = figure.subplots(rows, columns, squeeze=False)
        for axes, view in zip(panels.flat, shown, strict=False):
            lines = _draw_plan(axes, plan, view, env, norm)
        for number, axes in enumerate(panels.flat[len(shown) : cells]):
            _draw_actions(axes, plan, number, env)
        for axes in panels.flat[cells:]:
            axes.set_axis_off()
        caption(figure, title + _left_out(plan, shown, features))
        bar = list(panels.flat)
    legend(figure, columns=4 if shown[0].place else 5)
    if norm is not None:
        colour_bar(figure, lines, bar, score_label)
    return save_png(figure, path)


def comparison_picture(
    unguided: Plan,
    guided: Plan,
    path: PathLike,
    *,
    env: Any = None,
    position: tuple[int, int] | None = None,
    features: Features | None = None,
    score_label: str = "score",
    titles: tuple[str, str] = ("Unguided", "Guided by the value"),
    title: str = "",
) -> Path:
    """Write two plans side by side on one scale of colour.

    Args:
        unguided: the plan on the left.
        guided: the plan on the right.
        path: the PNG to write.
        env: as in `plan_picture`.
        position: as in `plan_picture`.
        features: as in `plan_picture`; each has a row.
        score_label: as in `plan_picture`.
        titles: stand above the two plans; the mean score is added where there is one.
        title: stands above the picture.

    Raises:
        PgdiffError: as in `plan_picture`.
    """
    shown = views(env, guided.candidates.shape[-1], position=position, features=features)
    norm = score_scale(unguided.scores, guided.scores)
    actions = 0 if shown[0].place else min(_actions(unguided), _actions(guided))
    rows = len(shown) + actions
    figure = new_figure(9.6, 4.7 if shown[0].place else 1.9 * rows + 0.9)
    panels = figure.subplots(rows, 2, squeeze=False, sharey="none" if shown[0].place else "row")
    lines = None
    if title:
        caption(figure, title)
    for column, plan, label in zip(panels.T, (unguided, guided), titles, strict=True):
        for axes, view in zip(column, shown, strict=False):
            lines = _draw_plan(axes, plan, view, env, norm, beside=(unguided, guided))
        for number, axes in enumerate(column[len(shown) :]):
            _draw_actions(axes, plan, number, env)
        scores = np.asarray(plan.scores, dtype=np.float64)
        if np.isfinite(scores).any():
            label += f": mean {score_label} {np.nanmean(scores):.3g}"
        heading(column[0], label)
    legend(figure, columns=4 if shown[0].place else 5)
    if norm is not None:
        colour_bar(figure, lines, list(panels.flat), score_label)
    return save_png(figure, path)


def _draw_plan(
    axes: Any, plan: Plan, view: View, env: Any, norm: Any, *, beside: tuple[Plan, ...] = ()
) -> Any:
    """Draw candidates and the chosen plan; the axes hold those of the plans `beside` too."""
    candidates = view.path("plan.candidates", plan.candidates, stride=plan.stride)
    best = view.path("plan.observations", plan.observations, stride=plan.stride)
    goal = goal_of(env, plan.goal)
    others = [view.path("plan.candidates", o.candidates, stride=o.stride) for o in beside]
    extent = np.concatenate([part.reshape(-1, 2) for part in (candidates, *others)])
    view.draw(axes, env, extent, goal=goal)
    scores = np.asarray(plan.scores, dtype=np.float64)
    lines = draw_candidates(axes, candidates, scores if np.isfinite(scores).any() else None, norm)
    draw_best(axes, best)
    draw_ends(axes, best[:1], goal if view.place else None)
    return lines


def _actions(plan: Plan) -> int:
    """How many numbers of the plan's actions are drawn."""
    return 0 if plan.actions is None else min(plan.actions.shape[1], PANELS)


def _draw_actions(axes: Any, plan: Plan, number: int, env: Any) -> None:
    """Draw one number of the chosen plan's actions, each held until the next, and its bounds."""
    assert plan.actions is not None
    # Chunks hold one action for every environment step; otherwise each is that of its token.
    step = 1 if len(plan.actions) > len(plan.observations) else plan.stride
    values = np.asarray(plan.actions[:, number], dtype=np.float64)
    times = step * np.arange(len(values) + 1)
    held = np.append(values, values[-1:])
    axes.step(times, held, where="post", color=COLOURS[1], linewidth=1.6, label="planned action")
    space = getattr(env, "action_space", None)
    bounds = [
        float(np.ravel(bound)[number])
        for bound in (getattr(space, "low", None), getattr(space, "high", None))
        if bound is not None and np.size(bound) == plan.actions.shape[1]
    ]
    bounds = [bound for bound in bounds if np.isfinite(bound)]
    for bound in bounds:
        axes.axhline(bound, color=QUIET, linewidth=1.0, linestyle=":", label="bounds of actions")
    axes.set_xlim(*padded(times.astype(np.float64)))
    axes.set_ylim(*padded(np.array([*values, *bounds])))
    over_time(axes, TIME, action_names(env, plan.actions.shape[1])[number])


def _left_out(plan: Plan, shown: list[View], features: Features | None) -> str:
    """Say how many features are not shown, where none were chosen."""
    size = plan.observations.shape[-1]
    if features is not None or len(shown) == size:
        return ""
    return f"\nthe first {len(shown)} of {size} features; `features` chooses others"
