"""Next-token regression, a baseline of roll-outs."""

from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from pgdiff import Episodes
from pgdiff.core.pretrained import seeded_torch
from pgdiff.denoisers import DenoiserSpec
from pgdiff.training.learner import to_tensors


class NextToken:
    """A transformer like the denoiser's, without noise levels, trained by teacher forcing.

    Args:
        model: model whose codec and network size are used.
        episodes: the recording.
        steps: updates of 64 segments.
        seed: seed of weights and batches.
    """

    def __init__(self, model: Any, episodes: Episodes, *, steps: int, seed: int) -> None:
        self.model = model
        features = model.codec.features
        causal = replace(model.denoiser, attention="causal", window=None)
        with seeded_torch(seed=seed):
            self.network: nn.Module = causal.build(DenoiserSpec(features=features))
        segments = model.dataset(episodes)
        source = np.random.default_rng(seed)
        optimizer = torch.optim.AdamW(self.network.parameters(), lr=1e-3)
        for step in range(steps):
            for group in optimizer.param_groups:
                group["lr"] = 1e-3 * min(1.0, (step + 1) / 100) * (1 - step / steps)
            rows = source.integers(len(segments), size=64)
            batch = to_tensors(segments.batch(rows), torch.device("cpu"))
            x = model.codec.encode(batch)
            loss = (self.next(x[:, :-1]) - x[:, 1:]).square().mean()
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(self.network.parameters(), 1.0)
            optimizer.step()
        self.network.eval()

    def next(self, x: Tensor) -> Tensor:
        """Return the next token after each token."""
        out: Tensor = x + self.network(x, torch.zeros(1, x.shape[1]))
        return out

    @torch.no_grad()
    def rollout(self, observations: Tensor, tokens: int) -> np.ndarray:
        """Generate `tokens` tokens from these observations, on a sliding window of the horizon."""
        where = self.model.codec.layout.slices["observations"]
        raw = torch.zeros(len(observations), 1, self.model.codec.features)
        raw[:, 0, where] = observations
        x = self.model.codec.normalizer.normalize(raw)
        before = self.model.codec.layout.slices.get("previous_actions", slice(0, 0))
        none = x[:, 0, before]
        while x.shape[1] < tokens:
            window = x[:, 1 - self.model.codec.tokens :].clone()  # as many tokens as in training
            window[:, 0, before] = none  # the first token of a window has no predecessor
            x = torch.cat([x, self.next(window)[:, -1:]], dim=1)
        return np.asarray(self.model.codec.decode(x).observations)
