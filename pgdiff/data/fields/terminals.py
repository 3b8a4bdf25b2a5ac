"""The field "terminals": a flag for the end of the task."""

from typing import ClassVar

import numpy as np
from jaxtyping import Shaped

from pgdiff.core.registry import register
from pgdiff.data.episodes import Episodes
from pgdiff.data.fields.base import Gather, TokenField
from pgdiff.data.selection import selected


@register("token_field", "terminals")
class Terminals(TokenField):
    """1 if the task ended after the token's row, else 0.

    Segments include tokens past a terminal, so that a model learns that nothing changes after it.

    Example:
        >>> from pgdiff.data import SegmentDataset
        >>> from pgdiff.testing import example_episodes
        >>> dataset = SegmentDataset(example_episodes(), 4, 2, fields=("terminals",))
        >>> dataset.batch([0]).terminals.shape
        (1, 4)
    """

    name: ClassVar[str] = "terminals"
    scalar: ClassVar[bool] = True
    extends_past_end: ClassVar[bool] = True

    def recorded(
        self, episodes: Episodes, *, stride: int
    ) -> tuple[Shaped[np.ndarray, "rows size"], int]:
        """Return the flags; the normaliser maps flags to -1 and 1."""
        return selected(episodes, "terminals")[:, None], 1

    def gather(self, episodes: Episodes, *, stride: int, discount: float) -> Gather:
        """Return a function that gathers the flag of each token."""
        return lambda windows: episodes.terminals.take(windows.rows).astype(np.float32)
