"""Which coordinates of way-points a picture shows: a place, or features over time.

Either way a way-point becomes a point (x, y) of a panel, so that every picture of paths draws a
task with a place and one without by the same code.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float

from pgdiff.plotting.canvas import QUIET, tidy
from pgdiff.plotting.names import chosen_features, layout_of, observation_names
from pgdiff.plotting.scene import draw_place, positions
from pgdiff.validation import PgdiffError

if TYPE_CHECKING:
    from matplotlib.axes import Axes

PANELS = 6
"""Features that are shown over time where none are chosen."""
TIME = "environment steps from now"

Features = Sequence[int | str]


@dataclass(frozen=True, kw_only=True)
class View:
    """What one panel shows.

    Attributes:
        vertical: index of the feature on the vertical axis.
        horizontal: index of the feature on the horizontal axis; None for time.
        names: of the horizontal and the vertical axis.
        goal: index of the goal's number that belongs to the vertical axis, or None.
    """

    vertical: int
    horizontal: int | None = None
    names: tuple[str, str]
    goal: int | None = None

    @property
    def place(self) -> bool:
        """Whether the panel is a place, on which both axes have one scale."""
        return self.horizontal is not None

    def path(
        self, name: str, observations: Any, *, stride: int = 1, start: float = 0
    ) -> Float[np.ndarray, "... tokens 2"]:
        """Return way-points as points of the panel, as float64.

        Args:
            name: the argument's name, for the error.
            observations: [..., tokens, obs].
            stride: environment steps between tokens.
            start: environment step of the first token.

        Raises:
            PgdiffError: a feature is beyond the observation, or there is nothing to draw.
        """
        if self.horizontal is not None:
            return positions(name, observations, (self.horizontal, self.vertical))
        values = positions(name, observations, (self.vertical, self.vertical))
        values[..., 0] = start + stride * np.arange(values.shape[-2])
        return values

    def draw(
        self, axes: "Axes", env: Any, extent: Float[np.ndarray, "... 2"], *, goal: Any = None
    ) -> None:
        """Draw what lies behind the paths: the place, or named axes that hold the `extent`."""
        if self.place:
            draw_place(axes, env, extent, names=self.names)
            return
        flat = extent.reshape(-1, 2)
        flat = flat[np.isfinite(flat).all(axis=1)]
        number = None if goal is None or self.goal is None else float(np.ravel(goal)[self.goal])
        vertical = [*flat[:, 1], *([] if number is None else [number])]
        if vertical:
            (left, right), (low, high) = padded(flat[:, 0]), padded(np.array(vertical))
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
    """Return the panels of a picture: one place, or one panel for each chosen feature over time.

    Args:
        env: draws its background and names its features where it can; or None.
        size: features of an observation.
        position: which two features are the place. By default the first two of an environment that
            draws itself, and those of the achieved goal of a Dict observation where these are two;
            any other task has no place.
        features: indices or names of features; drawn over time, whether there is a place or not.
        time: name of the axis of time.
        most: features shown over time where none are chosen.

    Raises:
        PgdiffError: a position or a feature that the observation does not have.
    """
    names = observation_names(env, size)
    own = position_of(env)
    if position is not None and features is not None:
        raise PgdiffError(
            f"`features` must not be given with `position`, got {list(features)} and "
            f"{position}. Leave one of them out."
        )
    place = own if position is None else position
    if features is None and place is not None:
        if min(place) < 0 or max(place) >= size:
            raise PgdiffError(
                f"`position` must be two of the {size} features, got {place}. Name the features "
                "that are the place."
            )
        across, upwards = place
        return [View(horizontal=across, vertical=upwards, names=(names[across], names[upwards]))]
    return [
        View(
            vertical=index,
            names=(time, names[index]),
            goal=own.index(index) if own is not None and index in own else None,
        )
        for index in chosen_features(features, names, most=most)
    ]


def position_of(env: Any) -> tuple[int, int] | None:
    """Return which two features of an environment's observations are a place; None for none."""
    if hasattr(getattr(env, "unwrapped", env), "draw"):
        return (0, 1)
    layout = layout_of(env)
    if layout is None or len(layout.position) != 2:
        return None
    return (layout.position[0], layout.position[1])


def over_time(axes: "Axes", time: str, name: str) -> None:
    """Label axes of a value over time."""
    tidy(axes, x=time, y=name)
    axes.locator_params(axis="x", integer=True)
    axes.xaxis.label.set_fontsize(9)
    axes.yaxis.label.set_fontsize(8.5)
    axes.grid(color="#e4e7eb", linewidth=0.6)


def padded(values: np.ndarray, share: float = 0.06) -> tuple[float, float]:
    """Return limits of an axis that leave a margin around all values."""
    low, high = float(values.min()), float(values.max())
    margin = share * (high - low) or 0.5
    return low - margin, high + margin
