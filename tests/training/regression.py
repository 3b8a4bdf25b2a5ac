"""A learner with a known solution in closed form: linear regression of the reward."""

import os
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from pgdiff.core.serialization import save_folder
from pgdiff.data import Episodes


class Pairs(NamedTuple):
    inputs: Any
    targets: Any


class PairSource:
    def __init__(self, episodes: Episodes) -> None:
        rows = [np.arange(s, e) for s, e in zip(episodes.starts, episodes.ends, strict=True)]
        self.rows = np.concatenate(rows)
        self.episodes = episodes

    def __len__(self) -> int:
        return len(self.rows)

    def batch(self, indices: np.ndarray) -> Pairs:
        rows = self.rows[indices]
        return Pairs(self.episodes.observations[rows], self.episodes.rewards[rows])


class Regression(nn.Module):
    """Predicts the reward from the observation; `noise` and `dropout` make it random."""

    def __init__(self, *, seed: int = 0, noise: float = 0.0, dropout: float = 0.0) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.weight = nn.Parameter(torch.randn(3, generator=generator))
        self.bias = nn.Parameter(torch.zeros(()))
        self.target = nn.Parameter(torch.zeros(3), requires_grad=False)
        self.register_buffer("updates", torch.tensor(0))
        self.dropout = nn.Dropout(dropout)
        self.noise = noise
        self.calls = 0
        self.spoil: Callable[[int, Tensor], Tensor] | None = None

    def dataset(self, episodes: Episodes) -> PairSource:
        return PairSource(episodes)

    def losses(self, batch: Any, generator: torch.Generator) -> dict[str, Tensor]:
        self.calls += self.training
        shift = self.noise * torch.randn(batch.inputs.shape, generator=generator)
        inputs = self.dropout(batch.inputs + shift)
        error = (inputs @ self.weight + self.bias - batch.targets).square().mean()
        if self.spoil is not None:
            error = self.spoil(self.calls, error)
        return {"squared": error, "ridge": 0.0 * self.weight.square().sum()}

    @torch.no_grad()
    def after_step(self) -> None:
        self.target.lerp_(self.weight, 0.1)
        self.updates += 1

    def save_pretrained(self, path: str | os.PathLike[str]) -> None:
        save_folder(path, {}, self.state_dict())


def make_episodes(*, seed: int = 0, count: int = 12, length: int = 40) -> Episodes:
    """Return episodes whose rewards are linear in the observations, with a little noise."""
    rng = np.random.default_rng(seed)
    steps = count * length
    observations = rng.normal(size=(steps, 3)).astype(np.float32)
    rewards = observations @ np.array([1.0, -2.0, 0.5]) + 0.3 + 0.01 * rng.normal(size=steps)
    timeouts = np.arange(1, steps + 1) % length == 0
    return Episodes.from_arrays(
        observations=observations,
        actions=np.zeros((steps, 1), np.float32),
        rewards=rewards.astype(np.float32),
        terminals=np.zeros(steps, bool),
        timeouts=timeouts,
    )
