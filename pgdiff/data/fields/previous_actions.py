"""The field "previous_actions": the actions since the previous token."""

from collections.abc import Mapping
from typing import ClassVar

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from pgdiff.core.registry import register, registered
from pgdiff.core.validation import PgdiffError
from pgdiff.data.episodes import Episodes
from pgdiff.data.fields.base import ActionField, Gather, Values, Windows, actions_from


@register("token_field", "previous_actions")
class PreviousActions(ActionField):
    """The actions of the `stride` steps before each token, concatenated; 0 at the first token.

    See Chen et al. (2024), section 4.2. A token with this field holds no other actions.

    Example:
        >>> from pgdiff.data import SegmentDataset
        >>> from pgdiff.testing import example_episodes
        >>> dataset = SegmentDataset(example_episodes(), 4, 3, fields=("previous_actions",))
        >>> bool(dataset.batch([0]).previous_actions[:, 0].any())
        False
    """

    name: ClassVar[str] = "previous_actions"
    every_step: ClassVar[bool] = True
    given_at_start: ClassVar[bool] = True

    def gather(self, episodes: Episodes, *, stride: int, discount: float) -> Gather:
        """Return a function that gathers the actions since the previous token."""

        def read(windows: Windows) -> Values:
            chunks = actions_from(episodes, windows)
            return np.concatenate([np.zeros_like(chunks[:, :1]), chunks[:, :-1]], axis=1)

        return read

    def check(self, sizes: Mapping[str, int], *, horizon: int, stride: int) -> None:
        """Raise if the token holds other actions, or has no previous token."""
        super().check(sizes, horizon=horizon, stride=stride)
        fields = registered("token_field")
        others = [name for name in sizes if issubclass(fields[name], ActionField)]
        if horizon < 2 or others != [self.name]:
            raise PgdiffError(
                "`fields` may hold 'previous_actions' without other actions, and with a `horizon` "
                f"of at least 2. Got {', '.join(sizes)} and a horizon of {horizon}."
            )

    def steps(self, waypoints: int, stride: int) -> int:
        """Return the number of actions between the tokens of a segment."""
        return (waypoints - 1) * stride

    def actions(
        self, values: Float[Tensor, "batch tokens size"], stride: int
    ) -> Float[Tensor, "batch steps action"]:
        """Return the actions of a segment in temporal order; the first token has none."""
        return super().actions(values[:, 1:], stride)

    def decisions(
        self, values: Float[Tensor, "batch tokens size"], stride: int
    ) -> Float[Tensor, "batch rows action"]:
        """Return the action at each token but the last, whose action is unknown."""
        return super().decisions(values[:, 1:], stride)

    def from_plan(
        self,
        observations: Float[Tensor, "batch tokens observation"],
        actions: Float[Tensor, "batch steps action"] | None,
        stride: int,
    ) -> Float[Tensor, "batch tokens size"] | None:
        """Return the actions of plans between their way-points; 0 at the first."""
        if actions is None:
            return None
        count, tokens = observations.shape[:2]
        flat = actions.reshape(count, tokens - 1, stride * actions.shape[-1])
        return torch.cat([flat.new_zeros(count, 1, flat.shape[-1]), flat], dim=1)
