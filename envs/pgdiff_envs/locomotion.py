"""Gymnasium's locomotion tasks with a scale of scores and an exact reset to an observation."""

from typing import Any, ClassVar

import numpy as np
from jaxtyping import Bool, Float

from pgdiff_envs.errors import PgdiffEnvsError, require
from pgdiff_envs.tasks import LOCOMOTION_TASKS, REFERENCE_SCORES

mujoco = require("mujoco", extra="mujoco")
# These need MuJoCo, whose absence has its own message above.
from gymnasium.envs.mujoco import MujocoEnv  # noqa: E402
from gymnasium.envs.mujoco.half_cheetah_v5 import (  # noqa: E402
    HalfCheetahEnv as GymnasiumHalfCheetah,
)
from gymnasium.envs.mujoco.hopper_v5 import HopperEnv as GymnasiumHopper  # noqa: E402
from gymnasium.envs.mujoco.walker2d_v5 import Walker2dEnv as GymnasiumWalker2d  # noqa: E402

_OF_PICTURES = frozenset(
    ("render_mode", "width", "height", "camera_id", "camera_name", "default_camera_config",
     "max_geom", "visual_options")
)  # fmt: skip
"""Arguments that change pictures alone."""


class LocomotionEnv(MujocoEnv):
    """What the tasks below have beside Gymnasium's own classes; dynamics and rewards are theirs.

    D4RL's reference scores are of MuJoCo 2 and of the tasks' second version. Here they are a scale
    that returns are read on, 0 for a random policy and 100 for a trained one, not a comparison with
    published scores.

    Attributes:
        task_id: the task's id, without "pgdiff_envs:".
        velocity_clip: greatest velocity that an observation tells; None for any.
    """

    task_id: ClassVar[str]
    velocity_clip: ClassVar[float | None] = 10.0

    def __init__(self, *arguments: Any, **settings: Any) -> None:
        changed = {name for name in settings if name not in _OF_PICTURES}
        self._changed = sorted(changed | ({"its arguments"} if arguments else set()))
        super().__init__(*arguments, **settings)

    @property
    def reference_steps(self) -> int:
        """The time limit of the episodes that `reference_scores` are of."""
        return LOCOMOTION_TASKS[self.task_id].steps

    @property
    def reference_scores(self) -> tuple[float, float]:
        """The returns whose normalised scores are 0 and 100.

        Raises:
            PgdiffEnvsError: the environment was made with arguments that change rewards, ends or
                dynamics, which the task's scores do not fit.
        """
        if self._changed:
            raise PgdiffEnvsError(
                f"`reference_scores` of '{self.task_id}' do not fit another "
                f"{' and '.join(self._changed)}: make the environment by its id alone."
            )
        return REFERENCE_SCORES[self.task_id]

    def normalized_score(self, returns: Any) -> Float[np.ndarray, "..."]:
        """D4RL's normalised score times 100, of one or many undiscounted returns.

        Raises:
            PgdiffEnvsError: as `reference_scores`.
        """
        low, high = self.reference_scores
        return np.asarray(100.0 * (np.asarray(returns, dtype=np.float64) - low) / (high - low))

    def set_observation(self, observation: Any) -> Float[np.ndarray, " obs"]:
        """Reset the simulator to the state that has this observation, recorded or generated.

        The observation is `[qpos without the root's x, qvel]`. The root's x, on which neither
        dynamics nor rewards depend, is set to 0. Hopper and Walker2d clip the velocities that they
        tell to [-10, 10]: a recorded one of exactly 10 stands for one that may have been larger,
        and what follows then differs by more than rounding (of trained agents a tenth of Hopper's
        observations are such, and half of Walker2d's). The velocities given are set as they are.

        The step that follows starts from a solver without warm start. It is a first guess alone:
        the next observation is the same to about 1e-12, and to about 1e-6 from one that was rounded
        to float32. A wrapper's count of steps is not touched.

        Args:
            observation: [obs], finite.

        Returns:
            The observation of the state that was set, [obs], float64.

        Raises:
            PgdiffEnvsError: another shape, or values that are not finite numbers.
        """
        shape = self.observation_space.shape
        try:
            given = np.asarray(observation, dtype=np.float64)
        except (TypeError, ValueError):
            given = np.empty(0)
        if given.shape != shape or not np.isfinite(given).all():
            raise PgdiffEnvsError(
                f"`observation` must be finite numbers of shape {shape}. Got {observation!r}."
            )
        task: Any = self  # what follows is Gymnasium's, without types
        positions = task.observation_structure["qpos"]
        qpos = np.zeros(self.model.nq)
        qpos[task.observation_structure["skipped_qpos"] :] = given[:positions]
        mujoco.mj_resetData(self.model, self.data)
        task.set_state(qpos, given[positions:])
        return np.asarray(task._get_obs(), np.float64)

    def tells_state(
        self, observations: Float[np.ndarray, "*rows obs"]
    ) -> Bool[np.ndarray, "*rows"]:
        """Whether each observation tells its state: not where a velocity is at the clip.

        Within 5 % of the clip counts as at it: a generated velocity that stands for a clipped one
        is seldom exactly that.
        """
        task: Any = self
        velocities = np.abs(np.asarray(observations)[..., task.observation_structure["qpos"] :])
        if self.velocity_clip is None:
            return np.ones(velocities.shape[:-1], np.bool_)
        told: np.ndarray = (velocities < 0.95 * self.velocity_clip).all(axis=-1)
        return told

    def ends_episode(
        self, observations: Float[np.ndarray, "*rows obs"]
    ) -> Bool[np.ndarray, "*rows"]:
        """Whether each observation is one in which the task ends an episode: a fall.

        What the simulator says after a step, of observations that it did not make.
        """
        given = np.asarray(observations)
        task: Any = self
        over: np.ndarray = np.zeros(given.shape[:-1], np.bool_)
        if not getattr(self, "_terminate_when_unhealthy", False):
            return over
        height, angle = given[..., 0], given[..., 1]
        ranges = [(height, task._healthy_z_range), (angle, task._healthy_angle_range)]
        if hasattr(self, "_healthy_state_range"):  # Hopper's, of all but the height
            others = np.moveaxis(given[..., 1:], -1, 0)
            ranges += [(feature, task._healthy_state_range) for feature in others]
        for values, (low, high) in ranges:
            over |= ~((low < values) & (values < high))
        return over

    def _initialize_simulation(self) -> Any:
        """Compile the model without the compiler's warning about Gymnasium's own XML.

        MuJoCo would print it, and leave a log file in the working directory, at every start.
        """
        before = mujoco.get_mju_user_warning()
        mujoco.set_mju_user_warning(lambda message: None)
        try:
            return super()._initialize_simulation()
        finally:
            mujoco.set_mju_user_warning(before)


class HopperEnv(LocomotionEnv, GymnasiumHopper):
    """Gymnasium's Hopper-v5; see `LocomotionEnv` for what is added."""

    task_id = "hopper-v5"


class Walker2dEnv(LocomotionEnv, GymnasiumWalker2d):
    """Gymnasium's Walker2d-v5; see `LocomotionEnv` for what is added."""

    task_id = "walker2d-v5"


class HalfCheetahEnv(LocomotionEnv, GymnasiumHalfCheetah):
    """Gymnasium's HalfCheetah-v5; see `LocomotionEnv` for what is added."""

    task_id = "halfcheetah-v5"
    velocity_clip = None
