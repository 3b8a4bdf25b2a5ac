"""Generated data sets beside real rows: errors by position, marginals, coverage."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pgdiff.data import Episodes
from pgdiff.data.transitions import rows_of
from pgdiff.plotting.canvas import COLOURS, INK, PathLike, heading, new_figure, save_png, tidy
from pgdiff.plotting.names import action_names, observation_names

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MEASURES = ("density", "coverage", "precision", "recall")
LEAST = 1e-3  # errors are drawn there that are smaller, as those of real rows


def fidelity_picture(found: Mapping[str, Any], path: PathLike) -> Path:
    """Write errors by position, and coverage, of every data set.

    Args:
        found: what `pgdiff.evaluation.Fidelity.to_dict` gives.
        path: the PNG to write.
    """
    figure = new_figure(11.0, 3.6)
    one, replay, bars = figure.subplots(1, 3)
    columns = found["columns"]
    for number, (name, column) in enumerate(columns.items()):
        colour, line = _look(number)
        for axes, key in ((one, "steps"), (replay, "replay")):
            if column[key] is not None:
                _line(axes, column[key], colour, line)
        heights = [column["coverage"][measure] for measure in MEASURES]
        width = 0.8 / len(columns)
        place = np.arange(4) + (number + 0.5) * width - 0.4
        hatch = None if line == "-" else "///"
        bars.bar(place, heights, width, color=colour, label=name, hatch=hatch, edgecolor="white")
    for axes, title in ((one, "One step, from each row"), (replay, "Replay of all actions")):
        heading(axes, title)
        tidy(axes, x="position in the trajectory", y="error, in one-step changes")
        if found["exact"]:
            axes.set_yscale("log")
        else:
            axes.text(0.5, 0.5, "not simulated", ha="center", transform=axes.transAxes)
    heading(bars, "Neighbourhoods")
    tidy(bars, x="measure", y="value of the measure")
    bars.set_xticks(np.arange(4), MEASURES)
    figure.legend(frameon=False, fontsize=8, loc="outside right upper")
    return save_png(figure, path)


def marginals_picture(
    data: Mapping[str, Episodes],
    path: PathLike,
    *,
    env: Any = None,
    rows: int = 20_000,
    features: int = 24,
) -> Path:
    """Write histograms of the first features of rows: observations, actions, rewards.

    Args:
        data: by name; the first, of real rows, gives the range.
        path: the PNG to write.
        env: names its features where it can.
        rows: of each, the first ones.
        features: shown at most.
    """
    shown = {name: _rows(episodes, rows) for name, episodes in data.items()}
    real = next(iter(data.values()))
    names = [
        *observation_names(env, real.observations.shape[1], layout=real.observation_layout),
        *action_names(env, real.actions.shape[1]),
        "reward",
    ]
    # Where not all fit, the last ones stay: actions and reward.
    chosen = list(range(len(names)))[-features:]
    columns = min(6, len(chosen))
    height = -(-len(chosen) // columns)
    figure = new_figure(2.1 * columns, 1.6 * height + 0.4)
    grid = np.atleast_1d(figure.subplots(height, columns)).ravel()
    for axes in grid[len(chosen) :]:
        axes.set_axis_off()
    for axes, feature in zip(grid, chosen, strict=False):
        low, high = np.quantile(next(iter(shown.values()))[:, feature], [0.001, 0.999])
        bins = np.linspace(low, high if high > low else low + 1, 41)
        for number, (name, values) in enumerate(shown.items()):
            axes.hist(
                np.clip(values[:, feature], bins[0], bins[-1]),
                bins=bins.tolist(),
                density=True,
                histtype="step",
                color=_look(number)[0],
                linestyle=_look(number)[1],
                label=name,
            )
        tidy(axes, x=names[feature], y="density")
        axes.xaxis.label.set_fontsize(9)
        axes.yaxis.label.set_fontsize(9)
        axes.set_yticks([])
    handles, labels = grid[0].get_legend_handles_labels()
    figure.legend(handles, labels, frameon=False, fontsize=8, loc="outside right upper")
    return save_png(figure, path)


def _rows(episodes: Episodes, most: int) -> np.ndarray:
    """Return the first rows of the episodes that are selected, all features side by side."""
    rows = rows_of(episodes)[:most]
    rewards = episodes.rewards[rows][:, None]
    return np.concatenate([episodes.observations[rows], episodes.actions[rows], rewards], axis=1)


def _look(number: int) -> tuple[str, str]:
    """Colour and line of a data set; real rows, the first, are drawn as text is."""
    if not number:
        return INK, "-"
    cycle, colour = divmod(number - 1, len(COLOURS))
    return COLOURS[colour], ("-", "--", ":")[cycle % 3]


def _line(axes: "Axes", errors: Mapping[str, Any], colour: str, line: str) -> None:
    place, error, spread = (
        np.array(errors[key], dtype=np.float64)  # None, of no row, becomes NaN
        for key in ("position", "observation", "standard_error")
    )
    axes.plot(place, np.maximum(error, LEAST), color=colour, linestyle=line)
    low, high = (np.maximum(error + sign * 2 * spread, LEAST) for sign in (-1, 1))
    axes.fill_between(place, low, high, color=colour, alpha=0.2, linewidth=0)
