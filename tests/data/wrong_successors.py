"""Typical recorder errors in next observations, for 60 rows with ends at 19, 26 and 59."""

from collections.abc import Callable

import numpy as np

Fields = dict[str, np.ndarray]
Spoil = Callable[[Fields], object]


def next_is_row(shift: int) -> Spoil:
    """Shift the next observations by `shift` rows."""

    def spoil(fields: Fields) -> None:
        fields["next_observations"] = np.roll(fields["observations"], -shift, axis=0)

    return spoil


def small_steps(fields: Fields) -> None:
    """Make steps small compared to the distance between episodes."""
    fields["observations"] = np.arange(60.0)[:, None] * [0.01, 0.02, 0.03]
    fields["next_observations"] = fields["observations"] + [0.01, 0.02, 0.03]
    for start in (20, 27):
        fields["observations"][start:] += 5
        fields["next_observations"][start:] += 5


def reset_at_ends(fields: Fields) -> None:
    small_steps(fields)
    fields["next_observations"][[19, 26]] = fields["observations"][[20, 27]]


def itself_at_ends(fields: Fields) -> None:
    fields["next_observations"][[19, 26, 59]] = fields["observations"][[19, 26, 59]]


def reset_rows(fields: Fields) -> None:
    """Make rows 20 and 27 lead from an end to the next episode."""
    small_steps(fields)
    fields["observations"][[20, 27]] = fields["next_observations"][[19, 26]]
    fields["next_observations"][[20, 27]] = fields["observations"][[21, 28]]
    fields["rewards"][[20, 27]] = 0


def reset_rows_alone(fields: Fields) -> None:
    reset_rows(fields)
    del fields["next_observations"]
