"""Acting in Gymnasium's vector environments, as documented for each reset mode."""

from functools import cache
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.spaces import Box
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from toys import flat_planner, push, tiny_model, walk

LENGTHS = (5, 6)
STEPS = 14


class PointMass(gym.Env[np.ndarray, np.ndarray]):
    """The point mass of `walk`, from a random place; an episode ends after some steps."""

    observation_space = Box(-np.inf, np.inf, (4,), np.float32)
    action_space = Box(-1.0, 1.0, (2,), np.float32)

    def __init__(self, length: int) -> None:
        self.length = length

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[np.ndarray, Any]:
        super().reset(seed=seed)
        self.step_number, self.state = 0, self.np_random.uniform(-1, 1, 4)
        return self.state.astype(np.float32), {}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, Any]:
        self.state = push(self.state, action)
        self.step_number += 1
        ended = self.step_number == self.length
        odd = self.length % 2 == 1
        return self.state.astype(np.float32), 0.0, ended and odd, ended and not odd, {}


PLANNER = flat_planner(
    tiny_model(walk(), fields=("observations", "action_chunks")),
    controller="actions",
    candidates=2,
    steps=2,
    replan_every=4,
)


@cache
def alone(number: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """Return observations and actions of one environment, episode after episode."""
    env = PointMass(LENGTHS[number])
    state, done = PLANNER.initial_state([number]), []
    observation, _ = env.reset(seed=number)
    start = True
    while len(done) < STEPS:
        action, state = PLANNER.predict(observation, state, start)
        done.append((observation, action))
        observation, _, terminated, truncated, _ = env.step(action)
        start = terminated or truncated
        if start:
            observation, _ = env.reset()
    return done


def together(mode: AutoresetMode) -> list[list[tuple[np.ndarray, np.ndarray]]]:
    """Return those of a vector environment, without the calls whose actions it ignores."""
    envs = SyncVectorEnv([lambda n=n: PointMass(n) for n in LENGTHS], autoreset_mode=mode)
    count = len(LENGTHS)
    done: list[list[Any]] = [[] for _ in LENGTHS]
    state = PLANNER.initial_state(range(count))
    observation, _ = envs.reset(seed=list(range(count)))
    start, ended = np.ones(count, bool), np.zeros(count, bool)
    for _ in range(STEPS + 4):
        action, state = PLANNER.predict(observation, state, start)
        ignored = ended if mode == AutoresetMode.NEXT_STEP else np.zeros(count, bool)
        for row in np.flatnonzero(~ignored):
            done[row].append((observation[row].copy(), action[row]))
        observation, _, terminated, truncated, _ = envs.step(action)
        if mode == AutoresetMode.NEXT_STEP:
            start, ended = ended, terminated | truncated
        else:
            start = terminated | truncated
        if mode == AutoresetMode.DISABLED and start.any():
            observation, _ = envs.reset(options={"reset_mask": start})
    envs.close()
    return [row[:STEPS] for row in done]


@pytest.mark.parametrize("mode", list(AutoresetMode), ids=lambda mode: mode.name)
def test_each_reset_mode_acts_as_single_environments_do(mode: AutoresetMode) -> None:
    for number, row in enumerate(together(mode)):
        expected = alone(number)
        assert len(row) == STEPS > 2 * LENGTHS[number]
        for (seen, action), (place, alike) in zip(row, expected, strict=True):
            np.testing.assert_allclose(seen, place, atol=1e-4)
            np.testing.assert_allclose(action, alike, atol=1e-4)
