"""Batches of real and synthetic transitions, of which each learner side by side has its own."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Int

from pgdiff.data import Episodes
from pgdiff.data.transitions import TransitionBatch, TransitionDataset
from pgdiff.validation import PgdiffError, check_range


class MixedTransitions:
    """Real transitions, and a share of synthetic ones once there are some; a batch source.

    Jackson et al. (2024) take 240 of 256 examples from the newest synthetic set.

    Args:
        real: transitions with a copy for every learner.
        share: of a batch that is synthetic, in [0, 1].

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
        """Take these synthetic sets from now on, one for each learner, in place of the last ones.

        Raises:
            PgdiffError: another number of sets.
        """
        if len(synthetic) != self.real.copies:
            raise PgdiffError(
                f"`synthetic` must be {self.real.copies} data sets, one for each learner. "
                f"Got {len(synthetic)}."
            )
        self._synthetic = tuple(TransitionDataset(episodes) for episodes in synthetic)

    def batch(self, indices: Int[np.ndarray, " batch"]) -> TransitionBatch:
        """Gather real transitions of these numbers, the first ones replaced by synthetic ones.

        Which synthetic ones follows from the same numbers.
        """
        real = self.real.batch(indices)
        count = round(self.share * len(indices))
        if not self._synthetic or not count:
            return real
        source = np.random.default_rng(np.asarray(indices[:8], dtype=np.int64))
        parts = [data.batch(source.integers(len(data), size=count)) for data in self._synthetic]
        fields: list[Any] = []
        for name, own in real._asdict().items():
            if own is None:
                fields.append(None)
                continue
            made = np.concatenate([getattr(part, name) for part in parts], axis=1)
            fields.append(np.concatenate([made, own[count:]]))
        return TransitionBatch(*fields)
