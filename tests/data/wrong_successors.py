"""Ways in which recorders get next observations wrong, for 60 rows that end at 19, 26 and 59."""

from collections.abc import Callable

import numpy as np

Fields = dict[str, np.ndarray]
Spoil = Callable[[Fields], object]


def next_is_row(shift: int) -> Spoil:
    """Next observations `shift` rows on."""

    def spoil(fields: Fields) -> None:
        fields["next_observations"] = np.roll(fields["observations"], -shift, axis=0)

    return spoil


def slow(fields: Fields) -> None:
    """Steps are short against the way from an episode to the next."""
    fields["observations"] = np.arange(60.0)[:, None] * [0.01, 0.02, 0.03]
    fields["next_observations"] = fields["observations"] + [0.01, 0.02, 0.03]
    for start in (20, 27):
        fields["observations"][start:] += 5
        fields["next_observations"][start:] += 5


def reset_at_ends(fields: Fields) -> None:
    slow(fields)
    fields["next_observations"][[19, 26]] = fields["observations"][[20, 27]]


def itself_at_ends(fields: Fields) -> None:
    fields["next_observations"][[19, 26, 59]] = fields["observations"][[19, 26, 59]]


def reset_rows(fields: Fields) -> None:
    """Rows 20 and 27 lead from an end to the next episode."""
    slow(fields)
    fields["observations"][[20, 27]] = fields["next_observations"][[19, 26]]
    fields["next_observations"][[20, 27]] = fields["observations"][[21, 28]]
    fields["rewards"][[20, 27]] = 0


def reset_rows_alone(fields: Fields) -> None:
    reset_rows(fields)
    del fields["next_observations"]
