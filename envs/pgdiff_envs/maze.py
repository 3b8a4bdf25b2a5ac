"""The environment: a force-driven ball in a maze, as D4RL's `MazeEnv`."""

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

#: Within this distance of the goal the sparse reward is 1 and the step counts as a success.
GOAL_RADIUS = 0.5


class MazeEnv(gymnasium.Env[np.ndarray, np.ndarray]):
    """A ball that two motors push through a maze; it is paid for being near the goal.

    The observation is [x, y, vx, vy], float64, in metres and metres per second. The action is the
    command of the two motors, in [-1, 1]. A step lasts 0.01 s. The sparse reward is 1 within 0.5 of
    the goal and else 0, the dense reward is exp(-distance); both are of the state *after* the step.
    An episode never terminates. `info` holds "goal", [2], and "is_success", whether the ball is
    within 0.5 of the goal. The goal is not part of the observation, not even where it is random.

    D4RL bounds no observation. Here the box is finite, and wider than the ball can go.

    Args:
        layout: name of a maze, or its rows of '#', 'O' and 'G'.
        reward: "sparse" or "dense".
        random_goal: draw a goal at every reset: a free cell's (w, h) plus uniform(-0.1, 0.1).
        reference_scores: the returns whose normalised scores are 0 and 100.
        force_noise: standard deviation of a Gaussian force on each motor, drawn anew for every step
            from the environment's generator, in units of the greatest command; D4RL has none. It is
            added behind the motor's own limit.
        goal_steps: the expert gives a goal up after so many steps; each task names its step limit.
        render_mode: None or "rgb_array". Pictures are drawn in NumPy and need no display.
        render_size: pixels of the picture's longer side.

    Raises:
        PgdiffEnvsError: a bad argument, or MuJoCo is missing.
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
        # Views into MuJoCo's memory: asking `data` for them at each step would be slow.
        self._qpos, self._qvel, self._ctrl = self.data.qpos, self.data.qvel, self.data.ctrl
        self._task_goal = _point(self.layout.goal_cell)
        self._place_goal(self._task_goal)

    @property
    def maze(self) -> tuple[str, ...]:
        """The layout's rows: row `w`, column `h` is the cell around (w - 0.2, h - 0.2)."""
        return self.layout.rows

    @property
    def goal(self) -> Float[np.ndarray, "2"]:
        """The present goal (x, y), a copy."""
        return self._goal.copy()

    def set_goal(self, xy: Any) -> None:
        """Move the goal, now and for later episodes (a random goal is drawn anew at each reset).

        Raises:
            PgdiffEnvsError: not two finite numbers, or not in a free cell.
        """
        self._task_goal = self._checked_goal("xy", xy)
        self._place_goal(self._task_goal)

    @property
    def task(self) -> Task | None:
        """The task whose id this environment was made by; None for a custom maze."""
        return None if self.spec is None else TASKS.get(self.spec.id)

    @property
    def touch_reward(self) -> float | None:
        """The reward of every step at the goal: 1 where rewards are sparse, None where dense.

        It is for scores that count from the first touch of the goal on: other steps are worth 0,
        the goal rests within an episode, and an episode goes on after it.
        """
        return 1.0 if self.reward == "sparse" else None

    @property
    def reference_steps(self) -> int | None:
        """The time limit of the episodes that `reference_scores` are of; None for any."""
        return None if self.task is None else self.task.steps

    @property
    def reference_scores(self) -> tuple[float, float]:
        """The returns whose normalised scores are 0 (random) and 100 (D4RL's controller).

        Raises:
            PgdiffEnvsError: this environment was made without any, or by the id of a task but with
                another layout, reward or goal, which the task's scores do not fit.
        """
        if self._reference_scores is None:
            raise PgdiffEnvsError(
                "`reference_scores` is not set for this maze: give it to MazeEnv, or make the "
                "environment by one of the ids of pgdiff_envs.TASKS."
            )
        if self.task is not None and tuple(self._reference_scores) == self.task.reference:
            self._check_is_task(self.task)
        return self._reference_scores

    def _check_is_task(self, task: Task) -> None:
        """Raise an error if the reference scores of a task do not fit what was made of it."""
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
                f"`reference_scores` of '{self.spec.id}' do not fit another {' and '.join(names)}: "
                "make the environment by its id alone, or give `reference_scores` of your own."
            )

    def normalized_score(self, returns: Any) -> Float[np.ndarray, "..."]:
        """D4RL's normalised score times 100, of one or many undiscounted returns.

        Raises:
            PgdiffEnvsError: as `reference_scores`.
        """
        low, high = self.reference_scores
        return np.asarray(100.0 * (np.asarray(returns, dtype=np.float64) - low) / (high - low))

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Float[np.ndarray, "4"], dict[str, Any]]:
        """Start an episode where D4RL does, or where `options` say.

        The start is a free cell's (w, h) plus uniform(-0.1, 0.1), its velocity 0.1 times a standard
        normal.

        Args:
            seed: seeds the generator of starts and goals.
            options: "location", the exact start (x, y); "goal", the goal (x, y) of this episode.

        Raises:
            PgdiffEnvsError: an unknown option, a location within the ball's radius of a wall, or a
                goal outside the free cells.
        """
        super().reset(seed=seed)
        options = options or {}
        if unknown := set(options) - {"location", "goal"}:
            raise PgdiffEnvsError(
                f"`options` may hold 'location' and 'goal'. Got {sorted(map(str, unknown))}."
            )
        # Everything is drawn whether it is used or not: an option changes no other draw.
        position = self.layout.draw_position(self.np_random)
        velocity = 0.1 * self.np_random.standard_normal(2)
        goal = self._task_goal
        if self.random_goal:
            goal = self.layout.draw_position(self.np_random)
        if options.get("location") is not None:
            position = self._checked_location(options["location"])
        if options.get("goal") is not None:
            goal = self._checked_goal("options['goal']", options["goal"])

        self._mj_reset(self._model, self.data)
        self._qpos[:] = position
        self._qvel[:] = velocity
        self._place_goal(goal)
        return np.concatenate([self._qpos, self._qvel]), self._info(self._distance())

    def set_observation(self, observation: Any) -> Float[np.ndarray, "4"]:
        """Set the ball to the position and velocity of an observation, recorded or generated.

        They are the whole state: what follows is exact. The goal stays, and a place inside a wall
        is taken as it is.

        Args:
            observation: [x, y, vx, vy], finite.

        Raises:
            PgdiffEnvsError: another shape, or values that are not finite numbers.
        """
        try:
            given = np.asarray(observation, dtype=np.float64)
        except (TypeError, ValueError):
            given = np.empty(0)
        if given.shape != (4,) or not np.isfinite(given).all():
            raise PgdiffEnvsError(
                f"`observation` must be finite numbers [x, y, vx, vy]. Got {observation!r}."
            )
        self._mj_reset(self._model, self.data)
        self._qpos[:], self._qvel[:] = given[:2], given[2:]
        return np.concatenate([self._qpos, self._qvel])

    def clearance(self, positions: Any) -> Float[np.ndarray, "*points"]:
        """Return the distance from each position of the ball's middle to the nearest wall.

        It is 0 inside a wall and outside the maze. The ball touches a wall at its radius, 0.1.

        Args:
            positions: (x, y) of an observation, or `[..., 2]` of them; finite.

        Raises:
            PgdiffEnvsError: another shape, or values that are not finite numbers.
        """
        return self.layout.clearances(_points(positions))

    def distance_to_goal(self, positions: Any) -> Float[np.ndarray, "*points"]:
        """Return the length of the shortest way from each position to the present goal.

        The way is that of a point through the free cells, about the corners of the walls. It is
        inf inside a wall, outside the maze, and where no way leads to the goal.

        Args:
            positions: (x, y) of an observation, or `[..., 2]` of them; finite.

        Raises:
            PgdiffEnvsError: another shape, or values that are not finite numbers.
        """
        points = _points(positions)
        flat = points.reshape(-1, 2)
        goals = np.broadcast_to(self._goal, flat.shape)
        return shortest_ways(self.layout).lengths(flat, goals).reshape(points.shape[:-1])

    def rewards_at(self, observations: Any) -> Float[np.ndarray, "*points"]:
        """Return the reward of a step that ends at each observation, for the present goal.

        Args:
            observations: `[..., 4]`, or `[..., 2]` of positions alone; finite.

        Raises:
            PgdiffEnvsError: another shape, or values that are not finite numbers.
        """
        given = np.asarray(observations)
        places = given[..., :2] if given.shape[-1:] == (4,) else observations
        distance = np.linalg.norm(_points(places) - self._goal, axis=-1)
        return np.asarray(
            distance <= GOAL_RADIUS if self.reward == "sparse" else np.exp(-distance), np.float64
        )

    def step(self, action: Any) -> tuple[Float[np.ndarray, "4"], float, bool, bool, dict[str, Any]]:
        """Clip the command and the velocity, then let MuJoCo make one step of 0.01 s.

        D4RL clips through `set_state`, which also runs `mj_forward`. That changes no state of
        today's MuJoCo, whose solver saves its warm start in `mj_step` alone, so it is left out.

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
        """Return the maze from above, x to the right and y upwards; None without a render mode."""
        if self.render_mode is None:
            return None
        return self._raster.render(ball=self._qpos, goal=self._goal)

    def draw(self, axes: "Axes", plan: Any = None) -> None:
        """Draw walls, goal and ball into matplotlib axes, x to the right and y upwards.

        Args:
            axes: where to draw; the data coordinates are the observation's (x, y).
            plan: anything with `observations` [tokens, >= 2], and perhaps `candidates`
                [candidates, tokens, >= 2] and `scores` [candidates], such as a plan of pgdiff: the
                candidates are coloured by score, the plan itself is bold.
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
        """D4RL's recording controller for this maze; see `Expert`.

        Args:
            seed: of goals, way-points and noise.
            noise: standard deviation of what is added to its actions; D4RL's noisy kind has 0.5.
            goal: walk to this goal and stay there, instead of drawing one goal after another.
                D4RL's reference scores were made so, with the task's goal, but without telling the
                controller of resets: from the second episode on it pushed straight at the goal,
                walls or not. Told of them (`episode_start`) it scores well above 100.

        Raises:
            PgdiffEnvsError: a bad `noise` or `goal`.
        """
        if goal is not None:
            goal = self._checked_goal("goal", goal)
        return Expert(self.layout, seed=seed, noise=noise, goal=goal, goal_steps=self._goal_steps)

    def tracker(self) -> Tracker:
        """A controller that drives the ball to a way-point by a given time; see `Tracker`."""
        return Tracker()

    def _distance(self) -> float:
        x, y = self._qpos.tolist()
        return math.sqrt((x - self._goal_x) ** 2 + (y - self._goal_y) ** 2)

    def _info(self, distance: float) -> dict[str, Any]:
        # A copy: Gymnasium asks that infos share no object.
        return {"goal": self._goal.copy(), "is_success": distance <= GOAL_RADIUS}

    def _place_goal(self, goal: Float[np.ndarray, "2"]) -> None:
        self._goal: np.ndarray = goal.copy()
        self._goal_x, self._goal_y = self._goal.tolist()

    def _checked_goal(self, name: str, xy: Any) -> Float[np.ndarray, "2"]:
        point = _point(xy, name)
        if not self.layout.is_free(*self.layout.cell(*point.tolist())):
            raise PgdiffEnvsError(
                f"`{name}` must lie in a free cell of the maze {list(self.maze)}. "
                f"Got ({point[0]:g}, {point[1]:g})."
            )
        return point

    def _checked_location(self, xy: Any) -> Float[np.ndarray, "2"]:
        point = _point(xy, "options['location']")
        if self.layout.clearance(*point.tolist()) < BALL_RADIUS:
            raise PgdiffEnvsError(
                f"`options['location']` must be at least the ball's radius, {BALL_RADIUS}, from "
                f"every wall of the maze {list(self.maze)}. Got ({point[0]:g}, {point[1]:g})."
            )
        return point


def _points(positions: Any) -> Float[np.ndarray, "*points 2"]:
    """Return positions as finite float64, `[..., 2]`."""
    try:
        points = np.asarray(positions, dtype=np.float64)
    except (TypeError, ValueError):
        points = np.empty(0)
    if points.shape[-1:] != (2,) or not np.isfinite(points).all():
        raise PgdiffEnvsError(
            "`positions` must be finite numbers (x, y), or an array [..., 2] of them. Got "
            f"{positions!r}."
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
