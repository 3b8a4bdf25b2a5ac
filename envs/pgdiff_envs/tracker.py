"""Controller that drives the ball to a way-point (position and velocity) at a given time."""

from typing import Any

import numpy as np
from jaxtyping import Float

from pgdiff_envs.errors import PgdiffEnvsError
from pgdiff_envs.physics import DAMPING, GEAR, MASS, TIMESTEP

#: Cost of the miss at the way-point relative to the command, and of velocity relative to position.
#: A higher cost drives the commands to their limits: the ball then overshoots and falls behind.
MISS_COST = 1e3
VELOCITY_COST = 0.3
#: Largest horizon of the gains, in steps; way-points further ahead use the gains of this horizon.
MAX_STEPS = 128


def _gains() -> Float[np.ndarray, "steps_left 2"]:
    """Return position and velocity gains by steps left (row 0 is unused), by Riccati recursion.

    One step of MuJoCo's Euler integrator (implicit in the joint's damping) is
    v' = (m v + dt F) / (m + dt b), x' = x + dt v'.
    """
    slow = MASS / (MASS + TIMESTEP * DAMPING)
    push = TIMESTEP * GEAR / (MASS + TIMESTEP * DAMPING)
    dynamics = np.array([[1.0, TIMESTEP * slow], [0.0, slow]])
    control = np.array([TIMESTEP * push, push])
    cost = MISS_COST * np.diag([1.0, VELOCITY_COST])
    gains = np.zeros((MAX_STEPS + 1, 2))
    for steps_left in range(1, MAX_STEPS + 1):
        gains[steps_left] = control @ cost @ dynamics / (1.0 + control @ cost @ control)
        closed = dynamics - np.outer(control, gains[steps_left])
        cost = closed.T @ cost @ closed + np.outer(gains[steps_left], gains[steps_left])
    return gains


class Tracker:
    """PD law with gains that depend on the time left and reach the way-point with least effort.

    It uses the ball's mass and damping but ignores walls: way-points must be close enough that a
    smooth line between two of them is free.
    """

    def __init__(self) -> None:
        self._gains = _gains()

    def act(
        self,
        observation: Float[np.ndarray, "*batch 4"],
        waypoint: Float[np.ndarray, "*batch 4"],
        steps_left: Any,
    ) -> Float[np.ndarray, "*batch 2"]:
        """Return the action that drives the ball to `waypoint`.

        Args:
            observation: [4] or [batch, 4], x, y, vx, vy now.
            waypoint: [4] or [batch, 4], x, y, vx, vy of the way-point.
            steps_left: number of steps until the way-point, at least 1; an integer or [batch].

        Returns:
            The action, float32 in [-1, 1].

        Raises:
            PgdiffEnvsError: the shapes do not match, or `steps_left` is below 1.
        """
        now, target = np.asarray(observation, np.float64), np.asarray(waypoint, np.float64)
        steps = np.asarray(steps_left)
        if now.shape[-1:] != (4,) or target.shape != now.shape or now.ndim > 2:
            raise PgdiffEnvsError(
                "`observation` and `waypoint` must both have the shape (4,) or (batch, 4). "
                f"Got {now.shape} and {target.shape}."
            )
        if steps.shape not in ((), now.shape[:-1]) or steps.dtype.kind not in "iu":
            raise PgdiffEnvsError(
                f"`steps_left` must be integers of shape {now.shape[:-1]}. Got {steps_left!r}."
            )
        if (steps < 1).any():
            raise PgdiffEnvsError(f"`steps_left` must be at least 1. Got {steps_left!r}.")
        # The way-point moves: a time t before its arrival it is at position - t velocity.
        time = (TIMESTEP * steps)[..., None]
        gains = self._gains[np.minimum(steps, MAX_STEPS)]
        position = now[..., :2] - (target[..., :2] - time * target[..., 2:])
        velocity = now[..., 2:] - target[..., 2:]
        hold = DAMPING / GEAR * target[..., 2:]
        action = hold - gains[..., :1] * position - gains[..., 1:] * velocity
        return np.asarray(np.clip(action, -1.0, 1.0), np.float32)
