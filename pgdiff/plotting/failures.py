"""Gallery of the worst episodes with the plans that were followed in them."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from pgdiff.core.validation import PgdiffError, check_positive_int, require
from pgdiff.plotting.canvas import (
    INK,
    PathLike,
    caption,
    colours,
    heading,
    legend,
    new_figure,
    save_png,
)
from pgdiff.plotting.scene import draw_ends, resolve_goal
from pgdiff.plotting.views import Features, View, views

_COLUMNS = 5
_PANELS = 3  # default number of features over time


@dataclass(frozen=True, eq=False, kw_only=True)
class ShownEpisode:
    """An episode of a gallery.

    Attributes:
        trajectory: observations of the episode, raw units, shape [steps + 1, obs].
        seed: seed of the environment's reset.
        score: score in the title of the episode.
        steps_to_goal: number of the first step at the goal; NaN if the episode never arrived, None
            for a task without a goal.
        plans: pairs of the step at which a plan was first followed and its way-points
            [tokens, obs].
        goal: goal (x, y); None for the environment's goal.

    Example:
        >>> from pgdiff.plotting import ShownEpisode
        >>> trajectory = np.linspace([0.0, 0.0], [2.0, 1.0], num=11)
        >>> ShownEpisode(trajectory=trajectory, seed=3, score=12.5).steps_to_goal is None
        True
    """

    trajectory: Float[np.ndarray, "tokens obs"]
    seed: int
    score: float
    steps_to_goal: float | None = None
    plans: Sequence[tuple[int, Float[np.ndarray, "tokens obs"]]] = ()
    goal: Any = None


def worst(
    scores: Float[np.ndarray, " episodes"],
    count: int,
    *,
    steps_to_goal: Float[np.ndarray, " episodes"] | None = None,
) -> list[int]:
    """Return the indices of the worst episodes: first episodes that never arrived, then by score.

    Args:
        scores: score of every episode.
        count: maximum number of indices.
        steps_to_goal: steps of every episode to the goal; NaN if it never arrived.

    Example:
        >>> from pgdiff.plotting import worst
        >>> worst([50.0, 10.0, 90.0, 30.0], 2)
        [1, 3]
        >>> worst([50.0, 10.0, 90.0], 2, steps_to_goal=[40.0, 70.0, float("nan")])
        [2, 1]
    """
    values = np.asarray(scores, dtype=np.float64)
    never = np.zeros(len(values), dtype=bool)
    if steps_to_goal is not None:
        never = np.isnan(np.asarray(steps_to_goal, dtype=np.float64))
    order = np.lexsort((values, ~never))
    return [int(number) for number in order[: check_positive_int("count", count)]]


def failures_picture(
    episodes: Sequence[ShownEpisode],
    path: PathLike,
    *,
    env: Any = None,
    position: tuple[int, int] | None = None,
    features: Features | None = None,
    stride: int = 1,
    plans: int = 4,
    unit: str = "score",
    title: str = "",
) -> Path:
    """Write a gallery of episodes, each with its path and some of the plans that it followed.

    The path is black. Plans are coloured by the step at which they were first followed, with a dot
    at the agent's position in that step. An environment with `reset` is reset with each episode's
    seed, which draws the episode's goal. A task without a position has a panel for each feature
    over time.

    Args:
        episodes: the episodes, from the worst to the best.
        path: the PNG to write.
        env: environment for background, feature names and goal; see `views`.
        position: indices of the two position features of an observation; see `views`.
        features: indices or names of features to draw over time.
        stride: environment steps between the way-points of a plan, for the time axis.
        plans: maximum number of plans drawn in each episode, evenly spaced until its first step at
            the goal.
        unit: name of the score, for the titles.
        title: title of the gallery.

    Raises:
        PgdiffError: if there are no episodes, or a trajectory does not contain the position.

    Example:
        >>> from tempfile import mkdtemp
        >>> from pgdiff.plotting import ShownEpisode, failures_picture
        >>> trajectory = np.linspace([0.0, 0.0], [2.0, 1.0], num=11)
        >>> episode = ShownEpisode(trajectory=trajectory, seed=3, score=12.5)
        >>> failures_picture([episode], f"{mkdtemp()}/failures.png", position=(0, 1)).name
        'failures.png'
    """
    check_positive_int("plans", plans, minimum=0)
    if not episodes:
        raise PgdiffError("`episodes` must hold at least one episode. Got none.")
    size = np.shape(episodes[0].trajectory)[-1]
    shown = views(
        env, size, position=position, features=features, time="environment step", most=_PANELS
    )
    columns = min(_COLUMNS, len(episodes))
    rows = math.ceil(len(episodes) / columns) * len(shown)
    height = 3.3 if shown[0].place else 1.9
    figure = new_figure(max(2.9 * columns + 0.9, 4.6), height * rows + 0.8, dpi=120)
    panels = figure.subplots(rows, columns, squeeze=False)
    last = max((step for e in episodes for step, _ in _select_plans(e, plans)), default=1)
    norm = require("matplotlib.colors", extra="viz").Normalize(0, max(last, 1))
    for axes in panels.flat:
        axes.set_axis_off()
    for number, episode in enumerate(episodes):
        row, column = divmod(number, columns)
        if env is not None and hasattr(env, "reset"):
            env.reset(seed=episode.seed)  # draws the episode's goal if goals are random
        block = panels[row * len(shown) : (row + 1) * len(shown), column]
        for axes, view in zip(block, shown, strict=True):
            axes.set_axis_on()
            _draw(axes, episode, env, view, stride, _select_plans(episode, plans), norm)
        heading(block[0], _heading(episode, unit))
        block[0].title.set_fontsize(9)
    if title:
        caption(figure, title)
    legend(figure, columns=3 if columns < 3 else 6)
    if any(episode.plans for episode in episodes) and plans:
        mappable = require("matplotlib.cm", extra="viz").ScalarMappable(norm, colours())
        bar = figure.colorbar(mappable, ax=panels, fraction=0.02, pad=0.01, aspect=40)
        bar.outline.set_visible(False)
        bar.set_label("environment step at which the plan was made", color=INK, fontsize=9)
    return save_png(figure, path)


def _draw(
    axes: Any,
    episode: ShownEpisode,
    env: Any,
    view: View,
    stride: int,
    plans: Sequence[tuple[int, np.ndarray]],
    norm: Any,
) -> None:
    effects = require("matplotlib.patheffects", extra="viz")
    places = view.path("trajectory", episode.trajectory)
    goal = resolve_goal(env, episode.goal)
    ways = [view.path("plans", way, stride=stride, start=step) for step, way in plans]
    view.draw(axes, env, np.concatenate([places, *ways]), goal=goal)
    axes.plot(
        *places.T,
        color=INK,
        linewidth=1.4,
        zorder=5,
        label="episode",
        path_effects=[effects.Stroke(linewidth=2.6, foreground="white"), effects.Normal()],
    )
    axes.plot(
        *places[-1:].T,
        marker="s",
        linestyle="none",
        color=INK,
        mec="white",
        mew=1.0,
        ms=6,
        zorder=9,
        label="end of the episode",
    )
    for (step, _), way in zip(plans, ways, strict=True):
        colour = colours()(norm(step))
        axes.plot(
            *way.T, color=colour, linewidth=1.6, marker=".", ms=4, zorder=6, label="plan followed"
        )
        axes.plot(
            *places[min(step, len(places) - 1)],
            marker="o",
            linestyle="none",
            color=colour,
            mec="white",
            mew=0.8,
            ms=5.5,
            zorder=7,
            label="agent when that plan was made",
        )
    draw_ends(axes, places[:1], goal if view.place else None)
    for marks in axes.collections[-2:]:
        marks.set_sizes(marks.get_sizes() * 0.5)


def _select_plans(episode: ShownEpisode, most: int) -> list[tuple[int, np.ndarray]]:
    """Return at most `most` evenly spaced plans before the goal, including the first plan."""
    first = episode.steps_to_goal
    until = math.inf if first is None or math.isnan(first) else first
    plans = [(step, way) for step, way in episode.plans if step <= until]
    if len(plans) <= most:
        return plans
    numbers = np.arange(most) * len(plans) // max(most, 1)
    return [plans[int(number)] for number in numbers]


def _heading(episode: ShownEpisode, unit: str) -> str:
    first = episode.steps_to_goal
    line = f"seed {episode.seed}: {unit} {episode.score:.1f}"
    if first is None:
        return line
    when = "never at the goal" if math.isnan(first) else f"at the goal in step {first:.0f}"
    return f"{line}\n{when}"
