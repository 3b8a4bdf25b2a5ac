"""Two user-defined parts: a guide, and a denoiser that saved models can name.

A guide is any object with a name, a place and a scale, and an objective of a segment in raw units.
A denoiser is a frozen dataclass that builds a network; `@register` gives it the name under which a
saved model finds it again, once this file has been imported.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from pgdiff import Segment
from pgdiff.core.registry import register
from pgdiff.denoisers import DenoiserSpec


@dataclass(frozen=True)
class SlowPlans:
    """Prefers plans whose way-points lie close together: less way in the same time."""

    scale: float = 1.0
    gradient_at: Literal["x0", "x"] = "x0"
    name: str = "slow_plans"

    def objective(self, segment: Segment, level: Tensor) -> Tensor:
        moves = segment.observations[:, 1:, :2] - segment.observations[:, :-1, :2]
        return -moves.square().sum(dim=-1).mean(dim=-1)


@register("denoiser", "token_mlp")
@dataclass(frozen=True, kw_only=True)
class TokenMLPConfig:
    """An MLP that is applied to every token, together with the mean of all tokens."""

    width: int = 64

    def build(self, spec: DenoiserSpec) -> nn.Module:
        return TokenMLP(spec.features, spec.outputs, self.width)


class TokenMLP(nn.Module):
    def __init__(self, features: int, outputs: int, width: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(2 * features + 2, width),
            nn.SiLU(),
            nn.Linear(width, width),
            nn.SiLU(),
            nn.Linear(width, outputs),
        )

    def forward(self, x: Tensor, level: Tensor) -> Tensor:
        batch, tokens, _ = x.shape
        place = torch.linspace(0, 1, tokens, device=x.device, dtype=x.dtype)
        every = [
            x,
            x.mean(dim=1, keepdim=True).expand_as(x),
            level.expand(batch, tokens)[..., None],
            place.expand(batch, tokens)[..., None],
        ]
        return self.layers(torch.cat(every, dim=-1))
