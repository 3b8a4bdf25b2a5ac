"""Picture of the effect of guides on a plan: objectives, pushes and actions."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pgdiff.planning.explanation import Explanation
from pgdiff.plotting.canvas import (
    COLOURS,
    GOAL,
    INK,
    MAP,
    QUIET,
    PathLike,
    caption,
    colour_bar,
    heading,
    new_figure,
    save_png,
    style_axes,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes

BINS = 40


def explanation_picture(explanation: Explanation, path: PathLike, *, title: str = "") -> Path:
    """Write a picture of the effect of guides on a plan.

    Each guide has a column. Its upper panel shows the objective along the denoising: of the chosen
    candidate, of all candidates, and without guides. Its lower panel shows the push on each token
    of the chosen candidate. The last column shows the size of the pushes, the share that a trust
    region kept, and, for a model with actions, the actions of all candidates with their bounds.

    Args:
        explanation: the result of `pgdiff.explain`.
        path: the PNG to write.
        title: title of the picture.

    Example:
        >>> from pgdiff.plotting import explanation_picture
        >>> explanation = pgdiff.explain(planner, observation)  # doctest: +SKIP
        >>> explanation_picture(explanation, "explanation.png")  # doctest: +SKIP
    """
    guides = len(explanation.guides)
    figure = new_figure(4.4 * (guides + 1), 7.2)
    axes = figure.subplots(2, guides + 1, squeeze=False)
    largest = np.nanmax(explanation.push_tokens, initial=0.0)
    for number in range(guides):
        _draw_objective(axes[0, number], explanation, number)
        mesh = _draw_push_tokens(axes[1, number], explanation, number, largest)
    colour_bar(figure, mesh, axes[1, guides - 1], "push, of the denoiser's own step")
    _draw_push_sizes(axes[0, guides], explanation)
    if explanation.guided.actions is None:
        axes[1, guides].remove()
    else:
        _draw_actions(axes[1, guides], explanation)
    if title:
        caption(figure, title)
    return save_png(figure, path)


def _draw_objective(axes: "Axes", explanation: Explanation, guide: int) -> None:
    """Draw the objective at the points of its gradient, and of the clean plan in the end."""
    noise, best = explanation.noise, explanation.best
    colour = COLOURS[guide % len(COLOURS)]
    objective, free = (
        outcome.objective[guide] for outcome in (explanation.guided, explanation.unguided)
    )
    mean, deviation = objective.mean(axis=1), objective.std(axis=1)
    axes.fill_between(
        noise, mean - deviation, mean + deviation, color=colour, alpha=0.18, linewidth=0
    )
    axes.plot(noise, mean, color=colour, linewidth=1.4, label="guided, mean and deviation")
    axes.plot(noise, objective[:, best], "o-", color=INK, markersize=3, label="guided, chosen")
    axes.plot(noise, free.mean(axis=1), "--", color=QUIET, label="unguided, mean")
    _orient_noise_axis(axes, noise)
    style_axes(axes, x="noise level", y="objective")
    scale = explanation.scales[guide]
    heading(axes, f"Objective of {explanation.guides[guide]} x {scale:g}")
    axes.legend(loc="best", frameon=False, fontsize=8, labelcolor=INK)


def _draw_push_tokens(axes: "Axes", explanation: Explanation, guide: int, largest: float) -> Any:
    pushes = explanation.push_tokens[guide]
    rows, tokens = pushes.shape
    mesh = axes.pcolormesh(
        np.arange(tokens + 1) - 0.5,
        np.arange(rows + 1) + 0.5,
        np.ma.masked_invalid(pushes),
        cmap=MAP,
        vmin=0.0,
        vmax=largest or 1.0,
    )
    axes.invert_yaxis()
    axes.set_facecolor("#e4e7eb")
    style_axes(axes, x="token (grey: nothing moves)", y="sampling step")
    axes.locator_params(integer=True)
    heading(axes, f"Push of {explanation.guides[guide]}, chosen plan")
    return mesh


def _draw_push_sizes(axes: "Axes", explanation: Explanation) -> None:
    """Draw the size of the pushes in each step, and the share that a trust region kept."""
    noise, best = explanation.noise[:-1], explanation.best
    for number, name in enumerate(explanation.guides):
        colour = COLOURS[number % len(COLOURS)]
        pushes = np.where(explanation.push[number] > 0, explanation.push[number], np.nan)
        axes.plot(noise, pushes[:, best], "o-", color=colour, markersize=3, label=name)
        least, most = pushes.min(axis=1), pushes.max(axis=1)
        axes.fill_between(noise, least, most, color=colour, alpha=0.18, linewidth=0)
    if (explanation.push > 0).any():
        axes.set_yscale("log")
    _orient_noise_axis(axes, noise)
    style_axes(axes, x="noise level", y="push, of the denoiser's own step")
    heading(axes, "Size of the pushes (band: all candidates)")
    handles, labels = axes.get_legend_handles_labels()
    if explanation.kept is not None:
        other = axes.twinx()
        (line,) = other.plot(noise, explanation.kept[:, best], "s--", color=GOAL, markersize=3)
        other.set_ylim(0.0, 1.05)
        style_axes(other, y="kept by the trust region")
        other.spines["right"].set_visible(True)
        other.spines["right"].set_color(QUIET)
        handles, labels = [*handles, line], [*labels, "kept (right)"]
    axes.legend(handles, labels, loc="best", frameon=False, fontsize=8, labelcolor=INK)


def _draw_actions(axes: "Axes", explanation: Explanation) -> None:
    """Draw the actions of all candidates; finite bounds are scaled to -1 and 1."""
    guided, free = (outcome.actions for outcome in (explanation.guided, explanation.unguided))
    assert guided is not None and free is not None
    low, high = explanation.low, explanation.high
    label = "action"
    if low is not None and high is not None and np.isfinite([low, high]).all():
        guided, free = (2 * (part - low) / (high - low) - 1 for part in (guided, free))
        for bound in (-1.0, 1.0):
            axes.axvline(bound, color=GOAL, linewidth=1.0)
        label = "action, bounds at -1 and 1"
    both = np.concatenate([guided.ravel(), free.ravel()])
    edges = np.linspace(both.min(), both.max() + 1e-9, BINS + 1)
    axes.hist(guided.ravel(), edges.tolist(), color=COLOURS[0], alpha=0.6, label="guided")
    axes.hist(free.ravel(), edges.tolist(), histtype="step", color=INK, label="unguided")
    style_axes(axes, x=label, y="count, all candidates")
    heading(axes, "Actions")
    axes.legend(loc="best", frameon=False, fontsize=8, labelcolor=INK)


def _orient_noise_axis(axes: "Axes", noise: np.ndarray) -> None:
    """Orient the horizontal axis from noise to clean."""
    axes.set_xlim(max(noise.max(), 1e-3) * 1.02, min(noise.min(), 0.0) - 0.02)
