"""Limits of clean estimates: actions stay in the range that was recorded."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from pgdiff.data import Episodes
from pgdiff.data.normalizers import LimitsNormalizer, Normalizer
from pgdiff.data.selection import selected
from pgdiff.trajectory import Layout, Segment
from pgdiff.validation import PgdiffError, check_range

Range = tuple[tuple[float, ...], tuple[float, ...]]
Limits = tuple[Float[Tensor, " features"], Float[Tensor, " features"]]

_FIELDS = ("actions", "action_chunks", "previous_actions")

ROUNDING = 1e-5
"""Share of an action's range by which it may be out of bounds, since it comes from a normaliser."""


def recorded_range(episodes: Episodes, layout: Layout) -> Range | None:
    """Return the least and the greatest value of each feature of a recorded action.

    None for a layout without actions.
    """
    if not any(name in layout.slices for name in _FIELDS):
        return None
    actions = selected(episodes, "actions")
    return (
        tuple(map(float, actions.min(axis=0))),
        tuple(map(float, actions.max(axis=0))),
    )


def checked_range(given: Sequence[Sequence[float]] | None, layout: Layout) -> Range | None:
    """Return the range as tuples.

    Raises:
        PgdiffError: it is no pair of bounds, in order, that fits the actions of the layout.
    """
    if given is None:
        return None
    size = layout.action_size
    pair = len(given) == 2 and all(len(bounds) == size for bounds in given)
    if not pair or any(not a <= b for a, b in zip(*given, strict=True)):
        raise PgdiffError(
            "`action_range` must be the least and the greatest value of each feature of an "
            f"action that the layout has, {'none' if size is None else [size]}. Got {given!r}."
        )
    low, high = (tuple(check_range("action_range", bound) for bound in bounds) for bounds in given)
    return low, high


def limits_of(layout: Layout, normalizer: Normalizer, action_range: Range | None) -> Limits | None:
    """Return the limits of a clean estimate in normalised units.

    With the limits normaliser its `factor`, where it puts the ends of the data; with another none.
    Of actions, those of their range.
    """
    bounded = isinstance(normalizer, LimitsNormalizer)
    if action_range is None and not bounded:
        return None
    end = normalizer.factor if bounded else torch.full((layout.features,), torch.inf)
    if action_range is None:
        return -end, end
    ends = []
    for bound, far in zip(action_range, (-end, end), strict=True):
        # What is normalised must be finite: the other features are set after it.
        raw, free = torch.zeros(layout.features), torch.ones(layout.features, dtype=torch.bool)
        for name in _FIELDS:
            where = layout.slices.get(name)
            if where is not None:
                raw[where] = torch.tensor(bound).repeat((where.stop - where.start) // len(bound))
                free[where] = False
        ends.append(torch.where(free, far, normalizer.normalize(raw)))
    return ends[0], ends[1]


def on_bounds(segment: Segment, action_range: Range | None) -> Segment:
    """Put actions on the ends of their range where rounding alone has left them outside.

    What is limited in normalised units may be off by units in the last place in raw ones, which
    an environment's action space does not hold. Actions that are further out stay as they are.

    Args:
        segment: in raw units.
        action_range: of one action; None for any.
    """
    if action_range is None:
        return segment
    fields = {name: getattr(segment, name) for name in _FIELDS}
    limited: dict[str, Any] = {
        name: _snapped(x, action_range) for name, x in fields.items() if x is not None
    }
    return replace(segment, **limited)


def _snapped(
    actions: Float[Tensor, "*batch features"], action_range: Range
) -> Float[Tensor, "*batch features"]:
    """The features hold one action, or several one after the other."""
    count = actions.shape[-1] // len(action_range[0])
    low, high = (torch.tensor(bound).repeat(count).to(actions) for bound in action_range)
    digits = torch.finfo(actions.dtype).eps * torch.maximum(low.abs(), high.abs())
    limited = actions.clamp(low, high)
    near = (actions - limited).abs() <= ROUNDING * (high - low) + 4 * digits
    return torch.where(near, limited, actions)
