"""A user-defined codec in one file: a linear autoencoder over chunks of steps.

A token is the code of `chunk` consecutive observations. The codec is a learner: `Trainer` fits it,
and a `TrajectoryDiffusion` over it then generates codes, which guides steer through the decoder.
"""

from typing import Any

import torch
from torch import Tensor, nn

from pgdiff import Episodes, Segment
from pgdiff.core.pretrained import Pretrained
from pgdiff.core.registry import register
from pgdiff.data import Normalizer, SegmentDataset, StandardNormalizer
from pgdiff.data.selection import selected
from pgdiff.model import Codec
from pgdiff.trajectory import SegmentSpec


@register("codec", "chunk_autoencoder")
class ChunkCodec(Pretrained, Codec):
    """Encodes each chunk of observations as a code of `size` numbers."""

    def __init__(self, *, horizon: int, chunk: int, size: int, normalizer: Normalizer) -> None:
        super().__init__()
        self.horizon, self.chunk, self.size, self.normalizer = horizon, chunk, size, normalizer
        self.encoder = nn.Linear(chunk * normalizer.features, size)
        self.decoder = nn.Linear(size, chunk * normalizer.features)

    @classmethod
    def from_episodes(
        cls, episodes: Episodes, *, horizon: int, chunk: int, size: int
    ) -> "ChunkCodec":
        normalizer = StandardNormalizer.fit(selected(episodes, "observations"))
        return cls(horizon=horizon, chunk=chunk, size=size, normalizer=normalizer)

    # The codec.

    @property
    def tokens(self) -> int:
        return self.horizon

    @property
    def features(self) -> int:
        return self.size

    @property
    def spec(self) -> SegmentSpec:
        sizes = {"observations": self.normalizer.features}
        return SegmentSpec(sizes=sizes, waypoints=self.horizon * self.chunk, stride=1)

    def dataset(self, episodes: Episodes) -> SegmentDataset:
        return SegmentDataset(episodes, self.horizon * self.chunk, 1)

    def valid(self, batch: Any) -> Tensor:
        return batch.mask.unflatten(1, (self.horizon, self.chunk)).all(dim=2)

    def encode(self, batch: Any) -> Tensor:
        return self.encoder(self._chunks(batch))

    def decode(self, x: Tensor) -> Segment:
        observations = self.decoder(x).unflatten(2, (self.chunk, -1)).flatten(1, 2)
        return Segment(observations=self.normalizer.unnormalize(observations))

    def _chunks(self, batch: Any) -> Tensor:
        observations = self.normalizer.normalize(batch.observations)
        return observations.unflatten(1, (self.horizon, self.chunk)).flatten(2, 3)

    @property
    def required_conditions(self) -> tuple[str, ...]:
        return ("observation",)  # a code holds no coordinate that could be given

    # The learner.

    def losses(self, batch: Any, generator: torch.Generator) -> dict[str, Tensor]:
        chunks = self._chunks(batch)
        return {"reconstruction": (self.decoder(self.encoder(chunks)) - chunks).square().mean()}
