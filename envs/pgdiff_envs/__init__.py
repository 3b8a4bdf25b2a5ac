"""Gymnasium environments for pgdiff: D4RL's maze2d on current MuJoCo, and locomotion tasks.

Importing this package registers the ids of `TASKS` and `LOCOMOTION_TASKS`. Both forms work::

    gymnasium.make("pgdiff_envs:maze2d-umaze-v1")
    import pgdiff_envs; gymnasium.make("maze2d-umaze-v1")

Example:
    >>> import gymnasium
    >>> env = gymnasium.make("pgdiff_envs:maze2d-umaze-v1")
    >>> observation, info = env.reset(seed=0)
    >>> observation.shape, info["goal"].tolist()
    ((4,), [1.0, 1.0])
"""

from pgdiff_envs.errors import PgdiffEnvsError
from pgdiff_envs.tasks import (
    LOCOMOTION_TASKS,
    REFERENCE_SCORES,
    TASKS,
    LocomotionTask,
    Task,
    normalized_score,
    register_tasks,
)

__all__ = [
    "LOCOMOTION_TASKS",
    "REFERENCE_SCORES",
    "TASKS",
    "LocomotionTask",
    "PgdiffEnvsError",
    "Task",
    "normalized_score",
]

register_tasks()
