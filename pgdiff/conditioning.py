"""The conditions of a model, side by side in the one vector that its network is told."""

from collections.abc import Collection, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from pgdiff.data.conditions import Conditioner
from pgdiff.trajectory import Condition
from pgdiff.validation import PgdiffError, nearest

ConditionVector = Float[Tensor, "batch size"]


class Conditioning:
    """Raw values by name to the vector of a network: encoded values, then 1 for their presence.

    A vector of zeros says that there is no condition. Presence is told for all of them together, so
    that all must be given or none.

    Args:
        conditions: what a model is conditioned on; none for a model without.
    """

    def __init__(self, conditions: Sequence[Conditioner]) -> None:
        for condition in conditions:
            if not isinstance(condition, Conditioner):
                raise PgdiffError(
                    "`conditions` must be parts such as ReturnCondition(). "
                    f"Got a {type(condition).__name__}."
                )
        self.conditions = tuple(conditions)
        self.names = tuple(condition.name for condition in conditions)
        if len(set(self.names)) < len(self.names):
            raise PgdiffError(f"`conditions` must have different names. Got {list(self.names)}.")

    @property
    def size(self) -> int:
        """Length of the vector; 0 for no conditions."""
        return sum(condition.size for condition in self.conditions) + 1 if self.conditions else 0

    def check_names(self, names: Collection[str], *, later: Collection[str] = ()) -> None:
        """Refuse names that are not the conditions', and conditions that are not named.

        Args:
            names: of given values.
            later: conditions that may be missing for now.
        """
        for name in names:
            if not self.names:
                raise PgdiffError(
                    f"`condition` must be None for a model without conditions. Got '{name}'."
                )
            if name not in self.names:
                raise PgdiffError(
                    f"`condition` must name {nearest(name, self.names)} Got '{name}'."
                )
        for name in self.names:
            if name not in names and name not in later:
                raise PgdiffError(
                    f"`condition` must give all of {list(self.names)} or be None. Got no '{name}'."
                )

    def check_values(self, condition: Condition) -> None:
        """Refuse values of another shape than their name's, or that mean nothing."""
        for part in self.conditions:
            value = condition.values.get(part.name)
            if value is None:
                continue
            if value.shape[1] != part.width:
                raise PgdiffError(
                    f"`{part.name}` must have shape [{condition.batch}, {part.width}]. "
                    f"Got {list(value.shape)}."
                )
            part.check(value)

    def vector(
        self, condition: Condition | None, *, batch: int, like: Tensor
    ) -> ConditionVector | None:
        """What the network is told of a condition.

        Args:
            condition: raw values, or None.
            batch: number of trajectories.
            like: gives device and type.

        Returns:
            `[batch or 1, size]`, where a batch of 1 stands for all trajectories alike; None for a
            model without conditions.

        Raises:
            PgdiffError: unknown or missing names, or values that do not fit.
        """
        if condition is None:
            return like.new_zeros(1, self.size) if self.conditions else None
        self.check_names(condition.values)
        self.check_values(condition)
        if condition.batch not in (1, batch):
            raise PgdiffError(
                f"`condition` must have the batch size {batch}, or 1. Got {condition.batch}."
            )
        values = [condition.values[name].to(like) for name in self.names]
        return self.encode(torch.cat([v.expand(condition.batch, -1) for v in values], dim=1))

    def encode(self, values: Float[Tensor, "batch width"]) -> ConditionVector:
        """The vector of raw values side by side, in the order of the conditions."""
        parts = torch.split(values, [condition.width for condition in self.conditions], dim=1)
        encoded = [c.encode(part) for c, part in zip(self.conditions, parts, strict=True)]
        return torch.cat([*encoded, values.new_ones(len(values), 1)], dim=1)
