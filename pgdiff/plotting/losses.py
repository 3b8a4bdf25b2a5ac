"""Loss curves of a training run."""

import json
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from pgdiff.core.validation import PgdiffError, require
from pgdiff.plotting.canvas import COLOURS, PathLike, heading, new_figure, save_png, style_axes

History = Sequence[Mapping[str, Any]]


def loss_picture(
    history: PathLike | History,
    path: PathLike,
    *,
    step_key: str = "step",
    keys: Sequence[str] | None = None,
    title: str = "",
) -> Path:
    """Write the losses of a training run over its steps.

    The loss axis is logarithmic if all values are positive. Curves with more than 50 points show
    their values faintly and a running mean in full.

    Args:
        history: the run's `metrics.jsonl`, or its rows.
        path: the PNG to write.
        step_key: field with the training step.
        keys: fields to draw; None for every field with "loss" in its name.
        title: title of the picture.

    Raises:
        PgdiffError: if the file cannot be read or has no losses.

    Example:
        >>> from tempfile import mkdtemp
        >>> from pgdiff.plotting import loss_picture
        >>> rows = [{"step": step, "loss": 1.0 / step} for step in range(1, 20)]
        >>> loss_picture(rows, f"{mkdtemp()}/loss.png").name
        'loss.png'
    """
    rows = _read(Path(history)) if isinstance(history, str | os.PathLike) else list(history)
    if keys is None:
        keys = sorted({key for row in rows for key in row if "loss" in key.lower()})
    curves = {key: _curve(rows, step_key, key) for key in keys}
    curves = {key: curve for key, curve in curves.items() if len(curve)}
    if not curves:
        raise PgdiffError(
            f"`history` must hold rows with the field '{step_key}' and a field with 'loss' in its "
            f"name. Got {len(rows)} rows without them. Set `step_key` and `keys` for other names."
        )
    figure = new_figure(6.4, 3.8)
    axes = figure.add_subplot()
    for index, (key, curve) in enumerate(curves.items()):
        colour = COLOURS[index % len(COLOURS)]
        steps, values = curve.T
        if len(values) > 50:
            axes.plot(steps, values, color=colour, linewidth=0.8, alpha=0.25)
            values = _running_mean(values, max(5, len(values) // 25))
        style = "--" if any(word in key for word in ("valid", "eval", "held")) else "-"
        axes.plot(steps, values, style, color=colour, linewidth=1.8, label=key)
    if all((curve[:, 1] > 0).all() for curve in curves.values()):
        axes.set_yscale("log")
    axes.grid(axis="y", which="both", color="#e4e7eb", linewidth=0.6)
    axes.legend(loc="best", frameon=False, fontsize=9, labelcolor="linecolor")
    axes.margins(x=0.01)
    axes.xaxis.set_major_formatter(require("matplotlib.ticker", extra="viz").EngFormatter(sep=""))
    style_axes(axes, x="training step", y="loss")
    heading(axes, title)
    return save_png(figure, path)


def _read(path: Path) -> list[Mapping[str, Any]]:
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise PgdiffError(f"`history` must be a readable file. Got '{path}': {error}.") from error
    rows: list[Mapping[str, Any]] = []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise PgdiffError(f"'{path}', line {number}, must be JSON. Got: {error}.") from error
        if not isinstance(row, dict):
            raise PgdiffError(f"'{path}', line {number}, must be a JSON object. Got {line!r:.60}.")
        rows.append(row)
    return rows


def _curve(rows: History, step_key: str, key: str) -> Float[np.ndarray, "points 2"]:
    """Return (step, value) of the rows with finite numbers for both."""
    points = [
        (float(row[step_key]), float(row[key]))
        for row in rows
        if _is_number(row.get(step_key)) and _is_number(row.get(key))
    ]
    return np.array(points, dtype=np.float64).reshape(-1, 2)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _running_mean(values: Float[np.ndarray, " points"], width: int) -> Float[np.ndarray, " points"]:
    """Return the mean over `width` neighbours; fewer neighbours are averaged at the ends."""
    kernel = np.ones(width)
    weights = np.convolve(np.ones(len(values)), kernel, mode="same")
    return np.asarray(np.convolve(values, kernel, mode="same") / weights)
