"""Clearance, the way to the goal and rewards at positions, each against an oracle."""

from typing import Any

import gymnasium as gym
import numpy as np
import pytest

import pgdiff_envs
from pgdiff_envs.layouts import CELL_OFFSET
from pgdiff_envs.maze import MazeEnv


def task_of(name: str) -> Any:
    env = gym.make(f"pgdiff_envs:{name}")
    env.reset(seed=0)
    return env.unwrapped


def test_clearance_against_points_of_the_walls() -> None:
    task = task_of("maze2d-umaze-v1")
    walls = task.layout.walls
    side = np.linspace(-0.5, 0.5, 101)
    square = np.stack(np.meshgrid(side, side), axis=-1).reshape(-1, 2)
    points = (np.argwhere(walls)[:, None] + CELL_OFFSET + square).reshape(-1, 2)
    places = np.random.default_rng(0).uniform(-1.5, np.array(walls.shape) + 0.5, (120, 2))
    found = task.clearance(places)
    cells = np.floor(places - CELL_OFFSET + 0.5).astype(int)
    free = [task.layout.is_free(*cell) for cell in cells.tolist()]
    assert (found[np.logical_not(free)] == 0).all() and 0 < sum(free) < 120
    oracle = np.array([np.linalg.norm(points - place, axis=1).min() for place in places[free]])
    np.testing.assert_allclose(found[free], oracle, atol=0.006)
    np.testing.assert_array_equal(task.clearance(places.reshape(3, 40, 2)).ravel(), found)
    for place, one in zip(places, found, strict=True):
        assert task.clearance(place) == one


def test_the_way_to_the_goal_bends_about_corners() -> None:
    task = task_of("maze2d-umaze-v1")  # the goal is (1, 1); a wall from (1.3, .) to (2.3, 2.3)
    start, corners = np.array([3.0, 1.0]), np.array([[2.3, 2.3], [1.3, 2.3]])
    way = np.linalg.norm(start - corners[0]) + 1.0 + np.linalg.norm(corners[1] - [1.0, 1.0])
    found = task.distance_to_goal([start, [1.0, 3.0], [2.0, 1.0], [9.0, 9.0]])
    np.testing.assert_allclose(found, [way, 2.0, np.inf, np.inf], atol=1e-4)
    # A room without inner walls, and two cells that meet only at a corner.
    room = MazeEnv(layout=["#####", "#GOO#", "#OOO#", "#####"])
    room.reset(seed=0)
    assert room.distance_to_goal([2.1, 3.0]) == pytest.approx(np.hypot(1.1, 2.0))
    corner = MazeEnv(layout=["####", "#G##", "##O#", "####"])
    corner.reset(seed=0)
    assert np.isinf(corner.distance_to_goal([2.0, 2.0]))


@pytest.mark.parametrize("name", ["maze2d-medium-v1", "multi2d-large-v1"])
def test_no_way_is_shorter_than_a_straight_one_or_than_another_by_a_detour(name: str) -> None:
    """It satisfies the lower bound, the triangle inequality along free lines, and symmetry."""
    task = task_of(name)
    rng = np.random.default_rng(1)
    places = np.array([task.layout.draw_position(rng) for _ in range(60)])
    away = task.distance_to_goal(places)
    assert (away >= np.linalg.norm(places - task.goal, axis=1) - 1e-9).all()
    assert np.isfinite(away).all()
    one, other = places[:2]
    task.set_goal(one)
    there = task.distance_to_goal(other)
    to_one = task.distance_to_goal(places)
    task.set_goal(other)
    assert task.distance_to_goal(one) == pytest.approx(there)
    assert (to_one <= there + task.distance_to_goal(places) + 1e-9).all()


@pytest.mark.parametrize("name", ["maze2d-umaze-v1", "maze2d-umaze-dense-v1"])
def test_rewards_are_those_of_steps(name: str) -> None:
    env = gym.make(f"pgdiff_envs:{name}")
    env.reset(seed=0, options={"location": [1.2, 1.2]})
    task: Any = env.unwrapped
    expert = task.expert(seed=0)
    observation = task.set_observation([1.2, 1.2, 3.0, 0.0])
    pairs = []
    for _ in range(200):
        observation, reward, *_ = env.step(expert.predict(observation)[0])
        pairs.append((observation, reward))
    observations, rewards = (np.array(values) for values in zip(*pairs, strict=True))
    assert 0 < rewards.mean() < 1
    np.testing.assert_allclose(task.rewards_at(observations), rewards, rtol=1e-12)


def test_wrong_positions_are_refused() -> None:
    task = task_of("maze2d-umaze-v1")
    for ask in (task.clearance, task.distance_to_goal, task.rewards_at):
        for wrong in ([1.0], [1.0, np.nan], "here", None):
            with pytest.raises(pgdiff_envs.PgdiffEnvsError, match="`positions` must be finite"):
                ask(wrong)
