"""Gymnasium's locomotion tasks with normalised scores and a reset to an observation."""

from typing import Any, ClassVar

import numpy as np
from jaxtyping import Bool, Float

from pgdiff_envs.errors import PgdiffEnvsError, require
from pgdiff_envs.tasks import LOCOMOTION_TASKS, REFERENCE_SCORES

mujoco = require("mujoco", extra="mujoco")
# Imported after the check above, because these modules need MuJoCo.
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
"""Arguments that affect rendered images only."""


class LocomotionEnv(MujocoEnv):
    """Extensions of Gymnasium's locomotion environments; dynamics and rewards are unchanged.

    D4RL's reference scores belong to MuJoCo 2 and to version 2 of the tasks. Here they only define
    a scale from 0 (random policy) to 100 (trained policy); scores are not comparable with published
    ones.

    Attributes:
        task_id: id of the task, without "pgdiff_envs:".
        velocity_clip: largest velocity in observations; None if they are not clipped.
    """

    task_id: ClassVar[str]
    velocity_clip: ClassVar[float | None] = 10.0

    def __init__(self, *arguments: Any, **settings: Any) -> None:
        changed = {name for name in settings if name not in _OF_PICTURES}
        self._changed = sorted(changed | ({"its arguments"} if arguments else set()))
        super().__init__(*arguments, **settings)

    @property
    def reference_steps(self) -> int:
        """Time limit of the episodes of `reference_scores`."""
        return LOCOMOTION_TASKS[self.task_id].steps

    @property
    def reference_scores(self) -> tuple[float, float]:
        """Returns whose normalised scores are 0 and 100.

        Raises:
            PgdiffEnvsError: the environment was made with arguments that change rewards,
                termination or dynamics.
        """
        if self._changed:
            raise PgdiffEnvsError(
                f"`reference_scores` of '{self.task_id}' are not valid for a changed "
                f"{' and '.join(self._changed)}. Make the environment by its id alone."
            )
        return REFERENCE_SCORES[self.task_id]

    def normalized_score(self, returns: Any) -> Float[np.ndarray, "..."]:
        """Return D4RL's normalised scores (times 100) of undiscounted returns.

        Raises:
            PgdiffEnvsError: as in `reference_scores`.
        """
        low, high = self.reference_scores
        return np.asarray(100.0 * (np.asarray(returns, dtype=np.float64) - low) / (high - low))

    def set_observation(self, observation: Any) -> Float[np.ndarray, " obs"]:
        """Reset the simulator to the state of a recorded or generated observation.

        The observation is `[qpos without the root's x, qvel]`. The root's x, which affects neither
        dynamics nor rewards, is set to 0. Hopper and Walker2d clip observed velocities to
        [-10, 10]: a value of 10 may belong to a larger velocity, and the next steps then differ by
        more than rounding (for trained agents this affects a tenth of Hopper's observations and
        half of Walker2d's). The passed velocities are set without clipping.

        The next step runs the solver without its warm start, which is only an initial guess: the
        next observation agrees to about 1e-12, or to about 1e-6 if the observation was rounded to
        float32. The step counters of wrappers do not change.

        Args:
            observation: [obs], finite.

        Returns:
            The observation of the new state, [obs], float64.

        Raises:
            PgdiffEnvsError: wrong shape, or values that are not finite numbers.
        """
        shape = self.observation_space.shape
        try:
            values = np.asarray(observation, dtype=np.float64)
        except (TypeError, ValueError):
            values = np.empty(0)
        if values.shape != shape or not np.isfinite(values).all():
            raise PgdiffEnvsError(
                f"`observation` must be finite numbers of shape {shape}. Got {observation!r}."
            )
        task: Any = self  # Gymnasium's attributes have no types
        positions = task.observation_structure["qpos"]
        qpos = np.zeros(self.model.nq)
        qpos[task.observation_structure["skipped_qpos"] :] = values[:positions]
        mujoco.mj_resetData(self.model, self.data)
        task.set_state(qpos, values[positions:])
        return np.asarray(task._get_obs(), np.float64)

    def tells_state(
        self, observations: Float[np.ndarray, "*rows obs"]
    ) -> Bool[np.ndarray, "*rows"]:
        """Return a mask of the observations that determine the state: no velocity is clipped.

        Velocities within 5 % of the clip count as clipped, because generated values of clipped
        velocities are rarely exact.
        """
        task: Any = self
        velocities = np.abs(np.asarray(observations)[..., task.observation_structure["qpos"] :])
        if self.velocity_clip is None:
            return np.ones(velocities.shape[:-1], np.bool_)
        unclipped: np.ndarray = (velocities < 0.95 * self.velocity_clip).all(axis=-1)
        return unclipped

    def ends_episode(
        self, observations: Float[np.ndarray, "*rows obs"]
    ) -> Bool[np.ndarray, "*rows"]:
        """Return a mask of the observations at which the task terminates (a fall).

        It applies the simulator's termination rule to recorded or generated observations.
        """
        values = np.asarray(observations)
        task: Any = self
        fallen: np.ndarray = np.zeros(values.shape[:-1], np.bool_)
        if not getattr(self, "_terminate_when_unhealthy", False):
            return fallen
        height, angle = values[..., 0], values[..., 1]
        ranges = [(height, task._healthy_z_range), (angle, task._healthy_angle_range)]
        if hasattr(self, "_healthy_state_range"):  # Hopper: all features except the height
            others = np.moveaxis(values[..., 1:], -1, 0)
            ranges += [(feature, task._healthy_state_range) for feature in others]
        for feature, (low, high) in ranges:
            fallen |= ~((low < feature) & (feature < high))
        return fallen

    def _initialize_simulation(self) -> Any:
        """Compile the model without MuJoCo's warning about Gymnasium's XML.

        MuJoCo would print the warning and write a log file to the working directory at every start.
        """
        before = mujoco.get_mju_user_warning()
        mujoco.set_mju_user_warning(lambda message: None)
        try:
            return super()._initialize_simulation()
        finally:
            mujoco.set_mju_user_warning(before)


class HopperEnv(LocomotionEnv, GymnasiumHopper):
    """Gymnasium's Hopper-v5 with the additions of `LocomotionEnv`."""

    task_id = "hopper-v5"


class Walker2dEnv(LocomotionEnv, GymnasiumWalker2d):
    """Gymnasium's Walker2d-v5 with the additions of `LocomotionEnv`."""

    task_id = "walker2d-v5"


class HalfCheetahEnv(LocomotionEnv, GymnasiumHalfCheetah):
    """Gymnasium's HalfCheetah-v5 with the additions of `LocomotionEnv`."""

    task_id = "halfcheetah-v5"
    velocity_clip = None
