"""What guides did to a plan: energies, pushes and actions."""

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
    tidy,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes

BINS = 40


def explanation_picture(explanation: Explanation, path: PathLike, *, title: str = "") -> Path:
    """Write what guides did to a plan.

    Each guide has a column: above its energy along the denoising, of the chosen candidate, of all
    and without guides; below its push on each token of the chosen candidate. The last column has
    the size of the pushes with what a trust region kept of them, and, of a model with actions,
    those of all candidates against their bounds.

    Args:
        explanation: what `Planner.explain` returned.
        path: the PNG to write.
        title: stands above the picture.
    """
    guides = len(explanation.guides)
    figure = new_figure(4.4 * (guides + 1), 7.2)
    axes = figure.subplots(2, guides + 1, squeeze=False)
    largest = np.nanmax(explanation.push_tokens, initial=0.0)
    for number in range(guides):
        _energy(axes[0, number], explanation, number)
        mesh = _tokens(axes[1, number], explanation, number, largest)
    colour_bar(figure, mesh, axes[1, guides - 1], "push, of the denoiser's own step")
    _sizes(axes[0, guides], explanation)
    if explanation.guided.actions is None:
        axes[1, guides].remove()
    else:
        _actions(axes[1, guides], explanation)
    if title:
        caption(figure, title)
    return save_png(figure, path)


def _energy(axes: "Axes", explanation: Explanation, guide: int) -> None:
    """Energy at the points where the gradient was taken, and at last of the clean plan."""
    noise, best = explanation.noise, explanation.best
    colour = COLOURS[guide % len(COLOURS)]
    energy, free = (found.energy[guide] for found in (explanation.guided, explanation.unguided))
    mean, deviation = energy.mean(axis=1), energy.std(axis=1)
    axes.fill_between(
        noise, mean - deviation, mean + deviation, color=colour, alpha=0.18, linewidth=0
    )
    axes.plot(noise, mean, color=colour, linewidth=1.4, label="guided, mean and deviation")
    axes.plot(noise, energy[:, best], "o-", color=INK, markersize=3, label="guided, chosen")
    axes.plot(noise, free.mean(axis=1), "--", color=QUIET, label="unguided, mean")
    _from_noise_on(axes, noise)
    tidy(axes, x="noise level", y="energy")
    scale = explanation.scales[guide]
    heading(axes, f"Energy of {explanation.guides[guide]} x {scale:g}")
    axes.legend(loc="best", frameon=False, fontsize=8, labelcolor=INK)


def _tokens(axes: "Axes", explanation: Explanation, guide: int, largest: float) -> Any:
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
    tidy(axes, x="token (grey: nothing moves)", y="sampling step")
    axes.locator_params(integer=True)
    heading(axes, f"Push of {explanation.guides[guide]}, chosen plan")
    return mesh


def _sizes(axes: "Axes", explanation: Explanation) -> None:
    """Sizes of the pushes in each step, and the share of them that a trust region kept."""
    noise, best = explanation.noise[:-1], explanation.best
    for number, name in enumerate(explanation.guides):
        colour = COLOURS[number % len(COLOURS)]
        pushes = np.where(explanation.push[number] > 0, explanation.push[number], np.nan)
        axes.plot(noise, pushes[:, best], "o-", color=colour, markersize=3, label=name)
        least, most = pushes.min(axis=1), pushes.max(axis=1)
        axes.fill_between(noise, least, most, color=colour, alpha=0.18, linewidth=0)
    if (explanation.push > 0).any():
        axes.set_yscale("log")
    _from_noise_on(axes, noise)
    tidy(axes, x="noise level", y="push, of the denoiser's own step")
    heading(axes, "Size of the pushes (band: all candidates)")
    handles, labels = axes.get_legend_handles_labels()
    if explanation.kept is not None:
        other = axes.twinx()
        (line,) = other.plot(noise, explanation.kept[:, best], "s--", color=GOAL, markersize=3)
        other.set_ylim(0.0, 1.05)
        tidy(other, y="kept by the trust region")
        other.spines["right"].set_visible(True)
        other.spines["right"].set_color(QUIET)
        handles, labels = [*handles, line], [*labels, "kept (right)"]
    axes.legend(handles, labels, loc="best", frameon=False, fontsize=8, labelcolor=INK)


def _actions(axes: "Axes", explanation: Explanation) -> None:
    """Actions of all candidates, scaled so that their bounds are -1 and 1 where there are some."""
    guided, free = (found.actions for found in (explanation.guided, explanation.unguided))
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
    tidy(axes, x=label, y="count, all candidates")
    heading(axes, "Actions")
    axes.legend(loc="best", frameon=False, fontsize=8, labelcolor=INK)


def _from_noise_on(axes: "Axes", noise: np.ndarray) -> None:
    """Let the axis go from noise to clean."""
    axes.set_xlim(max(noise.max(), 1e-3) * 1.02, min(noise.min(), 0.0) - 0.02)
