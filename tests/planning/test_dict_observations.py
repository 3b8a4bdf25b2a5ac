"""Dict observations: flattened like the recording, with the plan's goal from the Dict."""

from dataclasses import replace
from pathlib import Path

import gymnasium as gym
import gymnasium_robotics
import numpy as np
import pytest
import torch
from stable_baselines3.common.evaluation import evaluate_policy
from toys import flat_planner, tiny_model, walk

from pgdiff import GoalValue, ObservationLayout, TrajectoryDiffusion
from pgdiff.core.validation import PgdiffError
from pgdiff.evaluation import evaluate

LAYOUT = ObservationLayout.from_sizes({"achieved_goal": 2, "desired_goal": 2, "speed": 2})
EPISODES = replace(walk(), observation_layout=LAYOUT)
MODEL = tiny_model(EPISODES, known=("start_goal",))


class Chase:
    """Pushes towards the way-point."""

    def act(self, observation, waypoint, steps_left):  # type: ignore[no-untyped-def]
        return np.clip(waypoint[:, :2] - observation[:, :2], -1, 1).astype(np.float32)


def dict_observations(count: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(1)
    return {
        name: rng.uniform(-1, 1, (count, 2)) for name in ("speed", "desired_goal", "achieved_goal")
    }


def test_a_dict_is_the_flat_observation_and_its_goal() -> None:
    planner = flat_planner(MODEL, controller=Chase(), candidates=2)
    observation = dict_observations(3)
    action, state = planner.predict(observation, planner.initial_state([5, 6, 7]))
    flat = np.concatenate([observation["achieved_goal"], observation["speed"]], axis=1)
    goals = observation["desired_goal"]
    expected, expected_state = planner.predict(
        flat, planner.initial_state([5, 6, 7], {"goal": goals})
    )
    np.testing.assert_array_equal(action, expected)
    np.testing.assert_array_equal(state.waypoints, expected_state.waypoints)
    np.testing.assert_allclose(state.waypoints[:, -1, :2], goals, atol=1e-6)
    one, _ = planner.predict({name: values[0] for name, values in observation.items()})
    assert one.shape == (2,)


def test_a_plan_from_a_dict_is_that_of_predict() -> None:
    planner = flat_planner(MODEL, controller=Chase(), candidates=2)
    one = {name: values[0] for name, values in dict_observations(1).items()}
    plan = planner.plan(one, seed=5)
    flat = np.concatenate([one["achieved_goal"], one["speed"]])
    same = planner.plan(flat, condition={"goal": one["desired_goal"].tolist()}, seed=5)
    np.testing.assert_array_equal(plan.observations, same.observations)
    np.testing.assert_allclose(plan.observations[-1, :2], one["desired_goal"], atol=1e-6)
    other = planner.plan(one, condition={"goal": [0.1, 0.2]}, seed=5)  # an explicit goal counts
    np.testing.assert_allclose(other.observations[-1, :2], [0.1, 0.2], atol=1e-6)


def test_the_layout_is_saved_with_the_model(tmp_path: Path) -> None:
    MODEL.save_pretrained(tmp_path / "model")
    again = TrajectoryDiffusion.from_pretrained(tmp_path / "model")
    assert again.codec.observation_layout == LAYOUT
    assert flat_planner(again).observation_layout == LAYOUT


def test_a_planner_that_wants_no_goal_is_not_given_that_of_a_dict() -> None:
    planner = flat_planner(tiny_model(EPISODES, known=("start",)), controller=Chase(), candidates=2)
    assert "goal" not in planner.condition_keys
    observation = dict_observations(1)
    flat = np.concatenate([observation["achieved_goal"], observation["speed"]], axis=1)
    _, state = planner.predict(observation, planner.initial_state([5]))
    _, expected = planner.predict(flat, planner.initial_state([5]))
    np.testing.assert_array_equal(state.waypoints, expected.waypoints)


def test_goals_are_of_the_features_that_the_layout_says() -> None:
    sizes = {"a_clock": 2, "achieved_goal": 2, "desired_goal": 2}
    episodes = replace(walk(), observation_layout=ObservationLayout.from_sizes(sizes))
    model = tiny_model(episodes, known=("start_goal",))
    assert model.codec.goal_features == (2, 3)
    assert GoalValue.from_episodes(episodes, stride=3, width=16, depth=1).goal_features == (2, 3)
    assert tiny_model(episodes, known=("start_goal",), position=(0, 1)).codec.goal_features == (
        0,
        1,
    )
    with pytest.raises(PgdiffError, match="`goal_features` must be 2 features"):
        GoalValue.from_episodes(episodes, stride=3, width=16, depth=1, goal_features=[2])


def test_what_does_not_fit_is_named() -> None:
    planner = flat_planner(MODEL, controller=Chase())
    observation = dict_observations(1)
    del observation["speed"]
    with pytest.raises(PgdiffError, match="speed"):
        planner.predict(observation)
    with pytest.raises(PgdiffError, match=r"`observation` must be an array, .*flat observations"):
        flat_planner(tiny_model(), controller=Chase()).predict(dict_observations(1))


def test_it_acts_in_pointmaze() -> None:
    """It acts with the environment's Dict observations, in this library's evaluation and SB3's."""
    gym.register_envs(gymnasium_robotics)

    def make_env() -> gym.Env:  # type: ignore[type-arg]
        return gym.make("PointMaze_UMaze-v3", max_episode_steps=12)

    env = make_env()
    layout = ObservationLayout.from_space(env.observation_space)  # type: ignore[arg-type]
    assert layout.position == (0, 1) and layout.features == 6
    rng = np.random.default_rng(0)
    observations = rng.uniform(-1, 1, (80, 6)).astype(np.float32)
    episodes = replace(walk(episodes=1), observations=observations, observation_layout=layout)
    planner = flat_planner(
        tiny_model(episodes, known=("start_goal",)), controller=Chase(), candidates=2, steps=2
    )
    with torch.random.fork_rng():
        result = evaluate(planner, make_env, episodes=2, progress=False)
        mean, _ = evaluate_policy(planner, env, n_eval_episodes=1, warn=False)
    assert np.isfinite(mean) and result.lengths.tolist() == [12, 12]
    goals = [env.reset(seed=seed)[0]["desired_goal"] for seed in (0, 1)]
    np.testing.assert_allclose(result.goals, goals, atol=1e-6)
    env.close()
    assert result.successes is not None  # PointMaze reports `info["success"]`
