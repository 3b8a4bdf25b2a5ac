"""Generated data in replay buffers and in other libraries."""

from pathlib import Path
from typing import Any

import gymnasium as gym
import minari
import numpy as np
import pytest
import torch
from line_world import model
from stable_baselines3 import SAC

import pgdiff
from pgdiff import Episodes, Sampling
from pgdiff.data import from_replay_buffer, to_replay_buffer, write_minari

FIELDS = ("observations", "actions", "rewards", "terminals", "timeouts", "next_observations")


class Line(gym.Env):
    """The spaces of the line world."""

    observation_space = gym.spaces.Box(-np.inf, np.inf, (1,), np.float32)
    action_space = gym.spaces.Box(-1.0, 1.0, (1,), np.float32)

    def reset(self, **_: Any) -> tuple[np.ndarray, dict[str, Any]]:
        return np.zeros(1, np.float32), {}


@pytest.fixture(scope="module")
def made() -> Episodes:
    return pgdiff.generate(model(), transitions=300, batch=16, sampling=Sampling(steps=2))


def test_stable_baselines3_trains_from_the_buffer(made: Episodes) -> None:
    line = Line()
    buffer = to_replay_buffer(
        made,
        observation_space=line.observation_space,
        action_space=line.action_space,
        device="cpu",
    )
    agent = SAC("MlpPolicy", line, policy_kwargs={"net_arch": [16]}, seed=0, device="cpu")
    agent.learn(0)  # creates its logger
    agent.replay_buffer = buffer
    before = [weights.clone() for weights in agent.actor.parameters()]
    agent.train(gradient_steps=20, batch_size=32)
    after = list(agent.actor.parameters())
    assert not any(torch.equal(old, new) for old, new in zip(before, after, strict=True))
    assert all(torch.isfinite(weights).all() for weights in after)
    again = from_replay_buffer(buffer)
    for name in FIELDS:
        assert np.array_equal(getattr(again, name), getattr(made, name)), name


def test_minari_opens_it(made: Episodes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))
    line = Line()
    write_minari(
        made,
        "line/synthetic-v0",
        author="someone",
        description="generated",
        action_space=line.action_space,
    )
    read = minari.load_dataset("line/synthetic-v0")
    assert (read.total_steps, read.total_episodes) == (made.steps, len(made))
    rows = list(read.iterate_episodes())
    assert np.array_equal(np.concatenate([e.observations[:-1] for e in rows]), made.observations)
    assert np.array_equal(
        np.concatenate([e.observations[1:] for e in rows]), made.next_observations
    )
    again = pgdiff.load_episodes("line/synthetic-v0")
    for name in FIELDS:
        assert np.array_equal(getattr(again, name), getattr(made, name)), name
