"""Table and files of an ablation, with agents of known returns."""

import json
from pathlib import Path

import gymnasium as gym
import numpy as np

from pgdiff.workflows.ablation import ablation


class Paid(gym.Env):
    """An environment that rewards its start plus the action, for three steps."""

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
    def __init__(self, action: float) -> None:
        self.action, self.candidates = action, 8

    def predict(self, observation, state=None, episode_start=None, deterministic=False):
        return np.full((len(observation), 1), self.action), state


def test_what_each_part_adds(tmp_path: Path, monkeypatch) -> None:
    _check_parts(tmp_path / "returns", scored=False)
    monkeypatch.setattr(Paid, "normalized_score", lambda _, x: 10 * x, raising=False)
    _check_parts(tmp_path / "scores", scored=True)


def _check_parts(folder: Path, *, scored: bool) -> None:
    result = ablation(
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
    # The spread of the starts cancels: all pairs have equal differences.
    expected = {
        "the gradient, to one candidate": 1.0,
        "selection, to no guide": 0.5,
        "the gradient, to selection": 2.5,
        "selection, to the gradient": 2.0,
    }
    for question, (mean, low, high) in result.differences().items():
        np.testing.assert_allclose([mean, low, high], unit * expected[question])
    assert result.evaluations["both"].returns.std() > 0
    table = result.table()
    assert "gradient, best of 8" in table
    assert f"in {'score' if scored else 'return'} [95 %]" in table
    result.write(folder, settings={"run": "x"})
    content = json.loads((folder / "ablation.json").read_text())
    assert content["settings"] == {"run": "x"}
    assert content["rows"]["gradient"]["seeds"] == [7, 10]
    assert content["differences"]["selection, to no guide"]["unit"] == result.unit
    episodes = json.loads((folder / "ablation_both.json").read_text())["per_episode"]
    assert len(episodes["returns"]) == 4
