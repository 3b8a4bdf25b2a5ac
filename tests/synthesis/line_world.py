"""A point on a line whose episodes end, and models of it."""

from typing import Any

import numpy as np
import torch
from torch import nn
from toys import flat_model

from pgdiff import Episodes, TrajectoryDiffusion
from pgdiff.denoisers import ResidualMLPConfig, TransformerConfig

FIELDS = ("observations", "actions", "rewards", "terminals")
ROWS = (*FIELDS, "next_observations")


def recording(*, episodes: int = 40, length: int = 30, seed: int = 0) -> Episodes:
    """Record random pushes of the point; moves to the right are rewarded, and 1 ends an episode."""
    source = np.random.default_rng(seed)
    parts: list[dict[str, Any]] = []
    for _ in range(episodes):
        place = source.uniform(-1, 0.5)
        for step in range(length):
            push = float(np.clip(source.normal(0.3, 0.5), -1, 1))
            after = place + 0.1 * push
            over = after > 1
            parts.append(
                {
                    "observations": [place],
                    "actions": [push],
                    "rewards": push,
                    "next_observations": [after],
                    "terminals": over,
                    "timeouts": step == length - 1 and not over,
                }
            )
            if over:
                break
            place = after
    return Episodes.from_arrays(**{name: [part[name] for part in parts] for name in parts[0]})


def model(*, horizon: int = 8, untrained_size: float = 0.3, **options: Any) -> TrajectoryDiffusion:
    """Return an untrained model with random weights, so that samples differ."""
    settings: dict[str, Any] = {
        "horizon": horizon,
        "fields": FIELDS,
        "normalizer": "arctanh",
        "known": ("none",),
        "position": (0,),
        "denoiser": TransformerConfig(width=16, depth=1, heads=2),
    }
    if horizon == 1:
        settings |= {"fields": ROWS, "denoiser": ResidualMLPConfig(width=16, depth=2, embedding=8)}
    made = flat_model(recording(), **(settings | options))
    source = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in made.network.parameters():
            parameter.add_(untrained_size * torch.randn(parameter.shape, generator=source))
    return made.eval()


class Right(nn.Module):
    """An agent whose mean action is always 0.5."""

    def log_prob(self, observation: torch.Tensor, action: torch.Tensor) -> torch.Tensor:
        return -0.5 * ((action - 0.5) / 0.3).square().sum(dim=-1)


class Undefined(nn.Module):
    """An agent whose density is NaN."""

    def log_prob(self, observation: torch.Tensor, action: torch.Tensor) -> torch.Tensor:
        return action.sum(dim=-1) * float("nan")
