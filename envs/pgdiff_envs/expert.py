"""D4RL's recording controller: plans on the grid and drives the ball along the way-points."""

import math
from typing import Any

import numpy as np
from jaxtyping import Float

from pgdiff_envs.errors import PgdiffEnvsError
from pgdiff_envs.layouts import Cell, Layout
from pgdiff_envs.values import greedy_path, q_values

POSITION_GAIN = 10.0
VELOCITY_GAIN = -1.0
#: A way-point counts as reached within this distance ...
SOLVED_DISTANCE = 0.1
#: ... and when the last step moved the ball less than this.
SOLVED_STEP = 0.1
#: All way-points except the last are shifted by minus uniform(0, this), towards the middle of the
#: cells, which lies 0.2 below their (w, h).
WAYPOINT_SHIFT = 0.2


class Expert:
    """Controller that recorded D4RL's maze2d: it walks to one random goal after another.

    Value iteration finds the path on the grid, and a PD law follows it. Its target is the goal's
    cell (w, h), not the exact goal, which lies up to 0.1 away. When the present goal is reached, or
    after `goal_steps` steps, the next call draws a new one. The controller has
    Stable-Baselines3's `predict`, for one environment.

    D4RL's script repeats an old observation whenever the goal changes. This controller always acts
    on the present observation.

    Sources: D4RL, `d4rl/pointmaze/waypoint_controller.py` and
    `scripts/generation/generate_maze2d_datasets.py`.

    Args:
        layout: the maze.
        seed: an integer or a generator, for goals, way-points and noise.
        noise: standard deviation of the normal noise on the action; D4RL's noisy variant uses 0.5.
        goal: fixed goal (x, y): walk to it and stay. None draws random goals.
        goal_steps: number of steps after which a goal is abandoned; D4RL uses the step limit.

    Attributes:
        goal: [2], goal of the last prediction (of the first one before any prediction).
        goal_reached: True if the goal was reached at the last prediction.
        goal_abandoned: True if the goal was abandoned at the last prediction.
    """

    def __init__(
        self,
        layout: Layout,
        *,
        seed: int | np.random.Generator | None = None,
        noise: float = 0.0,
        goal: Float[np.ndarray, "2"] | None = None,
        goal_steps: int = 600,
    ) -> None:
        if not (math.isfinite(noise) and noise >= 0):
            raise PgdiffEnvsError(f"`noise` must be a finite number of at least 0. Got {noise!r}.")
        self._layout = layout
        self._rng = np.random.default_rng(seed)
        self._noise = float(noise)
        self._goal_steps = goal_steps
        self._q: dict[Cell, Float[np.ndarray, "w h moves"]] = {}
        self._fixed = goal is not None
        self.goal: np.ndarray = layout.draw_position(self._rng) if goal is None else goal
        self.goal_reached = False
        self.goal_abandoned = False
        self._goal_age = 0
        # The cell at the end of the way-points; None requests new way-points.
        self._target: Cell | None = None
        self._waypoints: list[tuple[float, float]] = []
        self._next = 0
        self._last_x, self._last_y = 0.0, 0.0

    def predict(
        self,
        observation: Float[np.ndarray, "*batch 4"],
        state: Any = None,
        episode_start: Any = None,
        deterministic: bool = False,
    ) -> tuple[Float[np.ndarray, "*batch 2"], Any]:
        """Return the action for an observation of the environment.

        Args:
            observation: [4] or [1, 4], x, y, vx, vy.
            state: returned unchanged; the controller stores its state itself.
            episode_start: True after a reset of the environment; the path is then planned again.
            deterministic: disable the action noise.

        Returns:
            The action, [2] or [1, 2], float32, and `state`.

        Raises:
            PgdiffEnvsError: `observation` has a wrong shape or holds NaN, or no path leads from it
                to the goal.
        """
        values = np.asarray(observation)
        try:
            x, y, vx, vy = values.tolist() if values.ndim == 1 else values.reshape(4).tolist()
        except (TypeError, ValueError):
            raise PgdiffEnvsError(
                "`observation` must have the shape (4,) or (1, 4): one expert drives one "
                f"environment. Got the shape {values.shape}."
            ) from None
        if not math.isfinite(x + y + vx + vy):
            raise PgdiffEnvsError(f"`observation` must be finite. Got {values.tolist()}.")
        if episode_start is not None and np.any(episode_start):
            self._target = None
            self._goal_age = 0
            self.goal_abandoned = False
        if self.goal_abandoned or (self.goal_reached and not self._fixed):
            self.goal = self._layout.draw_position(self._rng)
            self._goal_age = 0

        ax, ay = self._act(x, y, vx, vy)
        if self._noise and not deterministic:
            noise_x, noise_y = self._rng.standard_normal(2).tolist()
            ax = min(max(ax + self._noise * noise_x, -1.0), 1.0)
            ay = min(max(ay + self._noise * noise_y, -1.0), 1.0)
        self.goal_abandoned = (
            not self._fixed and not self.goal_reached and self._goal_age >= self._goal_steps
        )
        self._goal_age += 1
        action = np.array([ax, ay], dtype=np.float32)
        return (action if values.ndim == 1 else action[None]), state

    def _act(self, x: float, y: float, vx: float, vy: float) -> tuple[float, float]:
        """Return the action of the PD law without noise, and advance to the next way-point."""
        target = self._cell(*self.goal.tolist())
        if target != self._target:
            self._plan(self._cell(x, y), target)
        slow = math.hypot(self._last_x - x, self._last_y - y) < SOLVED_STEP
        self.goal_reached = slow and math.hypot(x - target[0], y - target[1]) < SOLVED_DISTANCE
        wx, wy = target if self.goal_reached else self._waypoints[self._next]
        ax = POSITION_GAIN * (wx - x) + VELOCITY_GAIN * vx
        ay = POSITION_GAIN * (wy - y) + VELOCITY_GAIN * vy
        near = math.hypot(x - wx, y - wy) < SOLVED_DISTANCE
        if near and slow and not self.goal_reached:
            self._next += 1
        self._last_x, self._last_y = x, y
        return min(max(ax, -1.0), 1.0), min(max(ay, -1.0), 1.0)

    def _plan(self, start: Cell, target: Cell) -> None:
        if target not in self._q:
            self._q[target] = q_values(self._layout, target)
        path = greedy_path(self._q[target], start, target)
        if not path or path[-1] != target:
            raise PgdiffEnvsError(
                f"`goal` must be reachable from the ball's cell {start}. Got the cell {target}."
            )
        self._waypoints = []
        for cell in path:
            shift = [0.0, 0.0]
            if cell != target:
                shift = (WAYPOINT_SHIFT * self._rng.uniform(size=2)).tolist()
            self._waypoints.append((cell[0] - shift[0], cell[1] - shift[1]))
        self._next = 0
        self._target = target
        self._last_x, self._last_y = start

    def _cell(self, x: float, y: float) -> Cell:
        """Return the cell by D4RL's rounding, or the cell of the point if that is a wall."""
        rounded = (round(x), round(y))
        return rounded if self._layout.is_free(*rounded) else self._layout.cell(x, y)
