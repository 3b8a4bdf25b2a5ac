"""The bounds of actions: those that are given, or those that a recording suggests."""

import warnings
from collections.abc import Sequence

import numpy as np
import torch

from pgdiff.data import Episodes, LimitsNormalizer
from pgdiff.data.selection import selected
from pgdiff.validation import PgdiffError, check_range

_HALF = 0.5

Bounds = tuple[float, ...]


def recorded_bounds(
    episodes: Episodes,
    low: Sequence[float] | None,
    high: Sequence[float] | None,
    *,
    acts: bool = True,
) -> tuple[Bounds, Bounds]:
    """Return the given bounds; for those that are None, -1 and 1, or the data's where wider.

    A recording does not say how far actions may go. Where neither bound is given and the recorded
    actions fill less than half of the interval that is assumed, a warning says so: an agent may
    then act outside the action space, and noise in units of the interval (`policy_noise` of TD3)
    is larger than the paper's.

    Args:
        episodes: the recording.
        low: least value of each feature, such as `env.action_space.low`; None where it is unknown.
        high: greatest value of each.
        acts: whether the bounds limit what an agent does; without it nothing is warned of.

    Raises:
        PgdiffError: given bounds are not one number for each feature of an action.
    """
    actions = selected(episodes, "actions")
    least, greatest = actions.min(axis=0), actions.max(axis=0)
    lowest = np.minimum(least, -1.0) if low is None else low
    highest = np.maximum(greatest, 1.0) if high is None else high
    for name, given in (("action_low", low), ("action_high", high)):
        if given is not None and np.shape(given) != actions.shape[1:]:
            raise PgdiffError(
                f"`{name}` must be {actions.shape[1]} numbers, one for each feature of an action. "
                f"Got {given!r}."
            )
    if acts and low is None and high is None:
        _warn_wide(least, greatest, np.asarray(lowest), np.asarray(highest))
    return tuple(map(float, lowest)), tuple(map(float, highest))


def _warn_wide(
    least: np.ndarray, greatest: np.ndarray, lowest: np.ndarray, highest: np.ndarray
) -> None:
    """Warn if recorded actions fill less than half of the bounds that are assumed for them.

    A feature that never varies says nothing about its bounds.
    """
    share = np.where(greatest > least, (greatest - least) / (highest - lowest), 1.0)
    feature = int(np.argmin(share))
    if share[feature] < _HALF:
        warnings.warn(
            f"`action_low` and `action_high` are taken as {lowest[feature]:g} and "
            f"{highest[feature]:g} for feature {feature} of `actions`, which is recorded from "
            f"{least[feature]:.3g} to {greatest[feature]:.3g}. Pass env.action_space.low and "
            "env.action_space.high, or the agent may act outside the action space.",
            UserWarning,
            stacklevel=4,
        )


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
