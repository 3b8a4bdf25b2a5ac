"""Rendering of the maze in NumPy, without OpenGL or a display."""

import numpy as np
from jaxtyping import Float, UInt8

from pgdiff_envs.errors import PgdiffEnvsError
from pgdiff_envs.layouts import BALL_RADIUS, CELL_OFFSET, Layout

FLOOR = (246, 244, 238)
GRID = (232, 229, 220)
WALL = (69, 79, 97)
WALL_EDGE = (45, 53, 68)
GOAL = (226, 87, 76)
BALL = (37, 99, 200)
BALL_EDGE = (18, 52, 115)
#: Factor by which the ball is enlarged for visibility.
BALL_SCALE = 1.4


class Raster:
    """Renderer of a layout from above, with x to the right and y upwards.

    Args:
        layout: the maze.
        size: approximate length of the longer side in pixels; each cell has `size` / cells pixels,
            rounded down.

    Raises:
        PgdiffEnvsError: fewer than 4 pixels per cell.
    """

    def __init__(self, layout: Layout, *, size: int) -> None:
        cells = max(layout.shape)
        if isinstance(size, bool) or not isinstance(size, int) or size < 4 * cells:
            raise PgdiffEnvsError(
                f"`render_size` must be an integer of at least {4 * cells} (4 per cell). "
                f"Got {size!r}."
            )
        self._layout = layout
        self._scale = size // cells
        self._background: UInt8[np.ndarray, "height width 3"] | None = None
        self._goal: tuple[float, float] | None = None

    def render(
        self, *, ball: Float[np.ndarray, "2"], goal: Float[np.ndarray, "2"]
    ) -> UInt8[np.ndarray, "height width 3"]:
        """Return the image with the goal and the ball at the given positions."""
        target = (float(goal[0]), float(goal[1]))
        if self._background is None or target != self._goal:
            self._background, self._goal = self._walls(), target
            self._disc(self._background, target, 0.5, GOAL, opacity=0.22)
            self._disc(self._background, target, 0.12, GOAL)
        image = self._background.copy()
        centre = (float(ball[0]), float(ball[1]))
        self._disc(image, centre, BALL_SCALE * BALL_RADIUS, BALL_EDGE)
        self._disc(image, centre, BALL_SCALE * BALL_RADIUS - 0.04, BALL)
        return image

    def _walls(self) -> UInt8[np.ndarray, "height width 3"]:
        walls = self._layout.walls
        scale = self._scale
        image = np.empty((*(scale * n for n in walls.shape), 3), np.uint8)
        image[:] = np.where(np.kron(walls, np.ones((scale, scale)))[..., None] > 0, WALL, FLOOR)
        # Lines between cells: faint between two free cells, then dark where wall meets floor.
        for neighbours, colour in ((0, GRID), (1, WALL_EDGE)):
            for axis in (0, 1):
                count = walls.astype(int)
                count = np.delete(count, 0, axis) + np.delete(count, -1, axis)
                for w, h in np.argwhere(count == neighbours):
                    block = [slice(n * scale, (n + 1) * scale) for n in (w, h)]
                    block[axis] = slice(block[axis].stop - 1, block[axis].stop + 1)
                    image[tuple(block)] = colour
        # The first axis is x: transpose, and flip y upwards.
        return np.ascontiguousarray(image.transpose(1, 0, 2)[::-1])

    def _disc(
        self,
        image: UInt8[np.ndarray, "height width 3"],
        centre: tuple[float, float],
        radius: float,
        colour: tuple[int, int, int],
        opacity: float = 1.0,
    ) -> None:
        """Paint an anti-aliased disc, given in the observation's coordinates, into `image`."""
        height, width = image.shape[:2]
        column = (centre[0] - CELL_OFFSET + 0.5) * self._scale
        row = height - (centre[1] - CELL_OFFSET + 0.5) * self._scale
        reach = radius * self._scale + 1
        top, left = max(int(row - reach), 0), max(int(column - reach), 0)
        bottom, right = min(int(row + reach) + 1, height), min(int(column + reach) + 1, width)
        if top >= bottom or left >= right:
            return
        rows = np.arange(top, bottom)[:, None] + 0.5
        columns = np.arange(left, right)[None, :] + 0.5
        distance = np.hypot(rows - row, columns - column)
        alpha = opacity * np.clip(radius * self._scale - distance + 0.5, 0.0, 1.0)[..., None]
        patch = image[top:bottom, left:right]
        patch[:] = (patch * (1 - alpha) + np.array(colour) * alpha).astype(np.uint8)
