"""What a training learns from and with, so that a resumption can tell whether it is the same."""

import hashlib
import json
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from pgdiff.registry import to_config
from pgdiff.training.learner import to_tensors
from pgdiff.validation import PgdiffError

if TYPE_CHECKING:
    from pgdiff.data import Episodes

BLOCK = 65_536
"""Rows that are hashed at once, so that a mapped file is never in memory as a whole."""


def batch_fingerprint(batch: Any) -> str:
    """Return by what a batch is recognised."""
    digest = hashlib.sha256()
    for value in to_tensors(batch, torch.device("cpu")):
        if value is not None:
            digest.update(f"{value.dtype} {tuple(value.shape)}".encode())
            digest.update(value.contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]


def data_fingerprint(episodes: "Episodes") -> str:
    """Return a SHA-256 sum over every row of every field of these episodes, and over their bounds.

    Rows that belong to none of the episodes do not count, nor does where the others lie.
    """
    digest = hashlib.sha256(np.asarray(episodes.lengths, np.int64).tobytes())
    fields = {
        name: getattr(episodes, name)
        for name in ("observations", "actions", "rewards", "terminals", "timeouts")
    }
    if episodes.next_observations is not None:
        fields["next_observations"] = episodes.next_observations
    fields |= {f"infos/{name}": values for name, values in sorted(episodes.infos.items())}
    for name, values in fields.items():
        digest.update(f"{name} {values.dtype} {values.shape[1:]}".encode())
        for first, last in _runs(episodes):
            for start in range(first, last, BLOCK):
                digest.update(values[start : min(start + BLOCK, last)].tobytes())
    return digest.hexdigest()


def _runs(episodes: "Episodes") -> Iterator[tuple[int, int]]:
    """Yield the first row of each run of adjacent episodes, and the row after its last."""
    if not len(episodes):
        return
    new = np.flatnonzero(episodes.starts[1:] != episodes.ends[:-1]) + 1
    firsts, lasts = np.r_[0, new], np.r_[new - 1, len(episodes) - 1]
    for first, last in zip(firsts, lasts, strict=True):
        yield int(episodes.starts[first]), int(episodes.ends[last])


def learner_settings(learner: object) -> dict[str, Any]:
    """Return the arguments that a registered learner was built from, as JSON; {} of others."""
    try:
        settings: dict[str, Any] = json.loads(json.dumps(to_config(learner)))
    except (PgdiffError, AttributeError):
        return {}
    return settings
