"""Gymnasium environments for pgdiff: D4RL's maze2d on today's MuJoCo.

Importing this package registers the ids of `TASKS`, so both of these work::

    gymnasium.make("pgdiff_envs:maze2d-umaze-v1")
    import pgdiff_envs; gymnasium.make("maze2d-umaze-v1")
"""

from pgdiff_envs.errors import PgdiffEnvsError
from pgdiff_envs.tasks import REFERENCE_SCORES, TASKS, Task, normalized_score, register_tasks

__all__ = ["REFERENCE_SCORES", "TASKS", "PgdiffEnvsError", "Task", "normalized_score"]

register_tasks()
