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
    new_figure,
    pixels,
    save_gif,
)
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
from pgdiff.validation import PgdiffError, check_positive_int

_SIDE = 4.4  # inches; with _DPI the side in pixels, which decides the size of the file
_DPI = 100
_HOLD = 1500  # milliseconds that the last frame stays


def denoising_gif(
    frames: Sequence[Float[np.ndarray, "candidates tokens obs"]],
    levels: Sequence[float],
    path: PathLike,
    *,
    env: Any = None,
    scores: Float[np.ndarray, " candidates"] | None = None,
    position: tuple[int, int] = (0, 1),
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
        env: draws its background and tells its goal where it can.
        scores: one number for every candidate, for its colour; the best is drawn bold at the end.
        position: which two features of an observation are the place.
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
    paths = np.stack([positions("frames", frame, position) for frame in frames])
    shown, best = _chosen(scores, paths.shape[1], max_candidates)
    figure = new_figure(_SIDE, _SIDE, dpi=_DPI)
    axes = figure.add_subplot()
    draw_place(axes, env, paths[-1])
    norm: Any = None if scores is None else score_scale(scores)
    shades = None if norm is None else np.asarray(scores, dtype=np.float64)[shown]
    paint = QUIET if shades is None else colours()(norm(np.repeat(shades, paths.shape[2])))
    pictures = []
    draw_ends(axes, paths[-1][shown[0], :1], goal_of(env, goal))
    last = len(levels) - 1
    for index in even(last, max_frames):
        level = float(levels[index])
        lines = draw_candidates(axes, paths[index][shown], shades, norm)
        # Lines between way-points that are still noise are only clutter: they come as it goes.
        lines.set_alpha(0.8 * float(np.clip(1.0 - 2.0 * level, 0.0, 1.0)))
        points = paths[index][shown].reshape(-1, 2)
        dots = axes.scatter(points[:, 0], points[:, 1], s=7, color=paint, linewidth=0, zorder=6)
        artists = [lines, dots]
        if best is not None and index == last:
            artists.append(draw_best(axes, paths[index][best]))
        heading(axes, f"noise level {level:.2f}")
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
    position: tuple[int, int] = (0, 1),
    goal: Any = None,
    max_frames: int = 75,
    milliseconds: int = 80,
) -> Path:
    """Write an episode as it is acted out, over the plan of the moment.

    Args:
        trajectory: the observations of the episode, shape [steps + 1, obs].
        path: the GIF to write.
        env: draws its background and tells its goal where it can.
        plans: the plan that was followed at every step, shape [steps]; None where there was none.
        position: which two features of an observation are the place.
        goal: the goal, where the environment does not tell.
        max_frames: long episodes are shown in steps large enough for this many frames.
        milliseconds: how long a frame is shown; the last one stays longer.

    Raises:
        PgdiffError: if the trajectory is empty or `plans` has another length than its steps.
    """
    check_positive_int("max_frames", max_frames)
    check_positive_int("milliseconds", milliseconds)
    places = positions("trajectory", trajectory, position)
    steps = len(places) - 1
    if plans is not None and len(plans) != steps:
        raise PgdiffError(
            f"`plans` must hold one plan, or None, for each of the {steps} steps. Got {len(plans)}."
        )
    figure = new_figure(_SIDE, _SIDE, dpi=_DPI)
    axes = figure.add_subplot()
    draw_place(axes, env, places)
    draw_ends(axes, places[:1], goal_of(env, goal))
    (trace,) = axes.plot([], [], color=COLOURS[0], linewidth=2.2, zorder=6)
    (ahead,) = axes.plot([], [], color=COLOURS[1], linewidth=1.5, marker=".", ms=4, zorder=5)
    (body,) = axes.plot([], [], "o", color=COLOURS[0], mec="white", mew=1.4, ms=10, zorder=9)
    pictures = []
    for step in even(steps, max_frames):
        trace.set_data(*places[: step + 1].T)
        body.set_data(*places[step : step + 1].T)
        plan = plans[min(step, steps - 1)] if plans else None
        way = np.empty((0, 2)) if plan is None else positions("plans", plan.observations, position)
        ahead.set_data(*way.T)
        heading(axes, f"step {step} of {steps}")
        pictures.append(pixels(figure))
    times = [milliseconds] * (len(pictures) - 1) + [_HOLD]
    return save_gif(pictures, path, milliseconds=times)


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
