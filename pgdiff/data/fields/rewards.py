"""The field "rewards": the reward up to the next token."""

from typing import ClassVar

import numpy as np
from jaxtyping import Shaped

from pgdiff.core.registry import register
from pgdiff.data.episodes import Episodes
from pgdiff.data.fields.base import Gather, TokenField, Values, Windows
from pgdiff.data.returns import chunk_rewards


@register("token_field", "rewards")
class Rewards(TokenField):
    """The discounted sum of the rewards of the steps up to the next token.

    The sum is truncated at the episode's end. It is 0 at tokens past the end, even if they count as
    real.

    Example:
        >>> from pgdiff.data import SegmentDataset
        >>> from pgdiff.testing import example_episodes
        >>> dataset = SegmentDataset(example_episodes(), 4, 2, fields=("rewards",))
        >>> dataset.batch([0]).rewards.shape
        (1, 4)
    """

    name: ClassVar[str] = "rewards"
    scalar: ClassVar[bool] = True

    def recorded(
        self, episodes: Episodes, *, stride: int
    ) -> tuple[Shaped[np.ndarray, "rows size"], int]:
        """Return the sums of the rewards over the stride, without discount."""
        sums = chunk_rewards(episodes, stride, 1.0)
        return sums[~np.isnan(sums), None], 1  # NaN: outside the episodes

    def gather(self, episodes: Episodes, *, stride: int, discount: float) -> Gather:
        """Return a function that gathers the sums of the rewards."""
        sums = chunk_rewards(episodes, stride, discount)

        def read(windows: Windows) -> Values:
            earning = windows.mask & ~windows.past
            return np.where(earning, sums[windows.rows], np.float32(0))

        return read
