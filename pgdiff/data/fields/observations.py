"""The field "observations": the state at each token."""

from typing import ClassVar

import numpy as np
from jaxtyping import Float, Shaped
from torch import Tensor

from pgdiff.core.registry import register
from pgdiff.data.episodes import Episodes
from pgdiff.data.fields.base import Gather, TokenField, Values, Windows
from pgdiff.data.selection import selected


@register("token_field", "observations")
class Observations(TokenField):
    """The observation at each token; every token has it.

    Tokens past the end of an episode have its final next observation, if that was recorded and the
    tokens count as real.

    Example:
        >>> from pgdiff.data import SegmentDataset
        >>> from pgdiff.testing import example_episodes
        >>> dataset = SegmentDataset(example_episodes(), 4, 2, fields=("observations",))
        >>> dataset.batch([0]).observations.shape
        (1, 4, 4)
    """

    name: ClassVar[str] = "observations"
    given_at_start: ClassVar[bool] = True

    def recorded(
        self, episodes: Episodes, *, stride: int
    ) -> tuple[Shaped[np.ndarray, "rows size"], int]:
        """Return the observations of all rows."""
        return selected(episodes, "observations"), 1

    def gather(self, episodes: Episodes, *, stride: int, discount: float) -> Gather:
        """Return a function that gathers the observation of each token."""
        following = episodes.next_observations

        def read(windows: Windows) -> Values:
            values: np.ndarray = episodes.observations.take(windows.rows, axis=0)
            if windows.absorbing and following is not None and values.shape[-1]:
                values[windows.past] = following.take(windows.rows[windows.past], axis=0)
            return values

        return read

    def from_plan(
        self,
        observations: Float[Tensor, "batch tokens observation"],
        actions: Float[Tensor, "batch steps action"] | None,
        stride: int,
    ) -> Float[Tensor, "batch tokens size"]:
        """Return the way-points of the plans."""
        return observations
