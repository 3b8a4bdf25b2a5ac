"""Costs of being too fast, and of acting out of bounds."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from pgdiff.guides.regions import check_indices, length
from pgdiff.trajectory import Layout, Segment
from pgdiff.validation import PgdiffError, check_positive_int, check_range


@dataclass(frozen=True)
class SpeedLimit:
    """Squared excess of the speed at each token over a limit.

    Attributes:
        limit: greatest length of the velocity, in raw units, at least 0.
        velocity: features of an observation that are the velocity, by index.
    """

    limit: float
    velocity: Sequence[int] = (2, 3)

    def __post_init__(self) -> None:
        check_range("limit", self.limit, low=0.0)
        if len(self.velocity) == 0:
            raise PgdiffError("`velocity` must name at least one feature. Got none.")
        indices = tuple(check_positive_int("velocity", i, minimum=0) for i in self.velocity)
        object.__setattr__(self, "velocity", indices)

    def __call__(self, segment: Segment) -> Float[Tensor, "batch tokens"]:
        """Squared excess at each token."""
        speed = length(segment.observations[..., list(self.velocity)])
        return (speed - self.limit).clamp(min=0.0).square()

    def check(self, layout: Layout) -> None:
        """Refuse a layout whose observations have no such velocity."""
        check_indices("velocity", self.velocity, layout)


@dataclass(frozen=True)
class ActionLimit:
    """Squared excess of actions over their bounds, summed over their features.

    Where tokens hold action chunks, every action of a chunk counts.

    Attributes:
        low: least value, in raw units; one for all features of an action, or one for each.
        high: greatest value, likewise.
    """

    low: float | Sequence[float]
    high: float | Sequence[float]

    def __post_init__(self) -> None:
        for name in ("low", "high"):
            given = getattr(self, name)
            values = np.atleast_1d(np.asarray(given, dtype=object)).ravel()
            object.__setattr__(self, name, tuple(check_range(name, value) for value in values))
        low, high = np.array(self.low), np.array(self.high)
        if (1 not in (len(low), len(high)) and len(low) != len(high)) or not (low < high).all():
            raise PgdiffError(
                "`low` must be below `high` in every feature of an action. "
                f"Got {low.tolist()} and {high.tolist()}."
            )

    def __call__(self, segment: Segment) -> Float[Tensor, "batch tokens"]:
        """Squared excess of the action, or of all actions of the chunk, at each token."""
        actions = segment.actions
        chunks = segment.action_chunks
        chunks = segment.previous_actions if chunks is None else chunks
        if actions is None and chunks is not None:
            actions = torch.unflatten(chunks, -1, (segment.stride, -1))
        if actions is None:
            raise PgdiffError("`segment` must have actions for an ActionLimit. Got none.")
        low, high = actions.new_tensor(self.low), actions.new_tensor(self.high)
        excess = (low - actions).clamp(min=0.0).square() + (actions - high).clamp(min=0.0).square()
        return excess.flatten(2).sum(dim=-1)

    def check(self, layout: Layout) -> None:
        """Refuse a layout without actions, or with actions of another size."""
        size = layout.action_size
        if size is None:
            raise PgdiffError(
                "`fields` of the model must hold 'actions' or others for 'ActionLimit'. Got "
                f"{', '.join(layout.slices)}."
            )
        for name in ("low", "high"):
            given = len(getattr(self, name))
            if given not in (1, size):
                raise PgdiffError(
                    f"`{name}` must be one number, or {size}, one for each feature of the model's "
                    f"actions. Got {given}."
                )
