"""Value iteration on a maze's grid, and the shortest way that its greedy policy walks.

The rules are those of D4RL's `d4rl/pointmaze/q_iteration.py` and `gridcraft/grid_env.py`: five
moves (stay, y-1, y+1, x-1, x+1), a move into a wall stays, reward 1 per step spent at the goal,
50 sweeps, discount 0.99. Ties go to the first move in that order.
"""

import numpy as np
from jaxtyping import Float

from pgdiff_envs.layouts import Cell, Layout

MOVES: tuple[Cell, ...] = ((0, 0), (0, -1), (0, 1), (-1, 0), (1, 0))


def q_values(
    layout: Layout, goal: Cell, *, sweeps: int = 50, discount: float = 0.99
) -> Float[np.ndarray, "w h moves"]:
    """Return the value of each move in each cell; walls are cells that one can only leave."""
    width, height = layout.shape
    cells = np.stack(np.meshgrid(np.arange(width), np.arange(height), indexing="ij"), axis=-1)
    blocked = np.pad(layout.walls, 1, constant_values=True)
    nexts = []
    for move in MOVES:
        target = cells + move
        inside = ~blocked[target[..., 0] + 1, target[..., 1] + 1]
        nexts.append(np.where(inside[..., None], target, cells))
    reward = np.zeros((width, height))
    reward[goal] = 1.0
    values = np.zeros((width, height))
    q = np.zeros((width, height, len(MOVES)))
    for _ in range(sweeps):
        q = np.stack([reward + discount * values[n[..., 0], n[..., 1]] for n in nexts], axis=-1)
        values = q.max(axis=-1)
    return q


def greedy_path(q: Float[np.ndarray, "w h moves"], start: Cell, goal: Cell) -> list[Cell]:
    """Return the cells after `start` on the greedy way to `goal`; at least the goal itself.

    The way ends early, short of the goal, where the goal is out of reach or too far for the sweeps.
    """
    path: list[Cell] = []
    cell = start
    while True:
        dw, dh = MOVES[int(q[cell].argmax())]
        stays = (dw, dh) == (0, 0)
        cell = (cell[0] + dw, cell[1] + dh)
        if stays and cell != goal:
            return path
        path.append(cell)
        if cell == goal:
            return path
