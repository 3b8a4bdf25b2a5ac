"""Histogram of the scores of episodes, with reference values."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from jaxtyping import Float

from pgdiff.core.validation import PgdiffError, check_positive_int, check_range, require
from pgdiff.plotting.canvas import COLOURS, INK, PathLike, heading, new_figure, save_png, style_axes


def score_picture(
    scores: Float[np.ndarray, " episodes"],
    path: PathLike,
    *,
    interval: tuple[float, float] | None = None,
    references: Mapping[str, float] | None = None,
    unit: str = "score",
    bins: int = 24,
    title: str = "",
) -> Path:
    """Write a histogram of scores with their mean, its interval, and reference lines.

    Args:
        scores: one score per episode, shape [episodes].
        path: the PNG to write.
        interval: lower and upper end of the interval of the mean.
        references: names and values of the reference lines, e.g. {"ceiling": 229.4}.
        unit: name of the score.
        bins: number of bins over the range of scores and references.
        title: title of the picture.

    Raises:
        PgdiffError: if there are no scores, or a score or reference is not finite.

    Example:
        >>> from tempfile import mkdtemp
        >>> from pgdiff.plotting import score_picture
        >>> scores = [61.0, 75.0, 88.0, 70.0]
        >>> score_picture(scores, f"{mkdtemp()}/scores.png", references={"expert": 100.0}).name
        'scores.png'
    """
    check_positive_int("bins", bins)
    values = np.asarray(scores, dtype=np.float64)
    if values.ndim != 1 or len(values) == 0 or not np.isfinite(values).all():
        raise PgdiffError(
            f"`scores` must be one finite number per episode. Got shape {values.shape} with "
            f"{int((~np.isfinite(values)).sum())} values that are not finite."
        )
    lines = {
        str(name): check_range(f"references[{name!r}]", value)
        for name, value in (references or {}).items()
    }
    figure = new_figure(6.8, 4.0)
    axes = figure.add_subplot()
    shown = [*values, *lines.values()]
    low, span = min(shown), max(max(shown) - min(shown), 1.0)
    axes.hist(
        values,
        bins=np.linspace(low, low + span, bins + 1).tolist(),
        color=COLOURS[0],
        alpha=0.85,
        rwidth=0.94,
    )
    mean = float(values.mean())
    label = f"mean {mean:.1f}"
    if interval is not None:
        lower, upper = interval
        axes.axvspan(
            lower,
            upper,
            color=COLOURS[1],
            alpha=0.25,
            linewidth=0,
            zorder=0.5,
            label="interval of the mean",
        )
        label += f" [{interval[0]:.1f}, {interval[1]:.1f}]"
    axes.axvline(mean, color=COLOURS[1], linewidth=2.0, label=label)
    for number, (name, value) in enumerate(lines.items()):
        colour = (INK, COLOURS[3], COLOURS[2], COLOURS[4], COLOURS[5])[number % 5]
        axes.axvline(
            value, color=colour, linewidth=1.5, linestyle="--", label=f"{name} {value:.1f}"
        )
    locator = require("matplotlib.ticker", extra="viz").MaxNLocator(integer=True)
    axes.yaxis.set_major_locator(locator)
    axes.margins(x=0.02)
    style_axes(axes, x=unit, y="episodes")
    heading(axes, title or f"{len(values)} episodes")
    figure.legend(loc="outside lower center", ncols=4, frameon=False, fontsize=9, labelcolor=INK)
    return save_png(figure, path)
