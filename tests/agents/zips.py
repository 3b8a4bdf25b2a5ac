"""Agents of Stable-Baselines3 on a small task, and their files, valid and tampered with."""

import json
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from sb3_contrib import TQC
from stable_baselines3 import A2C, DDPG, PPO, SAC, TD3

ALGORITHMS: dict[str, Any] = {
    "SAC": SAC,
    "TD3": TD3,
    "DDPG": DDPG,
    "TQC": TQC,
    "PPO": PPO,
    "A2C": A2C,
}
SHARED = Path(__file__).parents[2].parent / "shared" / "agents"
SYMMETRIC = ([-2.0, -2.0], [2.0, 2.0])
ODD = ([-2.0, -1.0], [2.0, 3.5])
SMALL: dict[str, Any] = {"net_arch": [16, 8]}


class Drift(gym.Env[np.ndarray, np.ndarray]):
    """A point that actions push and noise shakes; it is rewarded for staying near the origin."""

    def __init__(
        self, *, low: list[float] = ODD[0], high: list[float] = ODD[1], size: int = 3
    ) -> None:
        self.observation_space = gym.spaces.Box(-np.inf, np.inf, (size,), np.float32)
        self.action_space = gym.spaces.Box(np.array(low, np.float32), np.array(high, np.float32))
        self.left = 0

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        super().reset(seed=seed)
        self.left = 20
        self.state = self.np_random.normal(size=self.observation_space.shape)
        return self.state.astype(np.float32), {}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        self.left -= 1
        push = np.resize(np.asarray(action, np.float64), self.state.shape)
        self.state = 0.9 * self.state + 0.1 * push + 0.3 * self.np_random.normal(size=push.shape)
        reward = float(-np.square(self.state).sum())
        return self.state.astype(np.float32), reward, False, self.left == 0, {}


def make_model(
    name: str, env: Any = None, *, seed: int = 0, stir: float = 0.3, **options: Any
) -> Any:
    """Return a new agent with changed weights, so that no two of its parts are equal."""
    options = {"policy_kwargs": SMALL, "device": "cpu", "seed": seed} | options
    options["policy_kwargs"] = dict(options["policy_kwargs"])  # the model writes into it
    before = torch.get_rng_state()
    model = ALGORITHMS[name]("MlpPolicy", Drift() if env is None else env, **options)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weight in model.policy.parameters():
            weight += stir * torch.randn(weight.shape, generator=generator)
    torch.set_rng_state(before)
    return model


def observations(count: int = 200, size: int = 3, *, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(count, size)).astype(np.float32)


def read_zip(path: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(path) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def write_zip(path: Path, members: Mapping[str, bytes], *, compression: int = 0) -> Path:
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return path


def edit_json(members: dict[str, bytes], change: Callable[[dict[str, Any]], None]) -> None:
    """Change the member 'data' in place."""
    data = json.loads(members["data"])
    change(data)
    members["data"] = json.dumps(data).encode()
