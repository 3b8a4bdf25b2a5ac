"""Small worlds and models that the tests share."""

from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from pgdiff import Episodes, Trainer, TrajectoryDiffusion
from pgdiff.denoisers import TransformerConfig

DOUBLE = torch.float64
DT = 0.1
Module = TypeVar("Module", bound=nn.Module)


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def push(state: np.ndarray, action: np.ndarray) -> np.ndarray:
    """One step of a point mass in the plane: state (x, y, vx, vy), action its acceleration."""
    velocity = state[..., 2:] + DT * action
    return np.concatenate([state[..., :2] + DT * velocity, velocity], axis=-1)


def walk(*, episodes: int = 6, length: int = 80, seed: int = 0) -> Episodes:
    """The point mass under random actions; it is rewarded near the origin."""
    rng = np.random.default_rng(seed)
    state = rng.uniform(-1, 1, (episodes, 4))
    actions = rng.uniform(-1, 1, (length, episodes, 2))
    states = []
    for action in actions:
        states.append(state)
        state = push(state, action)
    observations = np.stack(states, axis=1).reshape(-1, 4)
    return record(
        observations,
        actions.swapaxes(0, 1).reshape(-1, 2),
        np.exp(-np.square(observations[:, :2]).sum(axis=1)),
        lengths=[length] * episodes,
    )


def record(
    observations: Any, actions: Any, rewards: Any, *, lengths: list[int], terminal: bool = False
) -> Episodes:
    """Episodes of these lengths, one after another."""
    ends = np.zeros(sum(lengths), bool)
    ends[np.cumsum(lengths) - 1] = True
    return Episodes.from_arrays(
        observations=np.asarray(observations, np.float32),
        actions=np.asarray(actions, np.float32),
        rewards=np.asarray(rewards, np.float32),
        terminals=ends & terminal,
        timeouts=ends & (not terminal),
    )


@torch.no_grad()
def stir(module: Module, *, seed: int = 0, size: float = 0.2) -> Module:
    """Random weights everywhere: a fresh transformer gives 0, which would hide faults."""
    source = generator(seed)
    for parameter in module.parameters():
        parameter.add_(size * torch.randn(parameter.shape, generator=source))
    return module.eval()


def tiny_model(episodes: Episodes | None = None, **options: Any) -> TrajectoryDiffusion:
    """An untrained model with random weights, six tokens three steps apart.

    Its estimates stay within the sampler's limits, which would hide differences.
    """
    settings: dict[str, Any] = {
        "horizon": 6,
        "stride": 3,
        "denoiser": TransformerConfig(width=16, depth=1, heads=2),
    }
    model = stir(TrajectoryDiffusion.from_episodes(episodes or walk(), **(settings | options)))
    with torch.no_grad():
        model.network.token_out.weight.mul_(0.25)
    return model


def fit(learner: Any, episodes: Episodes, *, steps: int, **options: Any) -> Any:
    settings: dict[str, Any] = {
        "learning_rate": 3e-3,
        "warmup": 10,
        "ema_decay": 0.98,
        "validation": 0.0,
        "device": "cpu",
        "progress": False,
    }
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # networks this small only wait for each other's threads
    try:
        return Trainer(steps=steps, **(settings | options)).fit(learner, episodes)
    finally:
        torch.set_num_threads(threads)


def finite_differences(function: Any, x: Tensor, step: float = 1e-5) -> Tensor:
    """Gradient of the sum of `function(x)` by central differences."""
    gradient = torch.zeros_like(x)
    for place in np.ndindex(*x.shape):
        up, down = x.clone(), x.clone()
        up[place] += step
        down[place] -= step
        gradient[place] = (function(up) - function(down)).sum() / (2 * step)
    return gradient
