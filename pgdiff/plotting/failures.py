"""The episodes that went worst, with the plans that were followed in them."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from pgdiff.plotting.canvas import INK, PathLike, colours, heading, new_figure, save_png
from pgdiff.plotting.scene import draw_ends, draw_place, goal_of, positions
from pgdiff.validation import PgdiffError, check_positive_int, require

_COLUMNS = 5


@dataclass(frozen=True, eq=False, kw_only=True)
class ShownEpisode:
    """One episode as a gallery shows it.

    Attributes:
        trajectory: its observations, raw units, shape [steps + 1, obs].
        seed: of the environment's reset.
        score: what stands above it.
        steps_to_goal: number of its first step at the goal; None where it never got there, NaN
            likewise.
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
    position: tuple[int, int] = (0, 1),
    plans: int = 4,
    unit: str = "score",
    title: str = "",
) -> Path:
    """Write a gallery: each episode's way, and the plans that it followed at a few times.

    The way is black; plans are coloured by the step at which they were first followed, with a dot
    where the agent then was. Where an environment draws its goals at resets, it is reset with each
    episode's seed before it draws itself.

    Args:
        episodes: from the worst on.
        path: the PNG to write.
        env: draws its background and tells its goal where it can.
        position: which two features of an observation are the place.
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
    columns = min(_COLUMNS, len(episodes))
    rows = math.ceil(len(episodes) / columns)
    figure = new_figure(2.9 * columns + 0.9, 3.1 * rows + 0.5, dpi=120)
    panels = figure.subplots(rows, columns, squeeze=False)
    last = max((step for e in episodes for step, _ in _shown_plans(e, plans)), default=1)
    norm = require("matplotlib.colors", extra="viz").Normalize(0, max(last, 1))
    for axes, episode in zip(panels.flat, episodes, strict=False):
        _draw(axes, episode, env, position, plans, norm)
        heading(axes, _heading(episode, unit))
        axes.title.set_fontsize(9)
    for axes in panels.flat[len(episodes) :]:
        axes.set_axis_off()
    if title:
        figure.suptitle(title, fontsize=12, color=INK, x=0.01, ha="left")
    if any(episode.plans for episode in episodes) and plans:
        mappable = require("matplotlib.cm", extra="viz").ScalarMappable(norm, colours())
        bar = figure.colorbar(mappable, ax=panels, fraction=0.02, pad=0.01, aspect=40)
        bar.outline.set_visible(False)
        bar.set_label("step at which the plan was taken", color=INK, fontsize=9)
    return save_png(figure, path)


def _draw(
    axes: Any,
    episode: ShownEpisode,
    env: Any,
    position: tuple[int, int],
    plans: int,
    norm: Any,
) -> None:
    effects = require("matplotlib.patheffects", extra="viz")
    places = positions("trajectory", episode.trajectory, position)
    if env is not None and hasattr(env, "reset"):
        env.reset(seed=episode.seed)  # draws the goal of that episode, where it is random
    draw_place(axes, env, places)
    axes.plot(
        *places.T,
        color=INK,
        linewidth=1.4,
        zorder=5,
        path_effects=[effects.Stroke(linewidth=2.6, foreground="white"), effects.Normal()],
    )
    axes.plot(*places[-1:].T, marker="s", color=INK, mec="white", mew=1.0, ms=6, zorder=9)
    for step, waypoints in _shown_plans(episode, plans):
        way = positions("plans", waypoints, position)
        colour = colours()(norm(step))
        axes.plot(*way.T, color=colour, linewidth=1.6, marker=".", markersize=4, zorder=6)
        here = places[min(step, len(places) - 1)]
        axes.plot(*here, marker="o", color=colour, mec="white", mew=0.8, ms=5.5, zorder=7)
    draw_ends(axes, places[:1], goal_of(env, episode.goal))
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
    arrived = first is not None and not math.isnan(first)
    when = f"first at the goal in step {first:.0f}" if arrived else "never at the goal"
    return f"seed {episode.seed}: {unit} {episode.score:.1f}\n{when}"
