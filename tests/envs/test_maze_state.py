"""The maze's simulator set to an observation."""

import gymnasium as gym
import numpy as np
import pytest

import pgdiff_envs


def test_what_follows_is_what_followed() -> None:
    env = gym.make("pgdiff_envs:maze2d-umaze-v1")
    env.action_space.seed(0)
    observation, _ = env.reset(seed=0)
    for _ in range(60):
        action = env.action_space.sample()
        after, reward, *_ = env.step(action)
        # Another episode in between has no effect.
        other = gym.make("pgdiff_envs:maze2d-umaze-v1")
        other.reset(seed=1)
        other.step(action)
        assert np.array_equal(other.unwrapped.set_observation(observation), observation)  # type: ignore[attr-defined]
        again, other_reward, *_ = other.step(action)
        np.testing.assert_allclose(again, after, rtol=0, atol=1e-6)
        assert other_reward == reward
        observation = after


def test_no_state_is_named() -> None:
    env = gym.make("pgdiff_envs:maze2d-umaze-v1")
    env.reset(seed=0)
    wrong: list[object] = [[0, 0, 0], [0, 0, 0, np.nan], "here", None]
    for value in wrong:
        with pytest.raises(pgdiff_envs.PgdiffEnvsError, match="`observation` must be four finite"):
            env.unwrapped.set_observation(value)  # type: ignore[attr-defined]
