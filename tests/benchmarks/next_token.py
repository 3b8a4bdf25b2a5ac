"""A baseline of roll-outs: the next token is regressed on those before it."""

from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from pgdiff import Episodes
from pgdiff.pretrained import seeded_torch
from pgdiff.training.learner import to_tensors


class NextToken:
    """The denoiser's own kind of transformer, told no noise, trained by teacher forcing.

    Args:
        model: whose layout, normaliser and network's size it has.
        episodes: what it learns from.
        steps: updates of 64 segments.
        seed: of weights and batches.
    """

    def __init__(self, model: Any, episodes: Episodes, *, steps: int, seed: int) -> None:
        self.model = model
        features = model.layout.features
        causal = replace(model.denoiser, attention="causal", window=None)
        with seeded_torch(seed=seed):
            self.network: nn.Module = causal.build(features=features)
        segments = model.dataset(episodes)
        source = np.random.default_rng(seed)
        optimizer = torch.optim.AdamW(self.network.parameters(), lr=1e-3)
        for step in range(steps):
            for group in optimizer.param_groups:
                group["lr"] = 1e-3 * min(1.0, (step + 1) / 100) * (1 - step / steps)
            rows = source.integers(len(segments), size=64)
            batch = to_tensors(segments.batch(rows), torch.device("cpu"))
            x = model.normalizer.normalize(model.tokens(batch))
            loss = (self.next(x[:, :-1]) - x[:, 1:]).square().mean()
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(self.network.parameters(), 1.0)
            optimizer.step()
        self.network.eval()

    def next(self, x: Tensor) -> Tensor:
        """The token behind each."""
        out: Tensor = x + self.network(x, torch.zeros(1, x.shape[1]))
        return out

    @torch.no_grad()
    def rollout(self, observations: Tensor, tokens: int) -> np.ndarray:
        """So many tokens from these observations, on a sliding window of the horizon."""
        where = self.model.layout.slices["observations"]
        raw = torch.zeros(len(observations), 1, self.model.layout.features)
        raw[:, 0, where] = observations
        x = self.model.normalizer.normalize(raw)
        before = self.model.layout.slices.get("previous_actions", slice(0, 0))
        none = x[:, 0, before]
        while x.shape[1] < tokens:
            window = x[:, 1 - self.model.layout.horizon :].clone()  # as many as it learned from
            window[:, 0, before] = none  # nothing in a window leads to its first token
            x = torch.cat([x, self.next(window)[:, -1:]], dim=1)
        return np.asarray(self.model.segment(x).observations)
