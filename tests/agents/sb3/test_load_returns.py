"""Agents by other people still reach their returns."""

from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
from zips import SHARED

from pgdiff.agents import Agent, load

# Mean returns of the deterministic actor on Gymnasium's -v5 after `env.reset(seed=0)`, 1, 2, ...
# Episodes of a thousand steps are chaotic: another order of summation in single precision (in a
# batch of three instead of one) changes the return of each by up to one per cent.
RETURNS = {
    "sac-Hopper-v3": (5, 1096, 0.002),
    "sac-Walker2d-v3": (5, 3920, 0.02),
    "sac-HalfCheetah-v3": (5, 9418, 0.02),
    "tqc-Hopper-v3": (3, 3322, 0.02),
}


def play(agent: Agent, task: str, *, seed: int) -> float:
    env = gym.make(task)
    observation, _ = env.reset(seed=seed)
    total, over = 0.0, False
    while not over:
        action, _ = agent.predict(observation)
        observation, reward, terminated, truncated, _ = env.step(action)
        total += float(reward)
        over = terminated or truncated
    env.close()
    return total


@pytest.mark.slow
@pytest.mark.parametrize("path", sorted(SHARED.glob("*.zip")), ids=lambda path: path.stem)
def test_returns(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # MuJoCo writes its warnings into the working folder
    seeds, published, tolerance = RETURNS[path.stem]
    task = f"{path.stem.split('-')[1]}-v5"
    agent = load(path, device="cpu")
    returns = [play(agent, task, seed=seed) for seed in range(seeds)]
    print(f"\n{path.stem}: mean {np.mean(returns):.1f} of {np.round(returns, 1)}")
    assert np.mean(returns) == pytest.approx(published, rel=tolerance)
