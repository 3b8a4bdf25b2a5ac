"""Limits of clean estimates, with actions in the recorded range."""

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from pgdiff.core.validation import PgdiffError, check_range
from pgdiff.data import Episodes
from pgdiff.data.fields import token_field
from pgdiff.data.normalizers import LimitsNormalizer, Normalizer
from pgdiff.data.selection import selected
from pgdiff.trajectory import Layout, Segment

Range = Sequence[Sequence[float]]
Limits = tuple[Float[Tensor, " features"], Float[Tensor, " features"]]

ROUNDING = 1e-5
"""Share of an action's range by which the normaliser's rounding may move it out of bounds."""


def recorded_range(episodes: Episodes, layout: Layout) -> Range | None:
    """Return the smallest and largest value of each feature of the recorded actions.

    Returns None for a layout without actions.
    """
    if not any(token_field(name).bounded for name, _ in layout.fields):
        return None
    actions = selected(episodes, "actions")
    return (
        tuple(map(float, actions.min(axis=0))),
        tuple(map(float, actions.max(axis=0))),
    )


def checked_range(bounds: Sequence[Sequence[float]] | None, layout: Layout) -> Range | None:
    """Return the range of actions as tuples.

    Raises:
        PgdiffError: it is not an ordered pair of bounds that fits the actions of the layout.
    """
    if bounds is None:
        return None
    size = layout.action_size
    pair = len(bounds) == 2 and all(len(bound) == size for bound in bounds)
    if not pair or any(not a <= b for a, b in zip(*bounds, strict=True)):
        shape = "None, as the layout has no actions" if size is None else f"two lists of {size}"
        raise PgdiffError(
            "`action_range` must be the smallest and the largest value of each feature of an "
            f"action, {shape}. Got {bounds!r}."
        )
    low, high = (tuple(check_range("action_range", value) for value in bound) for bound in bounds)
    return low, high


def limits_of(layout: Layout, normalizer: Normalizer, action_range: Range | None) -> Limits | None:
    """Return the limits of a clean estimate in normalised units.

    Actions are limited to their range. Other features are limited to the range of the data with the
    limits normaliser (its `factor`), and unlimited with others.
    """
    bounded = isinstance(normalizer, LimitsNormalizer)
    if action_range is None and not bounded:
        return None
    end = normalizer.factor if bounded else torch.full((layout.features,), torch.inf)
    if action_range is None:
        return -end, end
    ends = []
    for bound, far in zip(action_range, (-end, end), strict=True):
        # The normaliser needs finite values; the other features are set after it.
        raw, free = torch.zeros(layout.features), torch.ones(layout.features, dtype=torch.bool)
        for name, where in layout.slices.items():
            if token_field(name).bounded:
                raw[where] = torch.tensor(bound).repeat((where.stop - where.start) // len(bound))
                free[where] = False
        ends.append(torch.where(free, far, normalizer.normalize(raw)))
    return ends[0], ends[1]


def on_bounds(segment: Segment, action_range: Range | None) -> Segment:
    """Return the segment with actions that exceed their range by rounding set to its ends.

    Actions that are clipped in normalised units may exceed the range in raw units by rounding, and
    so be outside an environment's action space. Actions further outside are unchanged.

    Args:
        segment: segment in raw units.
        action_range: range of one action; None for no limits.
    """
    if action_range is None:
        return segment
    limited: dict[str, Any] = {
        name: _snap(x, action_range)
        for name, x in segment.fields.items()
        if token_field(name).bounded
    }
    return segment.replace(**limited)


def _snap(
    actions: Float[Tensor, "*batch features"], action_range: Range
) -> Float[Tensor, "*batch features"]:
    """Return actions set to the ends of the range if near; features hold one action or several."""
    count = actions.shape[-1] // len(action_range[0])
    low, high = (torch.tensor(bound).repeat(count).to(actions) for bound in action_range)
    digits = torch.finfo(actions.dtype).eps * torch.maximum(low.abs(), high.abs())
    limited = actions.clamp(low, high)
    near = (actions - limited).abs() <= ROUNDING * (high - low) + 4 * digits
    return torch.where(near, limited, actions)
