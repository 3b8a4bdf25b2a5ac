"""The value and the goal of an evaluation's map."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch

import pgdiff_envs  # noqa: F401 - registers the tasks
from pgdiff.data import load_episodes
from pgdiff.workflows import evaluation_report as pictures
from pgdiff.workflows.evaluation_report import value_map
from pgdiff.workflows.recording.collect import collect

RUN: Any = SimpleNamespace(stages=(), data={})


class OfGoal:
    """A value of the nearness to the goal, which it records."""

    device = torch.device("cpu")

    def value(self, observation: torch.Tensor, goal: torch.Tensor) -> torch.Tensor:
        self.goal = goal
        return -(observation[:, :2] - goal).norm(dim=-1)


class OfState(OfGoal):
    def value(self, observation: torch.Tensor) -> torch.Tensor:  # type: ignore[override]
        self.observation = observation
        return observation[:, 0]


def planner(*values: Any) -> Any:
    guides = [SimpleNamespace(name="value", value=value) for value in values]
    return SimpleNamespace(guides=guides, observation_shape=(4,))


def test_a_value_of_a_goal_is_drawn_for_that_of_the_episode(tmp_path: Path) -> None:
    env = gym.make("multi2d-umaze-v1")
    value, file = OfGoal(), tmp_path / "value_map.png"
    for seed in (0, 1):
        assert value_map(RUN, planner(value), env, tmp_path, seed=seed) == file
        goal = np.float32(env.reset(seed=seed)[1]["goal"])
        np.testing.assert_array_equal(value.goal.numpy(), goal)


def test_a_value_of_states_is_drawn_at_rest(tmp_path: Path) -> None:
    value = OfState()
    assert value_map(RUN, planner(value), gym.make("maze2d-umaze-v1"), tmp_path, seed=0)
    assert (value.observation[:, 2:] == 0).all() and len(value.observation[:, 0].unique()) > 50


def test_places_that_the_recording_has_not_visited_are_masked_or_it_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    env = gym.make("maze2d-umaze-v1")
    file = collect(env, tmp_path / "walk.hdf5", steps=300, seed=0, progress=False)
    shown: dict[str, Any] = {}
    monkeypatch.setattr(pictures, "value_picture", lambda *_, **options: shown.update(options))
    for path, steps in ((file, 300), (file, 299), (tmp_path / "nothing.hdf5", 300)):
        run: Any = SimpleNamespace(stages=(), data={"path": str(path), "steps": steps})
        value_map(run, planner(OfState()), env, tmp_path, seed=0)
        if (path, steps) == (file, 300):
            np.testing.assert_array_equal(shown["visited"], load_episodes(file).observations)
            assert shown["note"] == ""
        else:
            assert shown["visited"] is None and "was not found" in shown["note"]


def test_without_a_value_a_goal_or_a_place_there_is_no_map(tmp_path: Path) -> None:
    maze = gym.make("maze2d-umaze-v1")
    assert value_map(RUN, planner(), maze, tmp_path, seed=0) is None
    assert value_map(RUN, planner(object()), maze, tmp_path, seed=0) is None
    pendulum = gym.make("Pendulum-v1")
    assert value_map(RUN, planner(OfState()), pendulum, tmp_path, seed=0) is None
    assert list(tmp_path.iterdir()) == []
