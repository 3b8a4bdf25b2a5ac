"""The rows of a recording: filled step by step, checked, and written whole or not at all."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import gymnasium
import numpy as np
from jaxtyping import Float

from pgdiff.data.checks import find_problems
from pgdiff.data.hdf5 import write_hdf5
from pgdiff.saving import check_writable
from pgdiff.validation import PgdiffError, as_array


class Agent(Protocol):
    """Whatever acts: Stable-Baselines3's `predict`.

    An agent that also has a `goal` is a recorder: it draws goals of its own and never asks for a
    reset.
    """

    def predict(
        self,
        observation: np.ndarray,
        state: Any = None,
        episode_start: Any = None,
        deterministic: bool = False,
    ) -> tuple[np.ndarray, Any]:
        """Return the action and the agent's next state."""
        ...


def check_new(path: Path, *, overwrite: bool) -> None:
    """Raise an error if a file is there that may not be replaced, or none can be written there."""
    if path.exists() and not overwrite:
        raise PgdiffError(
            f"`path` must be a new file. '{path}' exists; name another or pass overwrite=True."
        )
    check_writable(path, name="path")


def physics_of(env: gymnasium.Env[Any, Any]) -> Any:
    """What holds MuJoCo's `qpos` and `qvel`; None for an environment without."""
    physics = getattr(env.unwrapped, "data", None)
    return physics if hasattr(physics, "qpos") and hasattr(physics, "qvel") else None


class Recording:
    """The arrays of the fields, filled row by row.

    Args:
        env: with flat observation and action spaces.
        steps: rows.
        goal: of the recorder, for its size; None for agents without one.

    Raises:
        PgdiffError: another space.
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
        # As in D4RL's files of agents: it alone tells the state in which a task ended.
        self.next_observations = np.empty_like(self.observations) if goal is None else None
        # MuJoCo's state where the environment has one, as D4RL keeps it.
        self.physics = physics_of(env)
        if self.physics is not None:
            self.qpos = np.empty((steps, self.physics.qpos.size), np.float32)
            self.qvel = np.empty((steps, self.physics.qvel.size), np.float32)

    def __len__(self) -> int:
        return len(self.rewards)

    def put(self, row: int, observation: Float[np.ndarray, " obs"], action: np.ndarray) -> None:
        """Keep copies of a state and of the action taken in it."""
        action = as_array("expert.predict", action)
        if np.shape(action) != self.actions.shape[1:]:
            raise PgdiffError(
                f"`expert` must give actions of shape {list(self.actions.shape[1:])}. "
                f"Got {list(np.shape(action))}."
            )
        self.observations[row] = observation
        self.actions[row] = action
        if self.physics is not None:
            self.qpos[row] = self.physics.qpos
            self.qvel[row] = self.physics.qvel

    def put_steps(self, row: int, steps: Sequence[tuple[Any, ...]]) -> None:
        """Keep steps of an agent from `row` on.

        Each is observation, action, reward, terminated, truncated, next observation, physics.
        """
        names = ["observations", "actions", "rewards", "terminals", "timeouts", "next_observations"]
        if self.physics is not None:
            names += ["qpos", "qvel"]
        for name, values in zip(names, zip(*steps, strict=True), strict=True):
            getattr(self, name)[row : row + len(steps)] = values

    @property
    def fields(self) -> dict[str, np.ndarray]:
        """The arrays under D4RL's names."""
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
        """Check the values and write them; the environment's id goes among the attributes.

        Raises:
            PgdiffError: a value that is not finite.
        """
        for problem in find_problems(self.fields):
            raise PgdiffError(f"The environment or the expert gave bad values: {problem}")
        return write_hdf5(path, self.fields, {"env_id": self.env_id, **attributes})
