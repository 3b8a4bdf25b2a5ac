"""The bounds of actions: those that are given, or those that a recording suggests."""

from collections.abc import Sequence

import numpy as np
import torch

from pgdiff.data import Episodes, LimitsNormalizer
from pgdiff.data.selection import selected
from pgdiff.validation import PgdiffError, check_range

Bounds = tuple[float, ...]


def recorded_bounds(
    episodes: Episodes, low: Sequence[float] | None, high: Sequence[float] | None
) -> tuple[Bounds, Bounds]:
    """Return the given bounds; for those that are None, -1 and 1, or the data's where wider.

    Raises:
        PgdiffError: given bounds are not one number for each feature of an action.
    """
    actions = selected(episodes, "actions")
    lowest = np.minimum(actions.min(axis=0), -1.0) if low is None else low
    highest = np.maximum(actions.max(axis=0), 1.0) if high is None else high
    for name, given in (("action_low", low), ("action_high", high)):
        if given is not None and np.shape(given) != actions.shape[1:]:
            raise PgdiffError(
                f"`{name}` must be {actions.shape[1]} numbers, one for each feature of an action. "
                f"Got {given!r}."
            )
    return tuple(map(float, lowest)), tuple(map(float, highest))


def action_scale(low: Bounds, high: Bounds) -> LimitsNormalizer:
    """Return the map of actions between these bounds to [-1, 1].

    Raises:
        PgdiffError: they are not finite, not in order or not as many.
    """
    for name, bounds in (("action_low", low), ("action_high", high)):
        for bound in bounds:
            check_range(name, bound)
    if not low or len(low) != len(high) or any(a >= b for a, b in zip(low, high, strict=True)):
        raise PgdiffError(
            "`action_low` must be below `action_high` in every feature of an action. "
            f"Got {list(low)} and {list(high)}."
        )
    bottom, top = torch.tensor(low), torch.tensor(high)
    return LimitsNormalizer((bottom + top) / 2, (top - bottom) / 2)
