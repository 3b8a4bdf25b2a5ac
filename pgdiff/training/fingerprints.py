"""Fingerprints of data and learner, which show whether a resumed run is identical."""

import hashlib
import json
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from pgdiff.core.registry import to_config
from pgdiff.core.validation import PgdiffError
from pgdiff.training.learner import tensors, to_tensors

if TYPE_CHECKING:
    from pgdiff.data import Episodes

BLOCK = 65_536
"""Rows hashed at a time, so that a memory-mapped file is never loaded as a whole."""


def batch_fingerprint(batch: Any) -> str:
    """Return the first 16 hexadecimal digits of the SHA-256 sum of a batch."""
    digest = hashlib.sha256()
    for _, value in tensors(to_tensors(batch, torch.device("cpu"))):
        digest.update(f"{value.dtype} {tuple(value.shape)}".encode())
        digest.update(value.contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]


def data_fingerprint(episodes: "Episodes") -> str:
    """Return the SHA-256 sum over the lengths of the episodes and every row of every field.

    Rows outside the episodes and the position of the episodes in the arrays have no influence.
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
    """Yield the first row and the end row (exclusive) of each run of adjacent episodes."""
    if not len(episodes):
        return
    new = np.flatnonzero(episodes.starts[1:] != episodes.ends[:-1]) + 1
    firsts, lasts = np.r_[0, new], np.r_[new - 1, len(episodes) - 1]
    for first, last in zip(firsts, lasts, strict=True):
        yield int(episodes.starts[first]), int(episodes.ends[last])


def learner_settings(learner: object) -> dict[str, Any]:
    """Return the constructor arguments of a registered learner as JSON; {} for other learners."""
    try:
        settings: dict[str, Any] = json.loads(json.dumps(to_config(learner)))
    except (PgdiffError, AttributeError):
        return {}
    return settings
