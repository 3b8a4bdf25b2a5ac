"""Arrays of a recording: filled step by step, checked, and written atomically."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import gymnasium
import numpy as np
from jaxtyping import Float

from pgdiff.core.serialization import check_writable
from pgdiff.core.validation import PgdiffError, as_array
from pgdiff.data.checks import find_problems
from pgdiff.data.formats.hdf5 import write_hdf5


class Agent(Protocol):
    """Protocol of an agent: Stable-Baselines3's `predict`.

    An agent with an attribute `goal` is a recorder: it draws its own goals and needs no resets.
    """

    def predict(
        self,
        observation: np.ndarray,
        state: Any = None,
        episode_start: Any = None,
        deterministic: bool = False,
    ) -> tuple[np.ndarray, Any]:
        """Return the action and the next state of the agent."""
        ...


def check_new(path: Path, *, overwrite: bool) -> None:
    """Raise if the file exists and must not be replaced, or if it cannot be written."""
    if path.exists() and not overwrite:
        raise PgdiffError(
            f"`path` must be a new file. '{path}' exists. Pass overwrite=True to replace it."
        )
    check_writable(path, name="path")


def physics_of(env: gymnasium.Env[Any, Any]) -> Any:
    """Return the object with MuJoCo's `qpos` and `qvel`; None for other environments."""
    physics = getattr(env.unwrapped, "data", None)
    return physics if hasattr(physics, "qpos") and hasattr(physics, "qvel") else None


class Recording:
    """Arrays of a recording, filled row by row.

    Args:
        env: environment with flat observation and action spaces.
        steps: number of rows.
        goal: goal of a recorder, which sets the size of the field; None for other agents.

    Raises:
        PgdiffError: a space is not a flat Box.
    """

    def __init__(self, env: gymnasium.Env[Any, Any], steps: int, goal: Any = None) -> None:
        for name in ("observation_space", "action_space"):
            space = getattr(env, name)
            if not (isinstance(space, gymnasium.spaces.Box) and len(space.shape) == 1):
                raise PgdiffError(f"`env.{name}` must be a flat Box. Got {space}.")
        self.env_id = env.spec.id if env.spec is not None else type(env.unwrapped).__name__
        self.observations = np.empty((steps, *env.observation_space.shape), np.float32)  # type: ignore[misc]
        self.actions = np.empty((steps, *env.action_space.shape), np.float32)  # type: ignore[misc]
        self.rewards = np.empty(steps, np.float32)
        self.terminals = np.zeros(steps, np.bool_)
        self.timeouts = np.zeros(steps, np.bool_)
        self.goal = None if goal is None else np.empty((steps, np.size(goal)), np.float32)
        # As in D4RL's agent files: only this field holds the final state of an episode.
        self.next_observations = np.empty_like(self.observations) if goal is None else None
        # MuJoCo's state, as in D4RL's files.
        self.physics = physics_of(env)
        if self.physics is not None:
            self.qpos = np.empty((steps, self.physics.qpos.size), np.float32)
            self.qvel = np.empty((steps, self.physics.qvel.size), np.float32)

    def __len__(self) -> int:
        return len(self.rewards)

    def put(self, row: int, observation: Float[np.ndarray, " obs"], action: np.ndarray) -> None:
        """Store copies of an observation and of the action taken."""
        action = as_array("expert.predict", action)
        if np.shape(action) != self.actions.shape[1:]:
            raise PgdiffError(
                f"`expert` must return actions of shape {list(self.actions.shape[1:])}. "
                f"Got {list(np.shape(action))}."
            )
        self.observations[row] = observation
        self.actions[row] = action
        if self.physics is not None:
            self.qpos[row] = self.physics.qpos
            self.qvel[row] = self.physics.qvel

    def put_steps(self, row: int, steps: Sequence[tuple[Any, ...]]) -> None:
        """Store steps of an agent, beginning at `row`.

        A step is (observation, action, reward, terminated, truncated, next observation, *physics).
        """
        names = ["observations", "actions", "rewards", "terminals", "timeouts", "next_observations"]
        if self.physics is not None:
            names += ["qpos", "qvel"]
        for name, values in zip(names, zip(*steps, strict=True), strict=True):
            getattr(self, name)[row : row + len(steps)] = values

    @property
    def fields(self) -> dict[str, np.ndarray]:
        """Arrays by D4RL's field names."""
        names = ("observations", "actions", "rewards", "terminals", "timeouts")
        fields = {name: getattr(self, name) for name in names}
        if self.next_observations is not None:
            fields["next_observations"] = self.next_observations
        if self.goal is not None:
            fields["infos/goal"] = self.goal
        if self.physics is not None:
            fields |= {"infos/qpos": self.qpos, "infos/qvel": self.qvel}
        return fields

    def write(self, path: Path, attributes: Mapping[str, str | int | float]) -> Path:
        """Check and write the arrays, with the environment's id added to the attributes.

        Raises:
            PgdiffError: a value is not finite.
        """
        for problem in find_problems(self.fields):
            raise PgdiffError(f"The environment or the expert returned invalid values: {problem}")
        return write_hdf5(path, self.fields, {"env_id": self.env_id, **attributes})
