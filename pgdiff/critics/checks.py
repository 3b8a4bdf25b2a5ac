"""Whether a value network and the segments that it is asked about fit together."""

import numpy as np

from pgdiff.data import Episodes
from pgdiff.data.transitions import rows_of
from pgdiff.trajectory import Segment
from pgdiff.validation import PgdiffError


def check_segment(
    segment: Segment, *, stride: int, features: int, horizon: int | None = None
) -> None:
    """Raise an error unless a segment is of the kind that a value has learned from.

    Args:
        segment: what the value is asked about.
        stride: environment steps between the tokens that were learned from.
        features: features of their observations.
        horizon: their number in a segment; None where any number will do.
    """
    tokens, size = segment.observations.shape[-2:]
    for name, own, given in (
        ("stride", stride, segment.stride),
        ("observation", features, size),
        ("horizon", horizon, tokens),
    ):
        if own is not None and own != given:
            raise PgdiffError(
                f"`{name}` of a segment must be that of its value, {own}. Got {given}: the value "
                "and the model were trained on different segments."
            )


def check_rewards(episodes: Episodes) -> None:
    """Raise an error if a recorded reward is negative, for a value that is a logarithm."""
    rows = rows_of(episodes)
    row = int(rows[np.argmin(episodes.rewards[rows])])
    if episodes.rewards[row] < 0:
        raise PgdiffError(
            "`log_space` must be false where rewards are negative. Got "
            f"{float(episodes.rewards[row])} in row {row} of `rewards`."
        )
