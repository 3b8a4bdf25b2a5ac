"""D4RL's maze layouts, and the positions of their cells in the observation's coordinates.

Row `w` and column `h` of a layout are the cell (w, h). The wall of a cell is a box of side 1
around (w + 1, h + 1) of the world, and the ball's body sits at 1.2 plus its joint positions, which
are observed by the agent. In the observation's coordinates the cell therefore spans
[w - 0.7, w + 0.3] by [h - 0.7, h + 0.3]: its middle is 0.2 *below* (w, h), around which D4RL draws
starts and goals. (D4RL, `d4rl/pointmaze/maze_model.py`, `point_maze` and `reset_model`.)
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from jaxtyping import Bool, Float

from pgdiff_envs.errors import PgdiffEnvsError, nearest

#: Position of the body in the world when both joints are at 0.
BODY_OFFSET = 1.2
#: Middle of the box of cell (w, h) in the world: (w, h) plus this.
WALL_OFFSET = 1.0
#: Middle of cell (w, h) in the observation's coordinates: (w, h) plus this.
CELL_OFFSET = WALL_OFFSET - BODY_OFFSET
BALL_RADIUS = 0.1
#: Largest distance of starts and goals from a cell's (w, h), per coordinate.
JITTER = 0.1
#: Number of points per block of distances to all walls, to bound the memory.
_BLOCK = 10_000

Cell = tuple[int, int]

# '#' is a wall, 'G' the task's goal, 'O' free.
_ROWS: dict[str, tuple[str, ...]] = {
    "open": (
        "#######",
        "#OOOOO#",
        "#OOGOO#",
        "#OOOOO#",
        "#######",
    ),
    "umaze": (
        "#####",
        "#GOO#",
        "###O#",
        "#OOO#",
        "#####",
    ),
    "medium": (
        "########",
        "#OO##OO#",
        "#OO#OOO#",
        "##OOO###",
        "#OO#OOO#",
        "#O#OO#O#",
        "#OOO#OG#",
        "########",
    ),
    "large": (
        "############",
        "#OOOO#OOOOO#",
        "#O##O#O#O#O#",
        "#OOOOOO#OOO#",
        "#O####O###O#",
        "#OO#O#OOOOO#",
        "##O#O#O#O###",
        "#OO#OOO#OGO#",
        "############",
    ),
    "eval-umaze": (
        "#####",
        "#OOG#",
        "#O###",
        "#OOO#",
        "#####",
    ),
    "eval-medium": (
        "########",
        "#OOOOOG#",
        "#O#O##O#",
        "#OOOO#O#",
        "###OO###",
        "#OOOOOO#",
        "#OO##OO#",
        "########",
    ),
    "eval-large": (
        "############",
        "#OO#OOO#OGO#",
        "##O###O#O#O#",
        "#OO#O#OOOOO#",
        "#O##O#OO##O#",
        "#OOOOOO#OOO#",
        "#O##O#O#O###",
        "#OOOO#OOOOO#",
        "############",
    ),
}


@dataclass(frozen=True)
class Layout:
    """Maze of square cells.

    Attributes:
        rows: one string per `w`; its `h`-th letter is '#' (wall), 'O' (free) or 'G' (free, goal).
    """

    rows: tuple[str, ...]

    @cached_property
    def shape(self) -> Cell:
        """Number of cells along x and y."""
        return len(self.rows), len(self.rows[0])

    @cached_property
    def walls(self) -> Bool[np.ndarray, "w h"]:
        """Mask of the cells that are walls."""
        return np.array([[letter == "#" for letter in row] for row in self.rows])

    @cached_property
    def free_cells(self) -> tuple[Cell, ...]:
        """Sorted free cells, including the cell of the goal."""
        return tuple((int(w), int(h)) for w, h in np.argwhere(~self.walls))

    @cached_property
    def goal_cell(self) -> Cell:
        """Cell marked 'G', or the first free cell if no cell is marked, as in D4RL."""
        for w, row in enumerate(self.rows):
            if "G" in row:
                return w, row.index("G")
        return self.free_cells[0]

    def is_free(self, w: int, h: int) -> bool:
        """Return True if (w, h) is a free cell of the maze."""
        width, height = self.shape
        return 0 <= w < width and 0 <= h < height and self.rows[w][h] != "#"

    def cell(self, x: float, y: float) -> Cell:
        """Return the cell of a position (x, y) of the observation."""
        return math.floor(x - CELL_OFFSET + 0.5), math.floor(y - CELL_OFFSET + 0.5)

    def clearance(self, x: float, y: float) -> float:
        """Return the distance from a position (x, y) to the nearest wall; 0 inside a wall."""
        return float(self.clearances(np.array([[x, y]]))[0])

    def clearances(self, positions: Float[np.ndarray, "*points 2"]) -> Float[np.ndarray, "*points"]:
        """Return each point's distance to the nearest wall; 0 inside walls and outside the maze."""
        points = np.asarray(positions, dtype=np.float64)
        flat = points.reshape(-1, 2)
        centres = np.argwhere(self.walls) + CELL_OFFSET
        distances = np.empty(len(flat))
        for first in range(0, len(flat), _BLOCK):
            part = flat[first : first + _BLOCK]
            gaps = np.maximum(np.abs(part[:, None] - centres) - 0.5, 0.0)
            distances[first : first + _BLOCK] = np.sqrt((gaps**2).sum(axis=-1).min(axis=-1))
        cells = np.floor(flat - CELL_OFFSET + 0.5)
        outside = ((cells < 0) | (cells >= self.shape)).any(axis=-1)
        return np.where(outside, 0.0, distances).reshape(points.shape[:-1])

    def draw_position(self, generator: np.random.Generator) -> Float[np.ndarray, "2"]:
        """Draw a start or goal as in D4RL: (w, h) of a free cell plus uniform(-0.1, 0.1)."""
        cell = self.free_cells[generator.integers(len(self.free_cells))]
        position: np.ndarray = np.asarray(cell, dtype=np.float64)
        return position + generator.uniform(-JITTER, JITTER, size=2)


LAYOUTS: dict[str, Layout] = {name: Layout(rows) for name, rows in _ROWS.items()}


def get_layout(layout: str | Sequence[str]) -> Layout:
    """Return the layout of a name, or build one from rows of '#', 'O' and 'G'.

    Raises:
        PgdiffEnvsError: the name is unknown, the rows differ in length or are not surrounded by
            walls, a letter is unknown, or the maze has several goals or no free cell.
    """
    if isinstance(layout, str):
        if layout not in LAYOUTS:
            raise PgdiffEnvsError(
                f"`layout` must be rows of a maze or {nearest(layout, LAYOUTS)} Got '{layout}'."
            )
        return LAYOUTS[layout]
    rows = tuple(layout)
    if not rows or len({len(row) for row in rows}) != 1:
        raise PgdiffEnvsError(f"`layout` must be rows of equal length. Got {list(rows)}.")
    letters = "".join(rows)
    if set(letters) - set("#OG") or letters.count("G") > 1:
        raise PgdiffEnvsError(
            f"`layout` must consist of '#', 'O' and at most one 'G'. Got {list(rows)}."
        )
    border = rows[0] + rows[-1] + "".join(row[0] + row[-1] for row in rows)
    if set(border) != {"#"} or set(letters) == {"#"}:
        raise PgdiffEnvsError(
            f"`layout` must have walls all around and a free cell inside. Got {list(rows)}."
        )
    return Layout(rows)
