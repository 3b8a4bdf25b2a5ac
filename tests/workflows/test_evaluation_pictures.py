"""Which value an evaluation's map is drawn of, and for which goal."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch

import pgdiff_envs  # noqa: F401 - registers the tasks
from pgdiff.data import load_episodes
from pgdiff.workflows import pictures
from pgdiff.workflows.collect import collect
from pgdiff.workflows.pictures import value_map

RUN: Any = SimpleNamespace(stages=(), data={})


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


@pytest.mark.parametrize("data", ["found", "changed", "gone"])
def test_places_that_the_recording_has_not_visited_are_masked_or_it_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, data: str
) -> None:
    file = collect(
        gym.make("maze2d-umaze-v1"), tmp_path / "walk.hdf5", steps=300, seed=0, progress=False
    )
    steps = 300 if data == "found" else 299
    path = tmp_path / "nothing.hdf5" if data == "gone" else file
    run: Any = SimpleNamespace(stages=(), data={"path": str(path), "steps": steps})
    shown: dict[str, Any] = {}
    monkeypatch.setattr(pictures, "value_picture", lambda *_, **options: shown.update(options))
    value_map(run, planner(OfState()), gym.make("maze2d-umaze-v1"), tmp_path, seed=0)
    if data == "found":
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
