"""The episodes that went worst, with the plans that were followed in them."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

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
from pgdiff.plotting.scene import draw_ends, goal_of
from pgdiff.plotting.views import Features, View, views
from pgdiff.validation import PgdiffError, check_positive_int, require

_COLUMNS = 5
_PANELS = 3  # features over time where none are chosen


@dataclass(frozen=True, eq=False, kw_only=True)
class ShownEpisode:
    """One episode as a gallery shows it.

    Attributes:
        trajectory: its observations, raw units, shape [steps + 1, obs].
        seed: of the environment's reset.
        score: what stands above it.
        steps_to_goal: number of its first step at the goal; NaN where it never got there, None
            where the task has no goal.
        plans: each plan with the step from which on it was followed; way-points [tokens, obs].
        goal: (x, y); None for the environment's own.
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
    """Return the numbers of the worst episodes: those that never arrived first, then by score.

    Args:
        scores: of every episode.
        count: at most so many.
        steps_to_goal: NaN where an episode never arrived.
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
    """Write a gallery: each episode's way, and the plans that it followed at a few times.

    The way is black; plans are coloured by the step at which they were first followed, with a dot
    where the agent then was. Where an environment draws its goals at resets, it is reset with each
    episode's seed before it draws itself. A task without a place has a panel for each feature, over
    time.

    Args:
        episodes: from the worst on.
        path: the PNG to write.
        env: draws its background, names its features and states its goal where it can.
        position: which two features of an observation are the place; see `views`.
        features: indices or names of features to draw over time.
        stride: environment steps between the way-points of a plan, for the axis of time.
        plans: how many of its plans at most are drawn in each episode, evenly over its time
            until it is first at the goal.
        unit: what the score is, for the titles.
        title: stands above the gallery.

    Raises:
        PgdiffError: there are no episodes, or a trajectory does not hold the position.
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
    last = max((step for e in episodes for step, _ in _shown_plans(e, plans)), default=1)
    norm = require("matplotlib.colors", extra="viz").Normalize(0, max(last, 1))
    for axes in panels.flat:
        axes.set_axis_off()
    for number, episode in enumerate(episodes):
        row, column = divmod(number, columns)
        if env is not None and hasattr(env, "reset"):
            env.reset(seed=episode.seed)  # draws the goal of that episode, where it is random
        block = panels[row * len(shown) : (row + 1) * len(shown), column]
        for axes, view in zip(block, shown, strict=True):
            axes.set_axis_on()
            _draw(axes, episode, env, view, stride, _shown_plans(episode, plans), norm)
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
    goal = goal_of(env, episode.goal)
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


def _shown_plans(episode: ShownEpisode, most: int) -> list[tuple[int, np.ndarray]]:
    """At most so many of the plans on the way to the goal, evenly spread; the first among them."""
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
