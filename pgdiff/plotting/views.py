"""Views of way-points: a map of positions, or features over time.

Both turn a way-point into a point (x, y) of a panel, so pictures of paths use the same code for
tasks with and without a position.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float

from pgdiff.core.validation import PgdiffError
from pgdiff.plotting.canvas import QUIET, style_axes
from pgdiff.plotting.names import layout_of, observation_names, select_features
from pgdiff.plotting.scene import draw_place, positions

if TYPE_CHECKING:
    from matplotlib.axes import Axes

PANELS = 6
"""Default number of features over time."""
TIME = "environment steps from now"

Features = Sequence[int | str]


@dataclass(frozen=True, kw_only=True)
class View:
    """The content of one panel.

    Attributes:
        vertical: index of the feature on the vertical axis.
        horizontal: index of the feature on the horizontal axis; None for time.
        names: names of the horizontal and the vertical axis.
        goal: index of the goal's entry for the vertical axis, or None.
    """

    vertical: int
    horizontal: int | None = None
    names: tuple[str, str]
    goal: int | None = None

    @property
    def place(self) -> bool:
        """True if the panel is a map of positions, with the same scale on both axes."""
        return self.horizontal is not None

    def path(
        self, name: str, observations: Any, *, stride: int = 1, start: float = 0
    ) -> Float[np.ndarray, "... tokens 2"]:
        """Return way-points as points of the panel, as float64.

        Args:
            name: name of the argument, for the error.
            observations: [..., tokens, obs].
            stride: environment steps between tokens.
            start: environment step of the first token.

        Raises:
            PgdiffError: if a feature index is out of range or `observations` is empty.
        """
        if self.horizontal is not None:
            return positions(name, observations, (self.horizontal, self.vertical))
        values = positions(name, observations, (self.vertical, self.vertical))
        values[..., 0] = start + stride * np.arange(values.shape[-2])
        return values

    def draw(
        self, axes: "Axes", env: Any, extent: Float[np.ndarray, "... 2"], *, goal: Any = None
    ) -> None:
        """Draw the background of the paths: the map, or named axes that contain the `extent`."""
        if self.place:
            draw_place(axes, env, extent, names=self.names)
            return
        flat = extent.reshape(-1, 2)
        flat = flat[np.isfinite(flat).all(axis=1)]
        number = None if goal is None or self.goal is None else float(np.ravel(goal)[self.goal])
        vertical = [*flat[:, 1], *([] if number is None else [number])]
        if vertical:
            (left, right), (low, high) = (
                padded_limits(flat[:, 0]),
                padded_limits(np.array(vertical)),
            )
            axes.set_xlim(left, right)
            axes.set_ylim(low, high)
        over_time(axes, *self.names)
        if number is not None:
            axes.axhline(number, color=QUIET, linewidth=1.2, linestyle="--", label="goal")


def views(
    env: Any,
    size: int,
    *,
    position: tuple[int, int] | None = None,
    features: Features | None = None,
    time: str = TIME,
    most: int = PANELS,
) -> list[View]:
    """Return the panels of a picture: one map of positions, or one panel per feature over time.

    Args:
        env: environment, or None. It may draw the background (`env.unwrapped.draw`), name its
            features and define the goal (`env.unwrapped.goal`).
        size: number of features of an observation.
        position: indices of the two position features. Defaults to the first two of an environment
            that draws itself, and to a two-dimensional achieved goal of a Dict observation; any
            other task has no position.
        features: indices or names of features to draw over time in place of the map.
        time: name of the time axis.
        most: number of features over time if `features` is None.

    Raises:
        PgdiffError: if the observation does not have a position or feature.
    """
    names = observation_names(env, size)
    default = position_of(env)
    if position is not None and features is not None:
        raise PgdiffError(
            f"`features` must not be given with `position`, got {list(features)} and "
            f"{position}. Leave one of them out."
        )
    place = default if position is None else position
    if features is None and place is not None:
        if min(place) < 0 or max(place) >= size:
            raise PgdiffError(
                f"`position` must be two of the {size} feature indices, got {place}. Pass the "
                "indices of the position features."
            )
        across, upwards = place
        return [View(horizontal=across, vertical=upwards, names=(names[across], names[upwards]))]
    return [
        View(
            vertical=index,
            names=(time, names[index]),
            goal=default.index(index) if default is not None and index in default else None,
        )
        for index in select_features(features, names, most=most)
    ]


def position_of(env: Any) -> tuple[int, int] | None:
    """Return the two position features of an environment's observations; None without any."""
    if hasattr(getattr(env, "unwrapped", env), "draw"):
        return (0, 1)
    layout = layout_of(env)
    if layout is None or len(layout.position) != 2:
        return None
    return (layout.position[0], layout.position[1])


def over_time(axes: "Axes", time: str, name: str) -> None:
    """Label the axes of a value over time."""
    style_axes(axes, x=time, y=name)
    axes.locator_params(axis="x", integer=True)
    axes.xaxis.label.set_fontsize(9)
    axes.yaxis.label.set_fontsize(8.5)
    axes.grid(color="#e4e7eb", linewidth=0.6)


def padded_limits(values: np.ndarray, share: float = 0.06) -> tuple[float, float]:
    """Return axis limits with a margin around all values."""
    low, high = float(values.min()), float(values.max())
    margin = share * (high - low) or 0.5
    return low - margin, high + margin
