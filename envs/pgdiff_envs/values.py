"""Value iteration on a maze's grid, and the shortest path of its greedy policy.

The rules are those of D4RL's `d4rl/pointmaze/q_iteration.py` and `gridcraft/grid_env.py`: five
moves (stay, y-1, y+1, x-1, x+1), no movement into walls, reward 1 per step at the goal, 50 sweeps,
discount 0.99. Ties are resolved by the first move in this order.
"""

import numpy as np
from jaxtyping import Float

from pgdiff_envs.layouts import Cell, Layout

MOVES: tuple[Cell, ...] = ((0, 0), (0, -1), (0, 1), (-1, 0), (1, 0))


def q_values(
    layout: Layout, goal: Cell, *, sweeps: int = 50, discount: float = 0.99
) -> Float[np.ndarray, "w h moves"]:
    """Return the value of each move in each cell; wall cells can be left but not entered."""
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
    """Return the cells after `start` on the greedy path to `goal`, including the goal.

    The path ends before the goal if the goal is unreachable or too far for the number of sweeps.
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
