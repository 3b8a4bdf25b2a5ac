"""The field "next_observations": the observation one step after each token."""

from collections.abc import Mapping
from typing import ClassVar

import numpy as np
from jaxtyping import Shaped

from pgdiff.core.registry import register
from pgdiff.core.validation import PgdiffError
from pgdiff.data.episodes import Episodes
from pgdiff.data.fields.base import Gather, TokenField, Values, Windows
from pgdiff.data.selection import selected


@register("token_field", "next_observations")
class NextObservations(TokenField):
    """The observation after each token's row, normalised with the statistics of observations.

    If next observations were not recorded, a terminal row is its own successor, and the last row of
    a cut-off episode counts as padding.

    Example:
        >>> from pgdiff.data import SegmentDataset
        >>> from pgdiff.testing import example_episodes
        >>> dataset = SegmentDataset(example_episodes(), 4, 2, fields=("next_observations",))
        >>> dataset.batch([0]).next_observations.shape
        (1, 4, 4)
    """

    name: ClassVar[str] = "next_observations"

    def recorded(
        self, episodes: Episodes, *, stride: int
    ) -> tuple[Shaped[np.ndarray, "rows size"], int]:
        """Return the observations of all rows."""
        return selected(episodes, "observations"), 1

    def gather(self, episodes: Episodes, *, stride: int, discount: float) -> Gather:
        """Return a function that gathers the observation after each token."""
        following = episodes.next_observations

        def read(windows: Windows) -> Values:
            if following is not None:
                return following.take(windows.rows, axis=0)
            after = np.minimum(windows.rows + 1, windows.last)
            values: np.ndarray = episodes.observations.take(after, axis=0)
            return values

        return read

    def needs_successor(self, episodes: Episodes) -> bool:
        """Return True for a recording without next observations."""
        return episodes.next_observations is None

    def check(self, sizes: Mapping[str, int], *, horizon: int, stride: int) -> None:
        """Raise if the size differs from that of the observations."""
        if sizes[self.name] != sizes["observations"]:
            raise PgdiffError(
                f"`fields` must give '{self.name}' the size of the observations, "
                f"{sizes['observations']}. Got {sizes[self.name]}."
            )
