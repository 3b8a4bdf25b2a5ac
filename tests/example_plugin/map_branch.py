"""A user-defined network in one file: a frozen denoiser with a branch that reads a map."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pgdiff.core.context import Context
from pgdiff.core.registry import register
from pgdiff.denoisers import DenoiserSpec, TransformerConfig


@register("denoiser", "map_branch")
@dataclass(frozen=True, kw_only=True)
class MapBranchConfig:
    """A frozen transformer, and another that corrects its output by a map.

    Attributes:
        base: settings of both networks.
        hint: name of the map in the context.
    """

    base: TransformerConfig
    hint: str = "map"

    def build(self, spec: DenoiserSpec) -> "MapBranch":
        return MapBranch(self, spec)


class MapBranch(nn.Module):
    """Adds the branch's output, which is zero at first, to that of the frozen base."""

    def __init__(self, config: MapBranchConfig, spec: DenoiserSpec) -> None:
        super().__init__()
        others = {name: shape for name, shape in spec.context.items() if name != config.hint}
        base = replace(spec, context=others)
        self.hint, self.positions, self.clean = config.hint, spec.positions, spec.clean_estimate
        self.base = config.base.build(base).requires_grad_(False)
        self.branch = config.base.build(replace(base, features=spec.features + 2))

    @property
    def causal(self) -> bool:
        return self.base.causal

    def train(self, mode: bool = True) -> "MapBranch":
        super().train(mode)
        self.base.eval()
        return self

    def forward(self, x: Tensor, level: Tensor, context: Context) -> Tensor:
        output = self.base(x, level)
        # The position in the map is that of the clean estimate: `x` is mostly noise at first.
        where = self.clean(x, level, output)[..., self.positions]
        entry = context[self.hint]
        value, present = entry.value.expand(len(x), -1, -1, -1), entry.present.expand(len(x))
        flag = present[:, None, None].to(x).expand(len(x), x.shape[1], 1)
        read = torch.cat([x, flag * read_map(value, where), flag], dim=-1)
        return output + self.branch(read, level)


def read_map(value: Tensor, where: Tensor) -> Tensor:
    """Return the map `[batch, 3, H, W]` at positions `[batch, tokens, 2]`, interpolated."""
    first, last = value[:, 1:, 0, 0], value[:, 1:, -1, -1]
    span = (last - first).where(last != first, 1.0)[:, None]
    grid = 2 * (where - first[:, None]) / span - 1
    read = F.grid_sample(value[:, :1], grid[:, None], align_corners=True, padding_mode="border")
    return read[:, 0, 0, :, None]
