"""Figures without global state, in one style, and image files that are written atomically.

Figures are made with `matplotlib.figure.Figure`. pyplot, which keeps every figure alive and selects
a display, is never imported.
"""

import io
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Int32, UInt8

from pgdiff.core.serialization import write_whole
from pgdiff.core.validation import PgdiffError, require

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INK = "#1f2933"
QUIET = "#7b8794"
GOAL = "#d1495b"
COLOURS = ("#33638d", "#e0803a", "#29a37f", "#8f5ba8", "#b08c2a", "#6b7785")
MAP = "viridis"

PathLike = str | os.PathLike[str]


def new_figure(width: float, height: float, *, dpi: int = 150) -> "Figure":
    """Return an empty figure of `width` by `height` inches with room for its labels."""
    return require("matplotlib.figure", extra="viz").Figure(  # type: ignore[no-any-return]
        figsize=(width, height), dpi=dpi, layout="constrained", facecolor="white"
    )


def style_axes(axes: "Axes", *, x: str = "", y: str = "") -> None:
    """Label `axes` and remove decoration."""
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        axes.spines[side].set_color(QUIET)
    axes.tick_params(which="both", colors=QUIET, labelcolor=INK, labelsize=9)
    axes.set_xlabel(x, color=INK, fontsize=10)
    axes.set_ylabel(y, color=INK, fontsize=10)


def colour_bar(figure: "Figure", mappable: Any, axes: Any, label: str) -> None:
    """Add a slim colour bar next to `axes`."""
    bar = figure.colorbar(mappable, ax=axes, fraction=0.046, pad=0.02, aspect=24)
    bar.outline.set_visible(False)
    bar.ax.tick_params(which="both", colors=QUIET, labelcolor=INK, labelsize=9)
    bar.set_label(label, color=INK, fontsize=10)


def heading(axes: "Axes", text: str) -> None:
    """Write `text` above `axes`, left-aligned."""
    axes.set_title(text, loc="left", fontsize=11, color=INK)


def caption(figure: "Figure", text: str) -> None:
    """Write `text` above all panels of `figure`, left-aligned."""
    figure.suptitle(text, x=0.01, ha="left", fontsize=12, color=INK)


def legend(figure: "Figure", *, columns: int = 4) -> None:
    """Add one legend of all panels' labelled marks below the panels."""
    line = require("matplotlib.lines", extra="viz").Line2D
    marks: dict[str, Any] = {}
    for axes in figure.axes:
        handle: Any
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True):
            if hasattr(handle, "get_segments") and handle.get_array() is not None:
                # Lines coloured by a number have no single colour for the legend.
                handle = line([], [], color=colours()(0.6), linewidth=1.3)
            marks.setdefault(label, handle)
    if marks:
        figure.legend(
            list(marks.values()),
            list(marks),
            loc="outside lower center",
            ncols=columns,
            frameon=False,
            fontsize=9,
            labelcolor=INK,
            markerscale=0.7,
        )


def colours() -> Any:
    """Return viridis without its lightest end, which is invisible on white."""
    shades = require("matplotlib", extra="viz").colormaps[MAP](np.linspace(0.0, 0.93, 256))
    return require("matplotlib.colors", extra="viz").ListedColormap(shades, name="plans")


def save_png(figure: "Figure", path: PathLike) -> Path:
    """Write `figure` as PNG and return its path."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return write_whole(_check_suffix(path, ".png"), buffer.getvalue())


def pixels(figure: "Figure") -> UInt8[np.ndarray, "height width 3"]:
    """Draw `figure` and return its pixels."""
    canvas = require("matplotlib.backends.backend_agg", extra="viz").FigureCanvasAgg(figure)
    canvas.draw()
    # The layout is computed once: frames of one figure must not move, and it is the slowest part.
    figure.set_layout_engine("none")
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()


def save_gif(
    frames: Sequence[UInt8[np.ndarray, "height width 3"]],
    path: PathLike,
    *,
    milliseconds: int | Sequence[int],
    drawn: bool = True,
) -> Path:
    """Write `frames` as an endlessly looping GIF, and return its path.

    All frames share one palette of 64 colours, so unchanged parts are equal in all frames and the
    GIF stores only changes.

    Args:
        frames: pictures of one size.
        path: path that ends in `.gif`.
        milliseconds: duration of each frame; one number, or one per frame.
        drawn: True for figures of this package, whose colours are added to the palette.
    """
    target = _check_suffix(path, ".gif")
    palette = _palette(frames) if drawn else _median_cut(_sample(frames, 8), 64)
    first, *rest = (_to_palette(frame, palette) for frame in frames)
    buffer = io.BytesIO()
    first.save(
        buffer,
        format="GIF",
        save_all=True,
        append_images=rest,
        duration=milliseconds if isinstance(milliseconds, int) else list(milliseconds),
        loop=0,
    )
    return write_whole(target, buffer.getvalue())


def _palette(frames: Sequence[UInt8[np.ndarray, "height width 3"]]) -> UInt8[np.ndarray, "64 3"]:
    """Return 64 colours: exact colours of areas, marks and scores, the rest by median cut."""
    sample = _sample(frames)
    flat, counts = np.unique(_pack(sample), return_counts=True)
    exact = _unpack(flat[np.argsort(-counts, kind="stable")[:8]])
    marks = [list(bytes.fromhex(colour[1:])) for colour in (INK, GOAL, COLOURS[0], COLOURS[1])]
    scale = colours()(np.linspace(0.0, 1.0, 12), bytes=True)[:, :3]
    cut = _median_cut(sample, 64 - len(exact) - len(marks) - len(scale))
    return np.concatenate([exact, marks, scale, cut]).astype(np.uint8)


def _sample(
    frames: Sequence[UInt8[np.ndarray, "height width 3"]], count: int = 3
) -> UInt8[np.ndarray, "..."]:
    """Return at most `count` evenly spaced frames, concatenated vertically."""
    chosen = np.linspace(0, len(frames) - 1, count).round().astype(int)
    return np.concatenate([frames[number] for number in np.unique(chosen)])


def _median_cut(sample: UInt8[np.ndarray, "..."], count: int) -> UInt8[np.ndarray, "colours 3"]:
    """Return at most `count` colours by median cut."""
    image = require("PIL.Image", extra="viz").fromarray(sample).quantize(count)
    return np.reshape(image.getpalette(), (-1, 3)).astype(np.uint8)


def _to_palette(
    frame: UInt8[np.ndarray, "height width 3"], palette: UInt8[np.ndarray, "64 3"]
) -> Any:
    """Convert `frame` to an image with the nearest colours of `palette`.

    Pillow's mapping to a given palette is approximate and would tint flat areas.
    """
    seen, places = np.unique(_pack(frame), return_inverse=True)
    distance = ((_unpack(seen)[:, None] - palette[None].astype(np.int32)) ** 2).sum(axis=-1)
    indices = distance.argmin(axis=1).astype(np.uint8)[places].reshape(frame.shape[:2])
    picture = require("PIL.Image", extra="viz").fromarray(indices)
    picture.putpalette(palette.tobytes())
    return picture


def _pack(colours: UInt8[np.ndarray, "... 3"]) -> Int32[np.ndarray, "..."]:
    """Pack each colour into one integer, which sorts much faster than three numbers."""
    red, green, blue = np.moveaxis(colours.astype(np.int32), -1, 0)
    return np.asarray(red << 16 | green << 8 | blue)


def _unpack(packed: Int32[np.ndarray, " colours"]) -> Int32[np.ndarray, "colours 3"]:
    return np.stack([packed >> 16, packed >> 8 & 255, packed & 255], axis=-1)


def _check_suffix(path: PathLike, suffix: str) -> Path:
    target = Path(path)
    if target.suffix.lower() != suffix:
        raise PgdiffError(f"`path` must end in '{suffix}'. Got '{target}'.")
    return target
