"""The shortest way through a maze, by a visibility graph.

A shortest way among polygons turns at their corners alone (Lozano-Perez and Wesley, "An algorithm
for planning collision-free paths among polyhedral obstacles", Communications of the ACM 22, 1979).
So the corners of the walls are the graph's nodes, and two nodes are joined where a straight line
between them meets no wall.
"""

import functools

import numpy as np
from jaxtyping import Bool, Float

from pgdiff_envs.layouts import CELL_OFFSET, Layout

#: Walls are thicker than they are by this when lines are tested against them, so that a line does
#: not slip through between two walls that meet at a corner; nodes stand twice as far away.
MARGIN = 1e-6
#: Lines against walls that are tested at a time, to bound the memory.
_BLOCK = 2_000_000

Points = Float[np.ndarray, "points 2"]


class ShortestWays:
    """Lengths of shortest ways of a point through the free cells of one maze.

    The ball's radius does not count: the way of its middle bends about a corner 0.1 away from it,
    and is longer by a few centimetres a corner.

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
        """Return the length of the way from each start to its end; inf where there is none.

        Args:
            starts: `[points, 2]`.
            ends: `[points, 2]`, one for each start.
        """
        found = np.where(self._sees(starts, ends), np.linalg.norm(ends - starts, axis=-1), np.inf)
        if len(self._nodes):
            to_end = self._lines(ends)
            via = self._lines(starts)
            for node in range(len(self._nodes)):
                onward = (self._between[node] + to_end).min(axis=1)
                found = np.minimum(found, via[:, node] + onward)
        free = self._layout.clearances(starts) > 0
        free &= self._layout.clearances(ends) > 0
        return np.where(free, found, np.inf)

    def _lines(self, points: Points) -> Float[np.ndarray, "points nodes"]:
        """Length of the straight line from each point to each node; inf where a wall is between."""
        starts = np.repeat(points, len(self._nodes), axis=0)
        ends = np.tile(self._nodes, (len(points), 1))
        lengths = np.where(self._sees(starts, ends), np.linalg.norm(ends - starts, axis=-1), np.inf)
        return np.asarray(lengths.reshape(len(points), len(self._nodes)))

    def _sees(self, starts: Points, ends: Points) -> Bool[np.ndarray, " points"]:
        """Whether no wall lies between each start and its end."""
        found = np.empty(len(starts), np.bool_)
        block = max(1, _BLOCK // max(1, len(self._low)))
        for first in range(0, len(starts), block):
            part = slice(first, first + block)
            found[part] = self._free_lines(starts[part], ends[part])
        return found

    def _free_lines(self, starts: Points, ends: Points) -> Bool[np.ndarray, " points"]:
        """The test of `_sees`: where a line is within a wall's extent along x and y at once."""
        start, move = starts[:, None], (ends - starts)[:, None]
        with np.errstate(divide="ignore", invalid="ignore"):
            one, other = (self._low - start) / move, (self._high - start) / move
        enter, leave = np.minimum(one, other), np.maximum(one, other)
        # A line along an axis is within the other axis' extent always or never.
        still = np.broadcast_to(move == 0, enter.shape)
        inside = (start >= self._low) & (start <= self._high)
        enter = np.where(still, np.where(inside, -np.inf, np.inf), enter)
        leave = np.where(still, np.where(inside, np.inf, -np.inf), leave)
        first = np.maximum(enter.max(axis=-1), 0.0)
        last = np.minimum(leave.min(axis=-1), 1.0)
        return np.asarray((first > last).all(axis=1))


@functools.cache
def shortest_ways(layout: Layout) -> ShortestWays:
    """Return the shortest ways of a maze, whose graph is built once."""
    return ShortestWays(layout)


def _corners(layout: Layout) -> Points:
    """Points beside the corners about which a way can bend: one wall and three free cells meet."""
    walls = layout.walls
    quarters = np.stack([walls[:-1, :-1], walls[:-1, 1:], walls[1:, :-1], walls[1:, 1:]], axis=-1)
    found = []
    for w, h in np.argwhere(quarters.sum(axis=-1) == 1):
        wall = np.array([(0, 0), (0, 1), (1, 0), (1, 1)])[quarters[w, h].argmax()]
        corner = np.array([w, h]) + CELL_OFFSET + 0.5
        found.append(corner + 2 * MARGIN * (1 - 2 * wall))
    return np.array(found, dtype=np.float64).reshape(-1, 2)
