"""A user-defined condition in one file: a map `[H, W]` of each episode, such as walls or wind."""

from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from pgdiff import Episodes
from pgdiff.core.registry import register
from pgdiff.core.validation import PgdiffError


@register("condition", "map_hint")
@dataclass(frozen=True, kw_only=True)
class MapHint:
    """A map from the field `infos/<info>` of a recording, `[steps, H, W]`.

    The entry of the context is `[3, H, W]`: the map, and the normalised coordinates of the centres
    of its cells, so that a network needs no codec to find a position in it.

    Attributes:
        info: field of the recording's infos, and name of the hint.
        size: number of rows H (second position) and columns W (first position) of the map.
        low: positions of the centre of the first cell, in raw units.
        high: positions of the centre of the last cell.
        corners: the same in normalised units; from the codec.
    """

    info: str = "map"
    size: tuple[int, int] = (8, 8)
    low: tuple[float, float] = (-1.0, -1.0)
    high: tuple[float, float] = (1.0, 1.0)
    corners: tuple[tuple[float, float], tuple[float, float]] | None = None

    @property
    def name(self) -> str:
        return self.info

    @property
    def raw_shape(self) -> tuple[int, int]:
        return self.size

    @property
    def shape(self) -> tuple[int, int, int]:
        return (3, *self.size)

    def for_codec(self, codec):
        corners = codec.encode_positions(torch.tensor([self.low, self.high]))
        return replace(self, corners=tuple(map(tuple, corners.tolist())))

    def fit(self, episodes: Episodes) -> "MapHint":
        self._maps(episodes)
        return self

    def reader(self, episodes: Episodes):
        maps = self._maps(episodes)
        return lambda rows, mask: maps[rows[:, 0]]

    def check(self, value: Tensor) -> None:
        """Accept any numbers."""

    def encode(self, value: Tensor) -> Tensor:
        assert self.corners is not None
        (left, bottom), (right, top) = self.corners
        height, width = self.size
        ys, xs = torch.meshgrid(
            torch.linspace(bottom, top, height),
            torch.linspace(left, right, width),
            indexing="ij",
        )
        grid = torch.stack([xs, ys]).to(value).expand(len(value), -1, -1, -1)
        return torch.cat([value[:, None], grid], dim=1)

    def _maps(self, episodes: Episodes) -> np.ndarray:
        if self.name not in episodes.infos:
            raise PgdiffError(f"The recording must have `infos/{self.name}`. Record it.")
        return episodes.infos[self.name]
