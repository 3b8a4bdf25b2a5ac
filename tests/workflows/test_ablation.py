"""The ablation's table and files, with agents whose worth is known."""

import json
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest

from pgdiff.workflows.ablation import ablation


class Paid(gym.Env):
    """Pays its start plus the action, for three steps."""

    observation_space = gym.spaces.Box(-10.0, 10.0, (1,), np.float64)
    action_space = gym.spaces.Box(-10.0, 10.0, (1,), np.float64)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.start, self.left = self.np_random.uniform(), 3
        return np.array([self.start]), {}

    def step(self, action):
        self.left -= 1
        return np.array([self.start]), self.start + float(action[0]), self.left == 0, False, {}


class Constant:
    def __init__(self, worth: float) -> None:
        self.worth, self.candidates = worth, 8

    def predict(self, observation, state=None, episode_start=None, deterministic=False):
        return np.full((len(observation), 1), self.worth), state


@pytest.mark.parametrize("scored", [False, True])
def test_what_each_part_adds(tmp_path: Path, monkeypatch, scored: bool) -> None:
    if scored:
        monkeypatch.setattr(Paid, "normalized_score", lambda _, x: 10 * x, raising=False)
    found = ablation(
        no_guide=Constant(0.0),
        gradient=Constant(1.0),
        selection=Constant(0.5),
        both=Constant(3.0),
        make_env=Paid,
        episodes=4,
        seed=7,
        parallel=2,
        progress=False,
    )
    unit = 30 if scored else 3  # three steps
    # The starts' own spread is gone: every pair differs by the same.
    expected = {
        "the gradient, to one candidate": 1.0,
        "selection, to no guide": 0.5,
        "the gradient, to selection": 2.5,
        "selection, to the gradient": 2.0,
    }
    for question, (mean, low, high) in found.differences().items():
        np.testing.assert_allclose([mean, low, high], unit * expected[question])
    assert found.evaluations["both"].returns.std() > 0
    table = found.table()
    assert "gradient, best of 8" in table
    assert f"in {'score' if scored else 'return'} [95 %]" in table
    found.write(tmp_path / "a", settings={"run": "x"})
    content = json.loads((tmp_path / "a" / "ablation.json").read_text())
    assert content["settings"] == {"run": "x"}
    assert content["rows"]["gradient"]["seeds"] == [7, 10]
    assert content["differences"]["selection, to no guide"]["unit"] == found.unit
    episodes = json.loads((tmp_path / "a" / "ablation_both.json").read_text())["per_episode"]
    assert len(episodes["returns"]) == 4
