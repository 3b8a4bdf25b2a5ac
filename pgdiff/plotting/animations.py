"""Animations of the denoising of a plan and of an episode."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from pgdiff.core.validation import PgdiffError, check_positive_int
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
    resolve_goal,
    score_scale,
)
from pgdiff.plotting.views import Features, View, views
from pgdiff.trajectory import Plan

_SIDE = 4.4  # inches; with _DPI the side in pixels, which determines the size of the file
_DPI = 100
_HOLD = 1500  # milliseconds that the last frame is shown
_PANELS = 4  # default number of features over time


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
    """Write an animation of the denoising of candidates, with one frame per sampling step.

    Args:
        frames: the trajectories, or their clean estimates, after every sampling step, in raw units.
        levels: noise level of every frame, from 1 (noise) to 0 (clean).
        path: the GIF to write.
        env: environment for background, feature names and goal; see `views`.
        scores: score of every candidate, for its colour; the best is drawn in bold in the end.
        position: indices of the two position features of an observation; see `views`.
        features: indices or names of features to draw over time.
        stride: environment steps between tokens, for the time axis.
        goal: the goal; None for the environment's goal.
        milliseconds: duration of a frame; larger values are slower. The last one is shown longer.
        max_candidates: maximum number of candidates that are drawn.
        max_frames: maximum number of frames, evenly spaced over the sampling steps.

    Raises:
        PgdiffError: if there are no frames, or levels and frames differ in number, or the frames
            differ in shape.

    Example:
        >>> from tempfile import mkdtemp
        >>> from pgdiff.plotting import denoising_gif
        >>> frames = [scale * np.ones((1, 3, 4)) for scale in (2.0, 1.0)]
        >>> denoising_gif(frames, [0.5, 0.0], f"{mkdtemp()}/denoising.gif", position=(0, 1)).name
        'denoising.gif'
    """
    check_positive_int("milliseconds", milliseconds)
    check_positive_int("max_candidates", max_candidates)
    check_positive_int("max_frames", max_frames)
    if len(frames) == 0 or len(frames) != len(levels):
        raise PgdiffError(
            "`frames` must hold at least one frame, and `levels` one level for each frame. "
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
    drawn, best = _select_candidates(scores, paths[0].shape[1], max_candidates)
    goal = resolve_goal(env, goal)
    norm: Any = None if scores is None else score_scale(scores)
    shades = None if norm is None else np.asarray(scores, dtype=np.float64)[drawn]
    paint = QUIET if shades is None else colours()(norm(np.repeat(shades, paths[0].shape[2])))
    for axes, view, path_ in zip(panels, shown, paths, strict=True):
        view.draw(axes, env, path_[-1] if view.place else _widen(path_[-1]), goal=goal)
        draw_ends(axes, path_[-1][drawn[0], :1], goal if view.place else None)
        if best is not None:
            draw_best(axes, np.empty((0, 2)))  # for the legend: it appears in the last frame
    pictures: list[Any] = []
    last = len(levels) - 1
    for index in evenly_spaced(last, max_frames):
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
            # Lines between noisy way-points are clutter, so the lines fade in.
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
    """Write an animation of an episode together with the plan that is followed at each step.

    Args:
        trajectory: the observations of the episode, shape [steps + 1, obs].
        path: the GIF to write.
        env: environment for background, feature names and goal; see `views`.
        plans: the plan that was followed at each of the steps; None for a step without a plan.
        position: indices of the two position features of an observation; see `views`.
        features: indices or names of features to draw over time.
        goal: the goal; None for the environment's goal.
        max_frames: maximum number of frames, evenly spaced over the episode.
        milliseconds: duration of a frame; larger values are slower. The last one is shown longer.

    Raises:
        PgdiffError: if the trajectory is empty or `plans` does not hold one entry per step.

    Example:
        >>> from tempfile import mkdtemp
        >>> from pgdiff.plotting import episode_gif
        >>> trajectory = np.linspace([0.0, 0.0], [2.0, 1.0], num=3)
        >>> episode_gif(trajectory, f"{mkdtemp()}/episode.gif", position=(0, 1)).name
        'episode.gif'
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
            f"`plans` must hold one plan, or None, for each of the {steps} steps. Got {len(plans)} "
            "entries."
        )
    figure, panels = _panels(shown)
    goal = resolve_goal(env, goal)
    starts = _plan_starts(plans)
    marks = []
    for axes, view, way in zip(panels, shown, ways, strict=True):
        # Plans are part of the extent, because they may leave the episode's path.
        futures = [
            view.path("plans", plan.observations, stride=plan.stride, start=starts[step])
            for step, plan in enumerate(plans or ())
            if plan is not None and starts[step] == step
        ]
        view.draw(axes, env, np.concatenate([way, *futures]), goal=goal)
        draw_ends(axes, way[:1], goal if view.place else None)
        (trace,) = axes.plot([], [], color=COLOURS[0], linewidth=2.2, zorder=6, label="episode")
        (future_line,) = axes.plot(
            [], [], color=COLOURS[1], linewidth=1.5, marker=".", ms=4, zorder=5, label="plan"
        )
        (body,) = axes.plot(
            [], [], "o", color=COLOURS[0], mec="white", mew=1.4, ms=10, zorder=9, label="now"
        )
        marks.append((trace, future_line, body))
    legend(figure, columns=3 if shown[0].place else 5)
    pictures = []
    for step in evenly_spaced(steps, max_frames):
        planned = min(step, steps - 1)
        plan = plans[planned] if plans else None
        for view, way, (trace, future_line, body) in zip(shown, ways, marks, strict=True):
            trace.set_data(*way[: step + 1].T)
            body.set_data(*way[step : step + 1].T)
            future = np.empty((0, 2))
            if plan is not None:
                future = view.path(
                    "plans", plan.observations, stride=plan.stride, start=starts[planned]
                )
            future_line.set_data(*future.T)
        heading(panels[0], f"step {step} of {steps}")
        pictures.append(pixels(figure))
    times = [milliseconds] * (len(pictures) - 1) + [_HOLD]
    return save_gif(pictures, path, milliseconds=times)


def _panels(shown: list[View]) -> tuple[Any, list[Any]]:
    """Return a figure with axes for each view: one square map, or rows of features."""
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


def _widen(path: Float[np.ndarray, "... 2"]) -> Float[np.ndarray, "points 2"]:
    """Return the extent of a path with the same room above and below, where its noise is drawn."""
    flat = path.reshape(-1, 2)
    low, high = flat.min(axis=0), flat.max(axis=0)
    room = np.array([0.0, high[1] - low[1]])
    return np.stack([low - room, high + room])


def _plan_starts(plans: Sequence[Plan | None] | None) -> list[int]:
    """Return for each step the step at which its plan was first followed."""
    starts: list[int] = []
    for step, plan in enumerate(plans or ()):
        same = step > 0 and plan is (plans or ())[step - 1]
        starts.append(starts[-1] if same else step)
    return starts


def evenly_spaced(last: int, most: int) -> list[int]:
    """Return at most `most` evenly spaced integers from 0 to `last`, including `last`."""
    count = min(most, last + 1)
    spread = np.linspace(0, last, count) if count > 1 else np.array([last])
    return [int(number) for number in spread.round()]


def _select_candidates(
    scores: Float[np.ndarray, " candidates"] | None, count: int, most: int
) -> tuple[np.ndarray, int | None]:
    """Return the indices of the drawn candidates, which include the best, and of the best."""
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
