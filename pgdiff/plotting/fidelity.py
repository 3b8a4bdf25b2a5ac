"""Pictures of generated data sets and real rows: errors by position, marginals, coverage."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pgdiff.data import Episodes
from pgdiff.data.transitions import rows_of
from pgdiff.plotting.canvas import COLOURS, INK, PathLike, heading, new_figure, save_png, style_axes
from pgdiff.plotting.names import action_names, observation_names

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MEASURES = ("density", "coverage", "precision", "recall")
LEAST = 1e-3  # smaller errors, such as those of real rows, are drawn at this value


def fidelity_picture(found: Mapping[str, Any], path: PathLike) -> Path:
    """Write the errors by position and the coverage of every data set.

    Args:
        found: the result of `pgdiff.evaluation.Fidelity.to_dict`.
        path: the PNG to write.

    Example:
        >>> from tempfile import mkdtemp
        >>> from pgdiff.evaluation.fidelity.report import fidelity
        >>> from pgdiff.testing import example_episodes
        >>> data = {"generated": example_episodes(seed=1)}
        >>> result = fidelity(example_episodes(), data, held_out=0.25, points=50)
        >>> fidelity_picture(result.to_dict(), f"{mkdtemp()}/fidelity.png").name
        'fidelity.png'
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
        style_axes(axes, x="position in the trajectory", y="error, in one-step changes")
        if found["exact"]:
            axes.set_yscale("log")
        else:
            axes.text(0.5, 0.5, "not simulated", ha="center", transform=axes.transAxes)
    heading(bars, "Neighbourhoods")
    style_axes(bars, x="measure", y="value of the measure")
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
    """Write histograms of the features of rows: observations, actions, rewards.

    Args:
        data: data sets by name; the first, of real rows, determines the ranges.
        path: the PNG to write.
        env: environment for feature names; see `pgdiff.plotting.names`.
        rows: number of first rows of each data set.
        features: maximum number of features. The last ones, with actions and reward, are shown.

    Example:
        >>> from tempfile import mkdtemp
        >>> from pgdiff.plotting import marginals_picture
        >>> from pgdiff.testing import example_episodes
        >>> data = {"real": example_episodes(seed=0), "generated": example_episodes(seed=1)}
        >>> marginals_picture(data, f"{mkdtemp()}/marginals.png", features=2).name
        'marginals.png'
    """
    shown = {name: _rows(episodes, rows) for name, episodes in data.items()}
    real = next(iter(data.values()))
    names = [
        *observation_names(env, real.observations.shape[1], layout=real.observation_layout),
        *action_names(env, real.actions.shape[1]),
        "reward",
    ]
    # If not all features fit, the last ones are shown: actions and reward.
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
        style_axes(axes, x=names[feature], y="density")
        axes.xaxis.label.set_fontsize(9)
        axes.yaxis.label.set_fontsize(9)
        axes.set_yticks([])
    handles, labels = grid[0].get_legend_handles_labels()
    figure.legend(handles, labels, frameon=False, fontsize=8, loc="outside right upper")
    return save_png(figure, path)


def _rows(episodes: Episodes, most: int) -> np.ndarray:
    """Return the first rows of the selected episodes with all features."""
    rows = rows_of(episodes)[:most]
    rewards = episodes.rewards[rows][:, None]
    return np.concatenate([episodes.observations[rows], episodes.actions[rows], rewards], axis=1)


def _look(number: int) -> tuple[str, str]:
    """Return colour and line style of a data set; the first, of real rows, has the text colour."""
    if not number:
        return INK, "-"
    cycle, colour = divmod(number - 1, len(COLOURS))
    return COLOURS[colour], ("-", "--", ":")[cycle % 3]


def _line(axes: "Axes", errors: Mapping[str, Any], colour: str, line: str) -> None:
    place, error, spread = (
        np.array(errors[key], dtype=np.float64)  # None becomes NaN
        for key in ("position", "observation", "standard_error")
    )
    axes.plot(place, np.maximum(error, LEAST), color=colour, linestyle=line)
    low, high = (np.maximum(error + sign * 2 * spread, LEAST) for sign in (-1, 1))
    axes.fill_between(place, low, high, color=colour, alpha=0.2, linewidth=0)
