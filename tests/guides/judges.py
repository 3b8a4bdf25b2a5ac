"""Untrained actors and critics of every kind for the tests of guides."""

from collections.abc import Callable
from typing import Any

import gymnasium as gym
import numpy as np
import sb3_contrib
import stable_baselines3
import torch
from gymnasium.spaces import Box
from torch import Tensor, nn
from toys import stir, walk

from pgdiff.agents import IQL, TD3BC, Cloning, load
from pgdiff.core.pretrained import seeded_torch

EPISODES = walk()
LOW, HIGH = np.float32([-0.8, -2.0]), np.float32([1.2, 0.5])
"""Bounds of the agents' actions; the recording's are -1 and 1."""


class Room(gym.Env):
    """An environment that only provides its spaces to agents."""

    observation_space = Box(-np.inf, np.inf, (4,), np.float32)
    action_space = Box(LOW, HIGH)


class Smooth(nn.Module):
    """A user-defined smooth actor and critic."""

    def __init__(self) -> None:
        super().__init__()
        with seeded_torch(seed=1):
            self.mean = nn.Sequential(nn.Linear(4, 16), nn.Tanh(), nn.Linear(16, 2))
            self.heads = nn.Sequential(nn.Linear(6, 16), nn.Tanh(), nn.Linear(16, 3))

    def log_prob(self, observation: Tensor, action: Tensor) -> Tensor:
        return -(action - self.mean(observation)).square().sum(dim=-1) / 2

    def q(self, observation: Tensor, action: Tensor) -> Tensor:
        return self.heads(torch.cat([observation, action], dim=-1)).movedim(-1, 0)

    def value(self, observation: Tensor) -> Tensor:
        return self.q(observation, self.mean(observation)).mean(dim=0)


def live(name: str) -> Any:
    """Return a new model of Stable-Baselines3 or sb3-contrib with enlarged weights."""
    module = sb3_contrib if name == "TQC" else stable_baselines3
    with seeded_torch(seed=0):
        model = getattr(module, name)(
            "MlpPolicy", Room(), policy_kwargs={"net_arch": [16, 16]}, device="cpu"
        )
    stir(model.policy, size=0.3)
    return model


def offline(kind: Any) -> Any:
    """Return a new agent of this package."""
    options = {"members": 2, "width": 16, "action_low": LOW, "action_high": HIGH}
    return stir(kind.from_episodes(EPISODES, **options), size=0.3)


AGENTS: dict[str, Callable[[], Any]] = {
    **{name: lambda name=name: load(live(name)) for name in ("SAC", "TD3", "TQC", "PPO")},
    **{kind.__name__: lambda kind=kind: offline(kind) for kind in (IQL, TD3BC, Cloning)},
    "own": Smooth,
}
"""Every kind of agent, by name."""
