import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent))  # for `locomotion_rows.py`


class Counter(gym.Env[np.ndarray, np.ndarray]):
    """An episode of `2 + seed % 3` steps; step k pays k times the action. Success at step 3."""

    observation_space = gym.spaces.Box(-100.0, 100.0, (2,), np.float32)
    action_space = gym.spaces.Box(-10.0, 10.0, (1,), np.float32)

    def __init__(self) -> None:
        self.closed = False

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        super().reset(seed=seed)
        assert seed is not None
        self.step_number, self.length = 0, 2 + seed % 3
        self.offset = float(self.np_random.normal())
        return self._observation(), {}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        assert self.step_number < self.length, "stepped after its end"
        self.step_number += 1
        reward = self.step_number * float(action[0])
        info = {"is_success": self.step_number == 3}
        return self._observation(), reward, self.step_number == self.length, False, info

    def normalized_score(self, total: float) -> float:
        return 10.0 * total

    def close(self) -> None:
        self.closed = True

    def _observation(self) -> np.ndarray:
        return np.array([self.offset, self.step_number], dtype=np.float32)


class Plain(Counter):
    """The counter without scores and successes."""

    normalized_score = None

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        return (*super().step(action)[:4], {})


class Constant:
    """An agent with a constant action; counts its calls."""

    def __init__(self, action: float = 2.0) -> None:
        self.action = action
        self.plans_made = 5
        self.starts: list[np.ndarray] = []
        self.deterministic: set[bool] = set()

    def predict(
        self,
        observation: np.ndarray,
        /,
        state: Any = None,
        episode_start: Any = None,
        deterministic: bool = False,
    ) -> tuple[np.ndarray, Any]:
        self.plans_made += len(observation)
        self.starts.append(np.array(episode_start))
        self.deterministic.add(deterministic)
        return np.full((len(observation), 1), self.action, dtype=np.float32), state


@pytest.fixture
def make_env() -> Callable[[], Counter]:
    return Counter


@pytest.fixture
def make_plain() -> Callable[[], Plain]:
    return Plain


@pytest.fixture
def constant() -> Constant:
    return Constant()
