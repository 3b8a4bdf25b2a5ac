"""Batches of real and synthetic transitions for one or several learners."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Int

from pgdiff.core.validation import PgdiffError, check_range
from pgdiff.data import Episodes
from pgdiff.data.transitions import TransitionBatch, TransitionDataset


class MixedTransitions:
    """Source of batches of real transitions, a share of which is replaced by synthetic ones.

    All transitions are real until the first call of `replace`. Jackson et al. (2024) take 240 of
    256 examples from the newest synthetic set.

    Args:
        real: real transitions, with one copy per learner.
        share: share of a batch that is synthetic, in [0, 1].

    Raises:
        PgdiffError: `share` is out of range.
    """

    def __init__(self, real: TransitionDataset, *, share: float) -> None:
        self.real = real
        self.share = check_range("share", share, low=0.0, high=1.0)
        self._synthetic: tuple[TransitionDataset, ...] = ()

    def __len__(self) -> int:
        return len(self.real)

    def replace(self, synthetic: Sequence[Episodes]) -> None:
        """Replace the synthetic data sets, of which each learner has one.

        Raises:
            PgdiffError: the number of data sets is not the number of learners.
        """
        if len(synthetic) != self.real.copies:
            raise PgdiffError(
                f"`synthetic` must be {self.real.copies} data sets, one per learner. "
                f"Got {len(synthetic)}."
            )
        self._synthetic = tuple(TransitionDataset(episodes) for episodes in synthetic)

    def batch(self, indices: Int[np.ndarray, " batch"]) -> TransitionBatch:
        """Return real transitions, the first of which are replaced by synthetic ones.

        Args:
            indices: indices of the real transitions; they also seed the draw of synthetic ones.
        """
        real = self.real.batch(indices)
        count = round(self.share * len(indices))
        if not self._synthetic or not count:
            return real
        source = np.random.default_rng(np.asarray(indices[:8], dtype=np.int64))
        parts = [data.batch(source.integers(len(data), size=count)) for data in self._synthetic]
        fields: list[Any] = []
        for name, values in real._asdict().items():
            if values is None:
                fields.append(None)
                continue
            synthetic = np.concatenate([getattr(part, name) for part in parts], axis=1)
            fields.append(np.concatenate([synthetic, values[count:]]))
        return TransitionBatch(*fields)
