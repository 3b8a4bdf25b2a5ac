"""Task ids, step limits, rewards and reference scores.

Source of all numbers: D4RL, `d4rl/pointmaze/__init__.py` and `d4rl/infos.py`; the step limits of
the locomotion tasks are Gymnasium's.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import gymnasium
import numpy as np
from jaxtyping import Float

from pgdiff_envs.errors import PgdiffEnvsError, nearest


@dataclass(frozen=True)
class Task:
    """Registered maze task.

    Attributes:
        layout: name of the maze in `pgdiff_envs.layouts.LAYOUTS`.
        steps: number of steps after which `TimeLimit` truncates the episode.
        reference: mean return of a random policy and of D4RL's controller: scores 0 and 100.
        reward: "sparse" or "dense".
        random_goal: True if every reset draws a goal.

    Example:
        >>> from pgdiff_envs import TASKS
        >>> task = TASKS["maze2d-large-v1"]
        >>> task.layout, task.steps, task.reward
        ('large', 800, 'sparse')
    """

    layout: str
    steps: int
    reference: tuple[float, float]
    reward: str = "sparse"
    random_goal: bool = False


@dataclass(frozen=True)
class LocomotionTask:
    """Registered locomotion task of Gymnasium.

    Attributes:
        env: name of the class in `pgdiff_envs.locomotion`.
        reference: D4RL's mean return of a random and of a trained policy: scores 0 and 100. They
            belong to an older simulator and task version and only define a scale.
        steps: number of steps after which `TimeLimit` truncates the episode.

    Example:
        >>> from pgdiff_envs import LOCOMOTION_TASKS
        >>> sorted(LOCOMOTION_TASKS)
        ['halfcheetah-v5', 'hopper-v5', 'walker2d-v5']
    """

    env: str
    reference: tuple[float, float]
    steps: int = 1000


# D4RL gives eval-large-dense the lower score of eval-umaze-dense. This looks like a mistake, but
# published scores use it. Multi2D has no reference scores: Diffuser (Janner et al. 2022, table 1)
# uses the scores of the maze2d task with the same layout.
_TASKS = {
    "maze2d-open-v0": Task("open", 150, (0.01, 20.66)),
    "maze2d-umaze-v1": Task("umaze", 300, (23.85, 161.86)),
    "maze2d-medium-v1": Task("medium", 600, (13.13, 277.39)),
    "maze2d-large-v1": Task("large", 800, (6.7, 273.99)),
    "maze2d-eval-umaze-v1": Task("eval-umaze", 300, (36.63, 141.4)),
    "maze2d-eval-medium-v1": Task("eval-medium", 600, (13.07, 204.93)),
    "maze2d-eval-large-v1": Task("eval-large", 800, (16.4, 302.22)),
    "maze2d-open-dense-v0": Task("open", 150, (11.17817, 27.166538620695782), "dense"),
    "maze2d-umaze-dense-v1": Task("umaze", 300, (68.537689, 193.66285642381482), "dense"),
    "maze2d-medium-dense-v1": Task("medium", 600, (44.264742, 297.4552547777125), "dense"),
    "maze2d-large-dense-v1": Task("large", 800, (30.569041, 303.4857382709002), "dense"),
    "maze2d-eval-umaze-dense-v1": Task("eval-umaze", 300, (56.95455, 178.21373133248397), "dense"),
    "maze2d-eval-medium-dense-v1": Task("eval-medium", 600, (42.28578, 235.5658957482388), "dense"),
    "maze2d-eval-large-dense-v1": Task("eval-large", 800, (56.95455, 326.09647655082637), "dense"),
    "multi2d-umaze-v1": Task("umaze", 300, (23.85, 161.86), random_goal=True),
    "multi2d-medium-v1": Task("medium", 600, (13.13, 277.39), random_goal=True),
    "multi2d-large-v1": Task("large", 800, (6.7, 273.99), random_goal=True),
}

_LOCOMOTION_TASKS = {
    "hopper-v5": LocomotionTask("HopperEnv", (-20.272305, 3234.3)),
    "walker2d-v5": LocomotionTask("Walker2dEnv", (1.629008, 4592.3)),
    "halfcheetah-v5": LocomotionTask("HalfCheetahEnv", (-280.178953, 12135.0)),
}

#: All maze tasks by id.
TASKS: Mapping[str, Task] = MappingProxyType(_TASKS)

#: All locomotion tasks by id.
LOCOMOTION_TASKS: Mapping[str, LocomotionTask] = MappingProxyType(_LOCOMOTION_TASKS)

#: Undiscounted returns of score 0 and score 100 of every task.
REFERENCE_SCORES: Mapping[str, tuple[float, float]] = MappingProxyType(
    {name: task.reference for name, task in _TASKS.items()}
    | {name: task.reference for name, task in _LOCOMOTION_TASKS.items()}
)


def normalized_score(task_id: str, returns: Any) -> Float[np.ndarray, "..."]:
    """Return D4RL's normalised scores: 0 for a random policy, 100 for D4RL's controller or expert.

    Args:
        task_id: an id of `TASKS` or `LOCOMOTION_TASKS`, with or without the prefix "pgdiff_envs:".
        returns: undiscounted returns of complete episodes, any shape.

    Returns:
        The scores, in the shape of `returns`.

    Raises:
        PgdiffEnvsError: the id is unknown.

    Example:
        >>> from pgdiff_envs import normalized_score
        >>> normalized_score("maze2d-umaze-v1", [23.85, 161.86]).tolist()
        [0.0, 100.0]
    """
    name = task_id.removeprefix("pgdiff_envs:")
    if name not in REFERENCE_SCORES:
        raise PgdiffEnvsError(f"`task_id` must be {nearest(name, REFERENCE_SCORES)} Got '{name}'.")
    low, high = REFERENCE_SCORES[name]
    return np.asarray(100.0 * (np.asarray(returns, dtype=np.float64) - low) / (high - low))


def register_tasks() -> None:
    """Register all tasks in Gymnasium, except those that are registered already."""
    for name, task in _TASKS.items():
        if name not in gymnasium.registry:
            gymnasium.register(
                id=name,
                entry_point="pgdiff_envs.maze:MazeEnv",
                max_episode_steps=task.steps,
                kwargs={
                    "layout": task.layout,
                    "reward": task.reward,
                    "random_goal": task.random_goal,
                    "reference_scores": task.reference,
                    "goal_steps": task.steps,
                },
            )
    for name, locomotion in _LOCOMOTION_TASKS.items():
        if name not in gymnasium.registry:
            gymnasium.register(
                id=name,
                entry_point=f"pgdiff_envs.locomotion:{locomotion.env}",
                max_episode_steps=locomotion.steps,
            )
