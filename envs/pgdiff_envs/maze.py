"""Environment with a force-driven ball in a maze, as in D4RL's `MazeEnv`."""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import gymnasium
import numpy as np
from jaxtyping import Float, UInt8

from pgdiff_envs.errors import PgdiffEnvsError, require
from pgdiff_envs.expert import Expert
from pgdiff_envs.layouts import BALL_RADIUS, Layout, get_layout
from pgdiff_envs.physics import GEAR, MAX_VELOCITY, TIMESTEP, build_xml
from pgdiff_envs.raster import Raster
from pgdiff_envs.shortest import shortest_ways
from pgdiff_envs.tasks import TASKS, Task
from pgdiff_envs.tracker import Tracker

if TYPE_CHECKING:
    from matplotlib.axes import Axes

#: Distance to the goal within which the sparse reward is 1 and the step counts as a success.
GOAL_RADIUS = 0.5


class MazeEnv(gymnasium.Env[np.ndarray, np.ndarray]):
    """Ball driven through a maze by two motors; the reward is given near the goal.

    The observation is [x, y, vx, vy], float64, in metres and metres per second. The action is the
    command of the two motors, in [-1, 1]. A step lasts 0.01 s. The sparse reward is 1 within 0.5 of
    the goal and else 0, the dense reward is exp(-distance); both belong to the state *after* the
    step. Episodes never terminate. `info` holds "goal", [2], and "is_success", True if the ball is
    within 0.5 of the goal. The goal is not part of the observation, even if it is random.

    D4RL's observation space is unbounded. Here it is a finite box that contains all reachable
    states.

    Args:
        layout: name of a maze, or rows of '#', 'O' and 'G'.
        reward: "sparse" or "dense".
        random_goal: draw a goal at every reset: (w, h) of a free cell plus uniform(-0.1, 0.1).
        reference_scores: returns whose normalised scores are 0 and 100.
        force_noise: standard deviation of a Gaussian force on each motor, drawn at every step from
            the environment's generator, in units of the largest command. It is added after the
            motor's limit. D4RL uses 0.
        goal_steps: steps after which the expert abandons a goal; the registered tasks use their
            step limit.
        render_mode: None or "rgb_array". Images are drawn in NumPy and need no display.
        render_size: length of the image's longer side in pixels.

    Raises:
        PgdiffEnvsError: an argument is invalid, or MuJoCo is missing.
    """

    metadata: ClassVar[dict[str, Any]] = {  # type: ignore[misc]
        "render_modes": ["rgb_array"],
        "render_fps": round(1 / TIMESTEP),
    }
    feature_names: ClassVar[tuple[str, ...]] = ("x", "y", "velocity x", "velocity y")
    action_names: ClassVar[tuple[str, ...]] = ("force x", "force y")

    def __init__(
        self,
        *,
        layout: str | Sequence[str] = "umaze",
        reward: str = "sparse",
        random_goal: bool = False,
        reference_scores: tuple[float, float] | None = None,
        force_noise: float = 0.0,
        goal_steps: int = 600,
        render_mode: str | None = None,
        render_size: int = 400,
    ) -> None:
        if reward not in ("sparse", "dense"):
            raise PgdiffEnvsError(f"`reward` must be 'sparse' or 'dense'. Got '{reward}'.")
        if render_mode not in (None, "rgb_array"):
            raise PgdiffEnvsError(
                f"`render_mode` must be None or 'rgb_array'. Got {render_mode!r}."
            )
        if isinstance(goal_steps, bool) or not isinstance(goal_steps, int) or goal_steps < 1:
            raise PgdiffEnvsError(
                f"`goal_steps` must be an integer of at least 1. Got {goal_steps!r}."
            )
        if isinstance(force_noise, bool | str) or not 0 <= float(force_noise) < math.inf:
            raise PgdiffEnvsError(
                f"`force_noise` must be a finite number of at least 0. Got {force_noise!r}."
            )
        mujoco = require("mujoco", extra="mujoco")
        self.layout: Layout = get_layout(layout)
        self.reward = reward
        self.random_goal = random_goal
        self.render_mode = render_mode
        self._raster = Raster(self.layout, size=render_size)
        self._reference_scores = reference_scores
        self._goal_steps = goal_steps
        self.force_noise = float(force_noise)

        width, height = self.layout.shape
        self.observation_space = gymnasium.spaces.Box(
            low=np.array([0.0, 0.0, -2 * MAX_VELOCITY, -2 * MAX_VELOCITY]),
            high=np.array([width - 1.0, height - 1.0, 2 * MAX_VELOCITY, 2 * MAX_VELOCITY]),
            dtype=np.float64,
        )
        self.action_space = gymnasium.spaces.Box(-1.0, 1.0, shape=(2,), dtype=np.float32)

        self._model = mujoco.MjModel.from_xml_string(build_xml(self.layout))
        self.data = mujoco.MjData(self._model)
        self._mj_step, self._mj_reset = mujoco.mj_step, mujoco.mj_resetData
        # Views into MuJoCo's memory: looking them up in `data` at each step would be slow.
        self._qpos, self._qvel, self._ctrl = self.data.qpos, self.data.qvel, self.data.ctrl
        self._task_goal = _point(self.layout.goal_cell)
        self._set_goal(self._task_goal)

    @property
    def maze(self) -> tuple[str, ...]:
        """Rows of the layout: row `w`, column `h` is the cell around (w - 0.2, h - 0.2)."""
        return self.layout.rows

    @property
    def goal(self) -> Float[np.ndarray, "2"]:
        """Copy of the present goal (x, y)."""
        return self._goal.copy()

    def set_goal(self, xy: Any) -> None:
        """Set the goal of this and later episodes; a random goal is replaced at the next reset.

        Raises:
            PgdiffEnvsError: `xy` is not two finite numbers, or not in a free cell.
        """
        self._task_goal = self._check_goal("xy", xy)
        self._set_goal(self._task_goal)

    @property
    def task(self) -> Task | None:
        """Registered task of this environment; None for a custom maze."""
        return None if self.spec is None else TASKS.get(self.spec.id)

    @property
    def touch_reward(self) -> float | None:
        """Reward of each step at the goal: 1 for sparse rewards, None for dense ones.

        Scores that count the steps after the first touch of the goal use it: all other steps have
        reward 0, the goal is fixed within an episode, and the episode continues after the touch.
        """
        return 1.0 if self.reward == "sparse" else None

    @property
    def reference_steps(self) -> int | None:
        """Time limit of the episodes of `reference_scores`; None if any."""
        return None if self.task is None else self.task.steps

    @property
    def reference_scores(self) -> tuple[float, float]:
        """Returns whose normalised scores are 0 (random policy) and 100 (D4RL's controller).

        Raises:
            PgdiffEnvsError: no reference scores were given, or the environment was made by a task
                id but with another layout, reward or goal.
        """
        if self._reference_scores is None:
            raise PgdiffEnvsError(
                "`reference_scores` is not set for this maze. Pass it to MazeEnv, or make the "
                "environment by an id of pgdiff_envs.TASKS."
            )
        if self.task is not None and tuple(self._reference_scores) == self.task.reference:
            self._check_is_task(self.task)
        return self._reference_scores

    def _check_is_task(self, task: Task) -> None:
        """Raise if the environment differs from the task of its reference scores."""
        assert self.spec is not None
        changed = {
            "layout": self.layout.rows != get_layout(task.layout).rows,
            "reward": self.reward != task.reward,
            "random_goal": self.random_goal != task.random_goal,
            "goal": not task.random_goal
            and not np.array_equal(self._task_goal, _point(self.layout.goal_cell)),
        }
        if names := [name for name, differs in changed.items() if differs]:
            raise PgdiffEnvsError(
                f"`reference_scores` of '{self.spec.id}' are not valid for a changed "
                f"{' and '.join(names)}. Make the environment by its id alone, or pass "
                "`reference_scores`."
            )

    def normalized_score(self, returns: Any) -> Float[np.ndarray, "..."]:
        """Return D4RL's normalised scores (times 100) of undiscounted returns.

        Raises:
            PgdiffEnvsError: as in `reference_scores`.
        """
        low, high = self.reference_scores
        return np.asarray(100.0 * (np.asarray(returns, dtype=np.float64) - low) / (high - low))

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Float[np.ndarray, "4"], dict[str, Any]]:
        """Start an episode at a random start, as in D4RL, or at the one in `options`.

        The start is (w, h) of a free cell plus uniform(-0.1, 0.1), and the velocity 0.1 times a
        standard normal variable.

        Args:
            seed: seed of the generator of starts and goals.
            options: "location", the exact start (x, y); "goal", the goal (x, y) of this episode.

        Raises:
            PgdiffEnvsError: an option is unknown, the location is nearer to a wall than the ball's
                radius, or the goal is outside the free cells.
        """
        super().reset(seed=seed)
        options = options or {}
        if unknown := set(options) - {"location", "goal"}:
            raise PgdiffEnvsError(
                f"`options` must only hold 'location' and 'goal'. Got {sorted(map(str, unknown))}."
            )
        # All values are always drawn, so that an option does not change the other draws.
        position = self.layout.draw_position(self.np_random)
        velocity = 0.1 * self.np_random.standard_normal(2)
        goal = self._task_goal
        if self.random_goal:
            goal = self.layout.draw_position(self.np_random)
        if options.get("location") is not None:
            position = self._check_location(options["location"])
        if options.get("goal") is not None:
            goal = self._check_goal("options['goal']", options["goal"])

        self._mj_reset(self._model, self.data)
        self._qpos[:] = position
        self._qvel[:] = velocity
        self._set_goal(goal)
        return np.concatenate([self._qpos, self._qvel]), self._info(self._distance())

    def set_observation(self, observation: Any) -> Float[np.ndarray, "4"]:
        """Set the ball to the position and velocity of a recorded or generated observation.

        They are the complete state, so later steps are exact. The goal does not change, and
        positions inside a wall are accepted.

        Args:
            observation: [x, y, vx, vy], finite.

        Raises:
            PgdiffEnvsError: wrong shape, or values that are not finite numbers.
        """
        try:
            values = np.asarray(observation, dtype=np.float64)
        except (TypeError, ValueError):
            values = np.empty(0)
        if values.shape != (4,) or not np.isfinite(values).all():
            raise PgdiffEnvsError(
                f"`observation` must be four finite numbers [x, y, vx, vy]. Got {observation!r}."
            )
        self._mj_reset(self._model, self.data)
        self._qpos[:], self._qvel[:] = values[:2], values[2:]
        return np.concatenate([self._qpos, self._qvel])

    def clearance(self, positions: Any) -> Float[np.ndarray, "*points"]:
        """Return the distance from each position of the ball's middle to the nearest wall.

        It is 0 inside a wall and outside the maze. The ball touches a wall at its radius, 0.1.

        Args:
            positions: [..., 2], finite (x, y) of observations.

        Raises:
            PgdiffEnvsError: wrong shape, or values that are not finite numbers.
        """
        return self.layout.clearances(_points(positions))

    def distance_to_goal(self, positions: Any) -> Float[np.ndarray, "*points"]:
        """Return the length of the shortest path from each position to the present goal.

        The path is that of a point through the free cells, around the corners of the walls. The
        length is inf inside a wall, outside the maze, and if no path leads to the goal.

        Args:
            positions: [..., 2], finite (x, y) of observations.

        Raises:
            PgdiffEnvsError: wrong shape, or values that are not finite numbers.
        """
        points = _points(positions)
        flat = points.reshape(-1, 2)
        goals = np.broadcast_to(self._goal, flat.shape)
        return shortest_ways(self.layout).lengths(flat, goals).reshape(points.shape[:-1])

    def rewards_at(self, observations: Any) -> Float[np.ndarray, "*points"]:
        """Return the reward of a step that ends at each observation, for the present goal.

        Args:
            observations: [..., 4], or [..., 2] with positions only; finite.

        Raises:
            PgdiffEnvsError: wrong shape, or values that are not finite numbers.
        """
        values = np.asarray(observations)
        positions = values[..., :2] if values.shape[-1:] == (4,) else observations
        distance = np.linalg.norm(_points(positions) - self._goal, axis=-1)
        return np.asarray(
            distance <= GOAL_RADIUS if self.reward == "sparse" else np.exp(-distance), np.float64
        )

    def step(self, action: Any) -> tuple[Float[np.ndarray, "4"], float, bool, bool, dict[str, Any]]:
        """Clip the command and the velocity, and simulate one step of 0.01 s.

        D4RL clips by `set_state`, which also runs `mj_forward`. In current MuJoCo, whose solver
        saves its warm start in `mj_step` only, that call does not affect the state and is omitted.

        Raises:
            PgdiffEnvsError: the action is not two numbers, or holds NaN.
        """
        try:
            force_x, force_y = np.asarray(action).tolist()
            self._ctrl[0] = min(max(force_x, -1.0), 1.0)
            self._ctrl[1] = min(max(force_y, -1.0), 1.0)
        except (TypeError, ValueError):
            raise PgdiffEnvsError(f"`action` must be two numbers. Got {action!r}.") from None
        if force_x != force_x or force_y != force_y:
            raise PgdiffEnvsError(f"`action` must not hold NaN. Got {action!r}.")

        velocity_x, velocity_y = self._qvel.tolist()
        if not -MAX_VELOCITY <= velocity_x <= MAX_VELOCITY:
            self._qvel[0] = math.copysign(MAX_VELOCITY, velocity_x)
        if not -MAX_VELOCITY <= velocity_y <= MAX_VELOCITY:
            self._qvel[1] = math.copysign(MAX_VELOCITY, velocity_y)

        if self.force_noise:
            force = GEAR * self.force_noise * self.np_random.standard_normal(2)
            self.data.qfrc_applied[:] = force
        self._mj_step(self._model, self.data)

        distance = self._distance()
        if self.reward == "sparse":
            reward = 1.0 if distance <= GOAL_RADIUS else 0.0
        else:
            reward = math.exp(-distance)
        observation = np.array([*self._qpos.tolist(), *self._qvel.tolist()])
        return observation, reward, False, False, self._info(distance)

    def render(self) -> UInt8[np.ndarray, "height width 3"] | None:
        """Return an image of the maze (x right, y up), or None without a render mode."""
        if self.render_mode is None:
            return None
        return self._raster.render(ball=self._qpos, goal=self._goal)

    def draw(self, axes: "Axes", plan: Any = None) -> None:
        """Draw walls, goal and ball into matplotlib axes, x to the right and y upwards.

        Args:
            axes: the axes; their data coordinates are the observation's (x, y).
            plan: object with `observations` [tokens, >= 2] and optionally `candidates`
                [candidates, tokens, >= 2] and `scores` [candidates], such as a plan of pgdiff. The
                candidates are coloured by score, and the plan is bold.
        """
        from pgdiff_envs.drawing import draw_maze, draw_plan

        draw_maze(axes, self.layout, ball=self._qpos, goal=self._goal)
        if plan is not None:
            draw_plan(axes, plan)

    def expert(
        self,
        seed: int | np.random.Generator | None = None,
        *,
        noise: float = 0.0,
        goal: Any = None,
    ) -> Expert:
        """Return D4RL's recording controller for this maze (see `Expert`).

        Args:
            seed: seed of goals, way-points and noise.
            noise: standard deviation of the action noise; D4RL's noisy variant uses 0.5.
            goal: fixed goal to walk to, instead of random ones. D4RL's reference scores were made
                with the task's goal, but without passing resets to the controller: from the second
                episode on it pushed straight at the goal through walls. With `episode_start` it
                scores well above 100.

        Raises:
            PgdiffEnvsError: `noise` or `goal` is invalid.
        """
        if goal is not None:
            goal = self._check_goal("goal", goal)
        return Expert(self.layout, seed=seed, noise=noise, goal=goal, goal_steps=self._goal_steps)

    def tracker(self) -> Tracker:
        """Return a controller that reaches a way-point at a given time (see `Tracker`)."""
        return Tracker()

    def _distance(self) -> float:
        x, y = self._qpos.tolist()
        return math.sqrt((x - self._goal_x) ** 2 + (y - self._goal_y) ** 2)

    def _info(self, distance: float) -> dict[str, Any]:
        # A copy, because Gymnasium requires that infos do not share objects.
        return {"goal": self._goal.copy(), "is_success": distance <= GOAL_RADIUS}

    def _set_goal(self, goal: Float[np.ndarray, "2"]) -> None:
        self._goal: np.ndarray = goal.copy()
        self._goal_x, self._goal_y = self._goal.tolist()

    def _check_goal(self, name: str, xy: Any) -> Float[np.ndarray, "2"]:
        point = _point(xy, name)
        if not self.layout.is_free(*self.layout.cell(*point.tolist())):
            raise PgdiffEnvsError(
                f"`{name}` must lie in a free cell of the maze {list(self.maze)}. "
                f"Got ({point[0]:g}, {point[1]:g})."
            )
        return point

    def _check_location(self, xy: Any) -> Float[np.ndarray, "2"]:
        point = _point(xy, "options['location']")
        if self.layout.clearance(*point.tolist()) < BALL_RADIUS:
            raise PgdiffEnvsError(
                f"`options['location']` must be at least the ball's radius, {BALL_RADIUS}, from "
                f"every wall of the maze {list(self.maze)}. Got ({point[0]:g}, {point[1]:g})."
            )
        return point


def _points(positions: Any) -> Float[np.ndarray, "*points 2"]:
    """Return positions as finite float64, [..., 2]."""
    try:
        points = np.asarray(positions, dtype=np.float64)
    except (TypeError, ValueError):
        points = np.empty(0)
    if points.shape[-1:] != (2,) or not np.isfinite(points).all():
        raise PgdiffEnvsError(
            f"`positions` must be finite numbers of shape [..., 2]. Got {positions!r}."
        )
    return points


def _point(xy: Any, name: str = "xy") -> Float[np.ndarray, "2"]:
    """Return `xy` as two finite float64."""
    try:
        point = np.asarray(xy, dtype=np.float64)
    except (TypeError, ValueError):
        point = np.empty(0)
    if point.shape != (2,) or not np.isfinite(point).all():
        raise PgdiffEnvsError(f"`{name}` must be two finite numbers (x, y). Got {xy!r}.")
    return point
