"""The mazes: D4RL's layouts, and where their cells lie in the observation's coordinates.

Row `w` and column `h` of a layout are the cell (w, h). Its wall, if it has one, is a box of side 1
around (w + 1, h + 1) of the world, and the ball's body sits at 1.2 plus its joint positions, which
are what the agent observes. In the observation's coordinates the cell therefore spans
[w - 0.7, w + 0.3] by [h - 0.7, h + 0.3]: its middle is 0.2 *below* (w, h), about which D4RL draws
starts and goals. (D4RL, `d4rl/pointmaze/maze_model.py`, `point_maze` and `reset_model`.)
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from jaxtyping import Bool, Float

from pgdiff_envs.errors import PgdiffEnvsError, nearest

#: Where the body stands in the world when both joints are at 0.
BODY_OFFSET = 1.2
#: Middle of the box of cell (w, h) in the world: (w, h) plus this.
WALL_OFFSET = 1.0
#: Middle of cell (w, h) in the observation's coordinates: (w, h) plus this.
CELL_OFFSET = WALL_OFFSET - BODY_OFFSET
BALL_RADIUS = 0.1
#: Starts and goals are drawn within this of a cell's (w, h), per coordinate.
JITTER = 0.1
#: Points whose distance to every wall is taken at a time, to bound the memory.
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
    """A maze of square cells.

    Attributes:
        rows: one text per `w`; its `h`-th letter is '#' (wall), 'O' (free) or 'G' (the goal; free).
    """

    rows: tuple[str, ...]

    @cached_property
    def shape(self) -> Cell:
        """Number of cells along x and y."""
        return len(self.rows), len(self.rows[0])

    @cached_property
    def walls(self) -> Bool[np.ndarray, "w h"]:
        """True where a cell is a wall."""
        return np.array([[letter == "#" for letter in row] for row in self.rows])

    @cached_property
    def free_cells(self) -> tuple[Cell, ...]:
        """The free cells, the goal's among them, sorted."""
        return tuple((int(w), int(h)) for w, h in np.argwhere(~self.walls))

    @cached_property
    def goal_cell(self) -> Cell:
        """The cell marked 'G'; where none is, the first free cell, as in D4RL."""
        for w, row in enumerate(self.rows):
            if "G" in row:
                return w, row.index("G")
        return self.free_cells[0]

    def is_free(self, w: int, h: int) -> bool:
        """Whether (w, h) is a free cell of the maze."""
        width, height = self.shape
        return 0 <= w < width and 0 <= h < height and self.rows[w][h] != "#"

    def cell(self, x: float, y: float) -> Cell:
        """The cell in which the point (x, y) of the observation lies."""
        return math.floor(x - CELL_OFFSET + 0.5), math.floor(y - CELL_OFFSET + 0.5)

    def clearance(self, x: float, y: float) -> float:
        """Distance from the point (x, y) of the observation to the nearest wall; 0 inside one."""
        return float(self.clearances(np.array([[x, y]]))[0])

    def clearances(self, positions: Float[np.ndarray, "*points 2"]) -> Float[np.ndarray, "*points"]:
        """Distance from each point to the nearest wall; 0 inside one, and outside the maze."""
        points = np.asarray(positions, dtype=np.float64)
        flat = points.reshape(-1, 2)
        centres = np.argwhere(self.walls) + CELL_OFFSET
        found = np.empty(len(flat))
        for first in range(0, len(flat), _BLOCK):
            part = flat[first : first + _BLOCK]
            gaps = np.maximum(np.abs(part[:, None] - centres) - 0.5, 0.0)
            found[first : first + _BLOCK] = np.sqrt((gaps**2).sum(axis=-1).min(axis=-1))
        cells = np.floor(flat - CELL_OFFSET + 0.5)
        outside = ((cells < 0) | (cells >= self.shape)).any(axis=-1)
        return np.where(outside, 0.0, found).reshape(points.shape[:-1])

    def draw_position(self, generator: np.random.Generator) -> Float[np.ndarray, "2"]:
        """Draw a start or goal as D4RL does: a free cell's (w, h) plus uniform(-0.1, 0.1)."""
        cell = self.free_cells[generator.integers(len(self.free_cells))]
        position: np.ndarray = np.asarray(cell, dtype=np.float64)
        return position + generator.uniform(-JITTER, JITTER, size=2)


LAYOUTS: dict[str, Layout] = {name: Layout(rows) for name, rows in _ROWS.items()}


def get_layout(layout: str | Sequence[str]) -> Layout:
    """Return the named layout, or make one from rows of '#', 'O' and 'G'.

    Raises:
        PgdiffEnvsError: an unknown name, unequal or unclosed rows, an unknown letter, more than
            one goal, or nothing free.
    """
    if isinstance(layout, str):
        if layout not in LAYOUTS:
            raise PgdiffEnvsError(
                f"`layout` must be rows of a maze or {nearest(layout, LAYOUTS)} Got '{layout}'."
            )
        return LAYOUTS[layout]
    rows = tuple(layout)
    if not rows or len({len(row) for row in rows}) != 1:
        raise PgdiffEnvsError(f"`layout` must be rows of one length. Got {list(rows)}.")
    letters = "".join(rows)
    if set(letters) - set("#OG") or letters.count("G") > 1:
        raise PgdiffEnvsError(
            f"`layout` must be made of '#', 'O' and at most one 'G'. Got {list(rows)}."
        )
    border = rows[0] + rows[-1] + "".join(row[0] + row[-1] for row in rows)
    if set(border) != {"#"} or set(letters) == {"#"}:
        raise PgdiffEnvsError(
            f"`layout` must have walls all round and a free cell inside. Got {list(rows)}."
        )
    return Layout(rows)
