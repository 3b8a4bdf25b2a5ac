"""Which value an evaluation's map is drawn of, and for which goal."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch

import pgdiff_envs  # noqa: F401 - registers the tasks
from pgdiff.workflows.pictures import value_map

RUN: Any = SimpleNamespace(stages=())


class OfGoal:
    """Nearness to the goal that it is told; keeps it."""

    device = torch.device("cpu")

    def value(self, observation: torch.Tensor, goal: torch.Tensor) -> torch.Tensor:
        self.goal = goal
        return -(observation[:, :2] - goal).norm(dim=-1)


class OfState(OfGoal):
    def value(self, observation: torch.Tensor) -> torch.Tensor:  # type: ignore[override]
        self.asked = observation
        return observation[:, 0]


def planner(*values: Any) -> Any:
    guides = [SimpleNamespace(name="value", value=value) for value in values]
    return SimpleNamespace(guides=guides, observation_shape=(4,))


@pytest.mark.parametrize("seed", [0, 1])
def test_a_value_of_a_goal_is_drawn_for_that_of_the_episode(tmp_path: Path, seed: int) -> None:
    env = gym.make("multi2d-umaze-v1")
    value = OfGoal()
    assert value_map(RUN, planner(value), env, tmp_path, seed=seed) == tmp_path / "value_map.png"
    np.testing.assert_array_equal(value.goal.numpy(), np.float32(env.reset(seed=seed)[1]["goal"]))


def test_a_value_of_states_is_drawn_at_rest(tmp_path: Path) -> None:
    value = OfState()
    assert value_map(RUN, planner(value), gym.make("maze2d-umaze-v1"), tmp_path, seed=0)
    assert (value.asked[:, 2:] == 0).all() and len(value.asked[:, 0].unique()) > 50


def test_without_a_value_a_goal_or_a_place_there_is_no_map(tmp_path: Path) -> None:
    maze = gym.make("maze2d-umaze-v1")
    assert value_map(RUN, planner(), maze, tmp_path, seed=0) is None
    assert value_map(RUN, planner(object()), maze, tmp_path, seed=0) is None
    pendulum = gym.make("Pendulum-v1")
    assert value_map(RUN, planner(OfState()), pendulum, tmp_path, seed=0) is None
    assert list(tmp_path.iterdir()) == []
