"""Several recordings as one, such as real experience and synthetic."""

from collections.abc import Sequence

import numpy as np

from pgdiff.data.episodes import Episodes
from pgdiff.validation import PgdiffError

SIZED = ("observations", "actions")


def join_episodes(recordings: Sequence[Episodes]) -> Episodes:
    """One recording of the episodes of all of these, in their order.

    If any has `next_observations`, so has the result: they are filled in from the following rows,
    and of an episode that was cut off, whose last next observation nobody knows, the last row is
    left out. Of `infos` those stay that all have.

    Args:
        recordings: at least one; of the same spaces.

    Raises:
        PgdiffError: none, spaces that differ, or no row that can stay.
    """
    if not recordings:
        raise PgdiffError("`recordings` must be at least one. Got none.")
    first = recordings[0]
    for number, each in enumerate(recordings[1:], start=2):
        for name in SIZED:
            size, wanted = getattr(each, name).shape[1], getattr(first, name).shape[1]
            if size != wanted:
                raise PgdiffError(
                    f"`{name}` must have {wanted} features in every recording, as in the first. "
                    f"Got {size} in recording {number} of {len(recordings)}."
                )
        if each.observation_layout != first.observation_layout:
            raise PgdiffError(
                "`observation_layout` must be the same in every recording. Recording "
                f"{number} of {len(recordings)} has another than the first."
            )
    parts = [each.fields() for each in recordings]
    for part in parts:
        if not (part["terminals"][-1] or part["timeouts"][-1]):
            part["timeouts"] = part["timeouts"].copy()
            part["timeouts"][-1] = True
    if any("next_observations" in part for part in parts):
        parts = [with_successors(part) for part in parts]
    shared = [name for name in parts[0] if all(name in part for part in parts)]
    fields = {name: np.concatenate([part[name] for part in parts]) for name in shared}
    if not len(fields["rewards"]):
        raise PgdiffError("The recordings hold no row whose next observation is known.")
    return Episodes._from_clean(fields, layout=first.observation_layout, trusted=True)


def with_successors(fields: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return fields with next observations: those recorded, or the observations of the next rows.

    Of an episode that was cut off, whose last next observation is then unknown, the last row is
    left out; the row before it becomes the last one, with a timeout.

    Args:
        fields: of `Episodes.fields`.
    """
    if "next_observations" in fields:
        return fields
    terminals, ends = fields["terminals"], fields["terminals"] | fields["timeouts"]
    ends = ends.copy()
    ends[-1] = True
    filled = dict(fields)
    for name, following in (
        ("observations", "next_observations"),
        ("infos/goal", "infos/next_goal"),
    ):
        if name in fields:
            values = fields[name]
            filled[following] = np.concatenate([values[1:], values[-1:]])
            filled[following][terminals] = values[terminals]  # after a terminal it means nothing
    kept = terminals | ~ends
    timeouts = fields["timeouts"].copy()
    # The row before one that is left out now is the last of its episode.
    timeouts[:-1] |= ~ends[:-1] & ~kept[1:]
    filled["timeouts"] = timeouts
    return {name: values[kept] for name, values in filled.items()}
