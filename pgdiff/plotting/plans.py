"""Pictures of plans, as maps or over time."""

from pathlib import Path
from typing import Any

import numpy as np

from pgdiff.core.validation import check_positive_int, require
from pgdiff.plotting.canvas import (
    COLOURS,
    INK,
    MAP,
    QUIET,
    PathLike,
    caption,
    colour_bar,
    colours,
    heading,
    legend,
    new_figure,
    save_png,
)
from pgdiff.plotting.names import action_names
from pgdiff.plotting.scene import draw_best, draw_candidates, draw_ends, resolve_goal, score_scale
from pgdiff.plotting.views import PANELS, TIME, Features, View, over_time, padded_limits, views
from pgdiff.trajectory import Plan

_PANELS = 3  # default number of features over time


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
    """Write the region that the candidates of a plan reach, preferably of an unguided plan.

    The left panel shows every candidate, with tokens coloured by time. The right panel shows the
    share of candidates that pass through each cell, and their ends. A task without a position has
    a row for each feature over time.

    Args:
        plan: a plan with many candidates, in raw units.
        path: the PNG to write.
        env: environment for background, feature names and goal; see `views`.
        position: indices of the two position features of an observation; see `views`.
        features: indices or names of features to draw over time.
        bins: cells of the map along its longer side; larger values give smaller cells.
        title: title of the picture.

    Raises:
        PgdiffError: if the observation does not have a position or feature.

    Example:
        >>> from tempfile import mkdtemp
        >>> from pgdiff.plotting import reach_picture
        >>> paths = np.random.default_rng(0).normal(size=(5, 4, 2)).cumsum(axis=1)
        >>> chosen = {"observations": paths[0], "actions": None, "best": 0, "stride": 1}
        >>> plan = Plan(candidates=paths, scores=np.zeros(5), **chosen)
        >>> reach_picture(plan, f"{mkdtemp()}/reach.png", position=(0, 1)).name
        'reach.png'
    """
    check_positive_int("bins", bins)
    size = plan.candidates.shape[-1]
    shown = views(env, size, position=position, features=features, most=_PANELS)
    rows = len(shown)
    figure = new_figure(10.6, 4.9 if shown[0].place else 2.6 * rows + 0.9)
    panels = figure.subplots(rows, 2, squeeze=False)
    for (left, right), view in zip(panels, shown, strict=True):
        ways = view.path("plan.candidates", plan.candidates, stride=plan.stride)
        dots = _draw_paths(left, ways, view, plan, env)
        mesh = _draw_shares(right, ways, view, plan, env, bins)
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


def _draw_paths(axes: Any, ways: np.ndarray, view: View, plan: Plan, env: Any) -> Any:
    """Draw every candidate, its tokens coloured by their time."""
    count, tokens = ways.shape[:2]
    goal = resolve_goal(env, plan.goal)
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


def _draw_shares(axes: Any, ways: np.ndarray, view: View, plan: Plan, env: Any, bins: int) -> Any:
    """Draw the share of candidates that pass through each cell, and the candidates' ends."""
    goal = resolve_goal(env, plan.goal)
    view.draw(axes, env, ways, goal=goal)
    edges = _edges(ways, bins, square=view.place)
    mesh = axes.pcolormesh(
        *edges,
        np.ma.masked_equal(100 * _cell_shares(ways, edges).T, 0),
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
    """Return the edges of the cells: square on a map, equally many on both axes over time."""
    low, high = ways.min(axis=(0, 1)), ways.max(axis=(0, 1))
    cells = np.maximum(high - low, 1e-6) / bins
    if square:
        cells[:] = cells.max()
    return [np.arange(low[i], high[i] + 2 * cells[i], cells[i]) for i in range(2)]


def _cell_shares(ways: np.ndarray, edges: list[np.ndarray]) -> np.ndarray:
    """Return the share of candidates that pass through each cell, including between tokens."""
    fine = np.concatenate(
        [(1 - s) * ways[:, :-1] + s * ways[:, 1:] for s in np.linspace(0, 1, 12)], axis=1
    )
    passes = np.zeros((len(edges[0]) - 1, len(edges[1]) - 1))
    for way in fine:
        counts, _, _ = np.histogram2d(way[:, 0], way[:, 1], bins=edges)
        passes += counts > 0
    return passes / len(ways)


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
    """Write a plan: candidates coloured by score, the chosen plan in bold, start and goal.

    A task with a position is drawn as a map. Other tasks, or tasks with `features`, are drawn over
    time, with a panel for each feature and each entry of an action.

    Args:
        plan: the plan, in raw units.
        path: the PNG to write.
        env: environment for background, feature names and goal; see `views`.
        position: indices of the two position features of an observation; see `views`.
        features: indices or names of features to draw over time.
        score_label: name of the score, for the colour bar.
        title: title of the picture.

    Raises:
        PgdiffError: if the observation does not have a position or feature.

    Example:
        >>> from tempfile import mkdtemp
        >>> from pgdiff.plotting import plan_picture
        >>> paths = np.random.default_rng(0).normal(size=(5, 4, 2)).cumsum(axis=1)
        >>> chosen = {"observations": paths[2], "actions": None, "best": 2, "stride": 1}
        >>> plan = Plan(candidates=paths, scores=np.arange(5.0), **chosen)
        >>> plan_picture(plan, f"{mkdtemp()}/plan.png", position=(0, 1)).name
        'plan.png'
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
    """Write two plans side by side with a common colour scale.

    Args:
        unguided: the plan on the left.
        guided: the plan on the right.
        path: the PNG to write.
        env: as in `plan_picture`.
        position: as in `plan_picture`.
        features: as in `plan_picture`; each has a row.
        score_label: as in `plan_picture`.
        titles: titles of the two plans, to which the mean score is added.
        title: title of the picture.

    Raises:
        PgdiffError: as in `plan_picture`.

    Example:
        >>> from tempfile import mkdtemp
        >>> from pgdiff.plotting import comparison_picture
        >>> paths = np.random.default_rng(0).normal(size=(5, 4, 2)).cumsum(axis=1)
        >>> chosen = {"observations": paths[2], "actions": None, "best": 2, "stride": 1}
        >>> plan = Plan(candidates=paths, scores=np.arange(5.0), **chosen)
        >>> comparison_picture(plan, plan, f"{mkdtemp()}/plans.png", position=(0, 1)).name
        'plans.png'
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
    """Draw candidates and the chosen plan; the axes also hold the plans in `beside`."""
    candidates = view.path("plan.candidates", plan.candidates, stride=plan.stride)
    best = view.path("plan.observations", plan.observations, stride=plan.stride)
    goal = resolve_goal(env, plan.goal)
    others = [view.path("plan.candidates", o.candidates, stride=o.stride) for o in beside]
    extent = np.concatenate([part.reshape(-1, 2) for part in (candidates, *others)])
    view.draw(axes, env, extent, goal=goal)
    scores = np.asarray(plan.scores, dtype=np.float64)
    lines = draw_candidates(axes, candidates, scores if np.isfinite(scores).any() else None, norm)
    draw_best(axes, best)
    draw_ends(axes, best[:1], goal if view.place else None)
    return lines


def _actions(plan: Plan) -> int:
    """Return the number of action entries to draw."""
    return 0 if plan.actions is None else min(plan.actions.shape[1], PANELS)


def _draw_actions(axes: Any, plan: Plan, number: int, env: Any) -> None:
    """Draw one entry of the chosen plan's actions, constant between actions, and its bounds."""
    assert plan.actions is not None
    # Action chunks hold one action per environment step; otherwise there is one per token.
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
    axes.set_xlim(*padded_limits(times.astype(np.float64)))
    axes.set_ylim(*padded_limits(np.array([*values, *bounds])))
    over_time(axes, TIME, action_names(env, plan.actions.shape[1])[number])


def _left_out(plan: Plan, shown: list[View], features: Features | None) -> str:
    """Return a note on the number of features that are not shown by default."""
    size = plan.observations.shape[-1]
    if features is not None or len(shown) == size:
        return ""
    return f"\nthe first {len(shown)} of {size} features; set `features` for others"
