"""Moving pictures: a plan as its noise goes, and an episode as it is acted out."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from pgdiff.plotting.canvas import (
    COLOURS,
    QUIET,
    PathLike,
    colours,
    heading,
    legend,
    new_figure,
    pixels,
    save_gif,
)
from pgdiff.plotting.scene import (
    draw_best,
    draw_candidates,
    draw_ends,
    goal_of,
    score_scale,
)
from pgdiff.plotting.views import Features, View, views
from pgdiff.trajectory import Plan
from pgdiff.validation import PgdiffError, check_positive_int

_SIDE = 4.4  # inches; with _DPI the side in pixels, which decides the size of the file
_DPI = 100
_HOLD = 1500  # milliseconds that the last frame stays
_PANELS = 4  # features over time where none are chosen


def denoising_gif(
    frames: Sequence[Float[np.ndarray, "candidates tokens obs"]],
    levels: Sequence[float],
    path: PathLike,
    *,
    env: Any = None,
    scores: Float[np.ndarray, " candidates"] | None = None,
    position: tuple[int, int] | None = None,
    features: Features | None = None,
    stride: int = 1,
    goal: Any = None,
    milliseconds: int = 220,
    max_candidates: int = 24,
    max_frames: int = 30,
) -> Path:
    """Write how candidates turn from noise into plans, one frame for every sampling step.

    Args:
        frames: the trajectories, or their clean estimates, after every sampling step, in raw units.
        levels: noise level of every frame, 1 = noisiest, 0 = clean.
        path: the GIF to write.
        env: draws its background, names its features and states its goal where it can.
        scores: one number for every candidate, for its colour; the best is drawn bold at the end.
        position: which two features of an observation are the place; see `views`.
        features: indices or names of features to draw over time.
        stride: environment steps between tokens, for the axis of time.
        goal: the goal, where the environment does not tell.
        milliseconds: how long a frame is shown; the last one stays longer.
        max_candidates: more candidates than this are not drawn.
        max_frames: of more sampling steps than this, an even choice is shown.

    Raises:
        PgdiffError: if there are no frames, or not as many levels, or the frames differ in shape.
    """
    check_positive_int("milliseconds", milliseconds)
    check_positive_int("max_candidates", max_candidates)
    check_positive_int("max_frames", max_frames)
    if len(frames) == 0 or len(frames) != len(levels):
        raise PgdiffError(
            "`frames` must hold at least one frame, and `levels` one level for each. "
            f"Got {len(frames)} frames and {len(levels)} levels."
        )
    if len({np.shape(frame) for frame in frames}) != 1 or np.ndim(frames[0]) != 3:
        raise PgdiffError(
            "`frames` must all have one shape [candidates, tokens, obs]. "
            f"Got {sorted({str(np.shape(frame)) for frame in frames})}."
        )
    size = np.shape(frames[0])[-1]
    shown = views(env, size, position=position, features=features, most=_PANELS)
    figure, panels = _panels(shown)
    paths = [
        np.stack([view.path("frames", frame, stride=stride) for frame in frames]) for view in shown
    ]
    drawn, best = _chosen(scores, paths[0].shape[1], max_candidates)
    goal = goal_of(env, goal)
    norm: Any = None if scores is None else score_scale(scores)
    shades = None if norm is None else np.asarray(scores, dtype=np.float64)[drawn]
    paint = QUIET if shades is None else colours()(norm(np.repeat(shades, paths[0].shape[2])))
    for axes, view, path_ in zip(panels, shown, paths, strict=True):
        view.draw(axes, env, path_[-1] if view.place else _widened(path_[-1]), goal=goal)
        draw_ends(axes, path_[-1][drawn[0], :1], goal if view.place else None)
        if best is not None:
            draw_best(axes, np.empty((0, 2)))  # for the legend: it comes with the last frame
    pictures: list[Any] = []
    last = len(levels) - 1
    for index in even(last, max_frames):
        level = float(levels[index])
        artists: list[Any] = []
        for axes, path_ in zip(panels, paths, strict=True):
            lines = draw_candidates(axes, path_[index][drawn], shades, norm)
            if norm is not None:
                lines.set_label("candidates, yellow scores best")
            artists.append(lines)
        if not pictures:
            legend(figure, columns=2 if shown[0].place else 4)
        for axes, path_, lines in zip(panels, paths, tuple(artists), strict=True):
            # Lines between way-points that are still noise are only clutter: they fade in.
            lines.set_alpha(0.8 * float(np.clip(1.0 - 2.0 * level, 0.0, 1.0)))
            points = path_[index][drawn].reshape(-1, 2)
            dots = axes.scatter(points[:, 0], points[:, 1], s=7, color=paint, linewidth=0, zorder=6)
            artists.append(dots)
            if best is not None and index == last:
                artists.append(draw_best(axes, path_[index][best]))
        heading(panels[0], f"noise level {level:.2f}")
        pictures.append(pixels(figure))
        for artist in artists:
            artist.remove()
    times = [milliseconds] * (len(pictures) - 1) + [_HOLD]
    return save_gif(pictures, path, milliseconds=times)


def episode_gif(
    trajectory: Float[np.ndarray, "tokens obs"],
    path: PathLike,
    *,
    env: Any = None,
    plans: Sequence[Plan | None] | None = None,
    position: tuple[int, int] | None = None,
    features: Features | None = None,
    goal: Any = None,
    max_frames: int = 75,
    milliseconds: int = 80,
) -> Path:
    """Write an episode as it is acted out, over the plan of the moment.

    Args:
        trajectory: the observations of the episode, shape [steps + 1, obs].
        path: the GIF to write.
        env: draws its background, names its features and states its goal where it can.
        plans: the plan that was followed at every step, shape [steps]; None where there was none.
        position: which two features of an observation are the place; see `views`.
        features: indices or names of features to draw over time.
        goal: the goal, where the environment does not tell.
        max_frames: long episodes are shown in steps large enough for this many frames.
        milliseconds: how long a frame is shown; the last one stays longer.

    Raises:
        PgdiffError: if the trajectory is empty or `plans` has another length than its steps.
    """
    check_positive_int("max_frames", max_frames)
    check_positive_int("milliseconds", milliseconds)
    size = np.shape(trajectory)[-1] if np.ndim(trajectory) else 0
    time = "environment step"
    shown = views(env, size, position=position, features=features, time=time, most=_PANELS)
    ways = [view.path("trajectory", trajectory) for view in shown]
    steps = len(ways[0]) - 1
    if plans is not None and len(plans) != steps:
        raise PgdiffError(
            f"`plans` must hold one plan, or None, for each of the {steps} steps. Got {len(plans)}."
        )
    figure, panels = _panels(shown)
    goal = goal_of(env, goal)
    began = _beginnings(plans)
    marks = []
    for axes, view, way in zip(panels, shown, ways, strict=True):
        # Plans are part of the extent: they may go where the episode did not.
        futures = [
            view.path("plans", plan.observations, stride=plan.stride, start=began[step])
            for step, plan in enumerate(plans or ())
            if plan is not None and began[step] == step
        ]
        view.draw(axes, env, np.concatenate([way, *futures]), goal=goal)
        draw_ends(axes, way[:1], goal if view.place else None)
        (trace,) = axes.plot([], [], color=COLOURS[0], linewidth=2.2, zorder=6, label="episode")
        (ahead,) = axes.plot(
            [], [], color=COLOURS[1], linewidth=1.5, marker=".", ms=4, zorder=5, label="plan"
        )
        (body,) = axes.plot(
            [], [], "o", color=COLOURS[0], mec="white", mew=1.4, ms=10, zorder=9, label="now"
        )
        marks.append((trace, ahead, body))
    legend(figure, columns=3 if shown[0].place else 5)
    pictures = []
    for step in even(steps, max_frames):
        planned = min(step, steps - 1)
        plan = plans[planned] if plans else None
        for view, way, (trace, ahead, body) in zip(shown, ways, marks, strict=True):
            trace.set_data(*way[: step + 1].T)
            body.set_data(*way[step : step + 1].T)
            future = np.empty((0, 2))
            if plan is not None:
                future = view.path(
                    "plans", plan.observations, stride=plan.stride, start=began[planned]
                )
            ahead.set_data(*future.T)
        heading(panels[0], f"step {step} of {steps}")
        pictures.append(pixels(figure))
    times = [milliseconds] * (len(pictures) - 1) + [_HOLD]
    return save_gif(pictures, path, milliseconds=times)


def _panels(shown: list[View]) -> tuple[Any, list[Any]]:
    """Return a figure with an axes for each view: a square place, or rows of features."""
    if shown[0].place:
        figure = new_figure(_SIDE, _SIDE + 0.4, dpi=_DPI)  # the rest is for the legend
        return figure, [figure.add_subplot()]
    columns = min(2, len(shown))
    rows = -(-len(shown) // columns)
    figure = new_figure(3.6 * columns, 2.1 * rows + 0.4, dpi=_DPI)
    panels = list(figure.subplots(rows, columns, squeeze=False).flat)
    for axes in panels[len(shown) :]:
        axes.set_axis_off()
    return figure, panels[: len(shown)]


def _widened(path: Float[np.ndarray, "... 2"]) -> Float[np.ndarray, "points 2"]:
    """Return the extent of a path with as much room above and below, where its noise is seen."""
    flat = path.reshape(-1, 2)
    low, high = flat.min(axis=0), flat.max(axis=0)
    room = np.array([0.0, high[1] - low[1]])
    return np.stack([low - room, high + room])


def _beginnings(plans: Sequence[Plan | None] | None) -> list[int]:
    """Return for each step the one from which on its plan was followed."""
    began: list[int] = []
    for step, plan in enumerate(plans or ()):
        same = step > 0 and plan is (plans or ())[step - 1]
        began.append(began[-1] if same else step)
    return began


def even(last: int, most: int) -> list[int]:
    """Return at most `most` numbers from 0 to `last`, evenly spread; `last` is among them."""
    count = min(most, last + 1)
    spread = np.linspace(0, last, count) if count > 1 else np.array([last])
    return [int(number) for number in spread.round()]


def _chosen(
    scores: Float[np.ndarray, " candidates"] | None, count: int, most: int
) -> tuple[np.ndarray, int | None]:
    """Return which candidates to draw, and the best where there is one; the best is among them."""
    shown = np.arange(min(count, most))
    if scores is None:
        return shown, None
    values = np.asarray(scores, dtype=np.float64)
    if values.shape != (count,):
        raise PgdiffError(f"`scores` must have shape ({count},). Got {values.shape}.")
    if not np.isfinite(values).any():
        return shown, None
    best = int(np.nanargmax(values))
    if best not in shown:
        shown[-1] = best
    return shown, best
