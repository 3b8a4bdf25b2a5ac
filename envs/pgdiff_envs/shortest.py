"""Shortest paths through a maze, by a visibility graph.

A shortest path among polygons turns only at their corners (Lozano-Perez and Wesley, "An algorithm
for planning collision-free paths among polyhedral obstacles", Communications of the ACM 22, 1979).
The nodes of the graph are therefore the corners of the walls, and two nodes are connected if the
straight line between them does not cross a wall.
"""

import functools

import numpy as np
from jaxtyping import Bool, Float

from pgdiff_envs.layouts import CELL_OFFSET, Layout

#: Amount by which walls are enlarged in line tests, so that a line cannot pass between two walls
#: that meet at a corner; nodes are twice as far away.
MARGIN = 1e-6
#: Number of line-wall pairs per block, to bound the memory.
_BLOCK = 2_000_000

Points = Float[np.ndarray, "points 2"]


class ShortestWays:
    """Lengths of the shortest paths of a point through the free cells of a maze.

    The radius of the ball is ignored: the ball's middle passes a corner at a distance of 0.1, so
    that its path is longer by a few centimetres per corner.

    Args:
        layout: the maze.
    """

    def __init__(self, layout: Layout) -> None:
        self._layout = layout
        centres = np.argwhere(layout.walls) + CELL_OFFSET
        self._low, self._high = centres - 0.5 - MARGIN, centres + 0.5 + MARGIN
        self._nodes = _corners(layout)
        lengths = self._lines(self._nodes)
        for node in range(len(lengths)):  # Floyd and Warshall
            lengths = np.minimum(lengths, lengths[:, node, None] + lengths[None, node])
        self._between = lengths

    def lengths(self, starts: Points, ends: Points) -> Float[np.ndarray, " points"]:
        """Return the length of the shortest path from each start to its end; inf if none exists.

        Args:
            starts: [points, 2].
            ends: [points, 2], one per start.
        """
        best = np.where(self._sees(starts, ends), np.linalg.norm(ends - starts, axis=-1), np.inf)
        if len(self._nodes):
            to_end = self._lines(ends)
            via = self._lines(starts)
            for node in range(len(self._nodes)):
                onward = (self._between[node] + to_end).min(axis=1)
                best = np.minimum(best, via[:, node] + onward)
        free = self._layout.clearances(starts) > 0
        free &= self._layout.clearances(ends) > 0
        return np.where(free, best, np.inf)

    def _lines(self, points: Points) -> Float[np.ndarray, "points nodes"]:
        """Return the straight distance of each point to each node; inf if a wall is between."""
        starts = np.repeat(points, len(self._nodes), axis=0)
        ends = np.tile(self._nodes, (len(points), 1))
        lengths = np.where(self._sees(starts, ends), np.linalg.norm(ends - starts, axis=-1), np.inf)
        return np.asarray(lengths.reshape(len(points), len(self._nodes)))

    def _sees(self, starts: Points, ends: Points) -> Bool[np.ndarray, " points"]:
        """Return True for each pair of start and end without a wall in between."""
        visible = np.empty(len(starts), np.bool_)
        block = max(1, _BLOCK // max(1, len(self._low)))
        for first in range(0, len(starts), block):
            part = slice(first, first + block)
            visible[part] = self._free_lines(starts[part], ends[part])
        return visible

    def _free_lines(self, starts: Points, ends: Points) -> Bool[np.ndarray, " points"]:
        """Return `_sees` of a block: no part of a line is within a wall along both axes."""
        start, move = starts[:, None], (ends - starts)[:, None]
        with np.errstate(divide="ignore", invalid="ignore"):
            one, other = (self._low - start) / move, (self._high - start) / move
        enter, leave = np.minimum(one, other), np.maximum(one, other)
        # A line parallel to an axis is always or never inside the extent of the other axis.
        still = np.broadcast_to(move == 0, enter.shape)
        inside = (start >= self._low) & (start <= self._high)
        enter = np.where(still, np.where(inside, -np.inf, np.inf), enter)
        leave = np.where(still, np.where(inside, np.inf, -np.inf), leave)
        first = np.maximum(enter.max(axis=-1), 0.0)
        last = np.minimum(leave.min(axis=-1), 1.0)
        return np.asarray((first > last).all(axis=1))


@functools.cache
def shortest_ways(layout: Layout) -> ShortestWays:
    """Return the cached `ShortestWays` of a maze."""
    return ShortestWays(layout)


def _corners(layout: Layout) -> Points:
    """Return points next to the corners where a path can bend (one wall, three free cells)."""
    walls = layout.walls
    quarters = np.stack([walls[:-1, :-1], walls[:-1, 1:], walls[1:, :-1], walls[1:, 1:]], axis=-1)
    corners = []
    for w, h in np.argwhere(quarters.sum(axis=-1) == 1):
        wall = np.array([(0, 0), (0, 1), (1, 0), (1, 1)])[quarters[w, h].argmax()]
        corner = np.array([w, h]) + CELL_OFFSET + 0.5
        corners.append(corner + 2 * MARGIN * (1 - 2 * wall))
    return np.array(corners, dtype=np.float64).reshape(-1, 2)
