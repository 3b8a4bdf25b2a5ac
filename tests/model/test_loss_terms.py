"""The loss of a batch equals that of its parts, drawn like the ranks of one training."""

from typing import Any

import numpy as np
import pytest
import torch
from toys import flat_model, generator, walk

from pgdiff.data import ObservationCondition, ReturnCondition
from pgdiff.denoisers import TransformerConfig
from pgdiff.diffusion import ForcingLevels, IndependentLevels, SequenceLevels
from pgdiff.training.learner import to_tensors

SMALL = TransformerConfig(width=16, depth=1, heads=2)


def cut(part: Any, rows: slice) -> Any:
    """Return rows of a batch."""
    if part is None:
        return None
    if isinstance(part, dict):
        return {name: value[rows] for name, value in part.items()}
    return part[rows] if torch.is_tensor(part) else type(part)(*(cut(p, rows) for p in part))


@pytest.mark.parametrize("levels", [SequenceLevels(), IndependentLevels(), ForcingLevels()])
@torch.no_grad()
def test_two_halves_add_up_to_the_whole(levels) -> None:
    episodes = walk()
    model = flat_model(
        episodes,
        horizon=6,
        stride=3,
        denoiser=SMALL,
        level_distribution=levels,
        known=("none", "start", "start_goal"),
        conditions=[ReturnCondition(discount=0.9), ObservationCondition()],
    ).double()
    data = model.dataset(episodes)
    raw = data.batch(np.linspace(0, len(data) - 1, 32).astype(np.int64))
    batch = to_tensors(raw, torch.device("cpu"))
    whole = model.losses(batch, generator(0))["diffusion"]
    parts = []
    for rows in (slice(0, 16), slice(16, 32)):
        parts.append(model.loss_terms(cut(batch, rows), generator(0), rows=rows, total=32))
    total, count = (torch.stack(part).sum() for part in zip(*parts, strict=True))
    torch.testing.assert_close(total / count, whole, rtol=1e-6, atol=0)
    alone = [
        model.losses(cut(batch, r), generator(0))["diffusion"]
        for r in (slice(0, 16), slice(16, 32))
    ]
    assert abs((sum(alone) / 2 - whole).item()) > 1e-6, "halves by themselves draw other noise"
