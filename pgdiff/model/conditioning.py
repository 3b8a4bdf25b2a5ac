"""The conditions of a model, encoded as the context of its network."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from pgdiff.core.context import JOINT, Context, Entry
from pgdiff.core.registry import register
from pgdiff.core.settings import part
from pgdiff.core.validation import PgdiffError, check_range, nearest
from pgdiff.data import Conditioner, Episodes, HintConditioner
from pgdiff.trajectory import Condition


@register("conditioning", "conditions")
@dataclass(frozen=True, kw_only=True)
class Conditioning:
    """The conditions of a model: raw values by name, encoded as the entries of a context.

    Returns, goals and classes share the entry "condition", a vector with one flag of presence, so
    that either all or none of them must be given. A hint, such as a map, has an entry of its name
    with its own flag, and may be given or not.

    Attributes:
        conditioners: conditions of the model, such as `ReturnCondition()`.
        dropout: share of training segments whose conditions are hidden (Ho & Salimans 2022), so
            that the model also learns to sample without them; hidden separately for each entry.

    Example:
        >>> from pgdiff.data import ClassCondition
        >>> from pgdiff.model import Conditioning
        >>> Conditioning(conditioners=[ClassCondition(classes=3)]).shapes
        {'condition': (4,)}
    """

    conditioners: Sequence[Conditioner | HintConditioner] = field(
        default=(), metadata=part("condition")
    )
    dropout: float = 0.1

    def __post_init__(self) -> None:
        for condition in self.conditioners:
            if not isinstance(condition, Conditioner | HintConditioner):
                raise PgdiffError(
                    "`conditions` must be conditions such as ReturnCondition(). "
                    f"Got a {type(condition).__name__}."
                )
        object.__setattr__(self, "conditioners", tuple(self.conditioners))
        if len(set(self.names)) < len(self.names):
            raise PgdiffError(f"`conditions` must have different names. Got {list(self.names)}.")
        if JOINT in {hint.name for hint in self.hints}:
            raise PgdiffError(f"`conditions` must not contain a hint named '{JOINT}'. Rename it.")
        check_range("dropout", self.dropout, low=0.0, high=1.0)

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the conditions."""
        return tuple(condition.name for condition in self.conditioners)

    @property
    def joint(self) -> tuple[Conditioner, ...]:
        """Conditions that share the entry "condition"."""
        return tuple(c for c in self.conditioners if not isinstance(c, HintConditioner))

    @property
    def hints(self) -> tuple[HintConditioner, ...]:
        """Conditions with an entry of their own."""
        return tuple(c for c in self.conditioners if isinstance(c, HintConditioner))

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Shape of each entry of the context, without the batch."""
        size = sum(condition.size for condition in self.joint) + 1
        joint = {JOINT: (size,)} if self.joint else {}
        return joint | {hint.name: tuple(hint.shape) for hint in self.hints}

    @property
    def raw_shapes(self) -> dict[str, tuple[int, ...]]:
        """Shape of the raw value of each condition, without the batch."""
        return {
            c.name: tuple(c.raw_shape) if isinstance(c, HintConditioner) else (c.width,)
            for c in self.conditioners
        }

    def fit(self, episodes: Episodes) -> "Conditioning":
        """Return the conditions with missing statistics fitted to a recording."""
        fitted = tuple(condition.fit(episodes) for condition in self.conditioners)
        return replace(self, conditioners=fitted)

    def for_codec(self, codec: Any) -> "Conditioning":
        """Return the conditions with values of the model's codec, from their `for_codec`."""
        bound = (c.for_codec(codec) if hasattr(c, "for_codec") else c for c in self.conditioners)
        return replace(self, conditioners=tuple(bound))

    def from_plan(
        self, observation: Float[Tensor, "batch observation"], values: Mapping[str, Tensor]
    ) -> dict[str, Tensor]:
        """Return the raw values with those that conditions compute from a plan's observation.

        Args:
            observation: present observations, in raw units.
            values: given raw values by name; they are kept.
        """
        computed = {
            c.name: c.from_plan(observation, values)
            for c in self.conditioners
            if c.name not in values and hasattr(c, "from_plan")
        }
        return computed | dict(values)

    def check_names(self, names: Collection[str], *, later: Collection[str] = ()) -> None:
        """Raise if a name is unknown, or if one of the joint conditions is missing.

        Args:
            names: names of the given values.
            later: conditions that may be missing because they are given later.
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
        joint = [condition.name for condition in self.joint]
        if self.hints and not set(joint) & set(names):
            return  # hints alone
        for name in joint:
            if name not in names and name not in later:
                raise PgdiffError(
                    f"`condition` must give all of {joint} or be None. Got no '{name}'."
                )

    def check_values(self, condition: Condition) -> None:
        """Raise if values have the wrong shape or are not valid for their condition."""
        shapes = self.raw_shapes
        for one in self.conditioners:
            value = condition.values.get(one.name)
            if value is None:
                continue
            if tuple(value.shape[1:]) != shapes[one.name]:
                raise PgdiffError(
                    f"`{one.name}` must have shape [{condition.batch}, "
                    f"{', '.join(map(str, shapes[one.name]))}]. Got {list(value.shape)}."
                )
            one.check(value)

    def context(self, condition: Condition | None, *, batch: int, like: Tensor) -> Context | None:
        """Return the network's context for a condition.

        Args:
            condition: raw values, or None.
            batch: number of trajectories.
            like: tensor with the device and type of the result.

        Returns:
            A context of `batch` rows or 1, where a batch of 1 applies to all trajectories; None
            for a model without conditions.

        Raises:
            PgdiffError: names are unknown or missing, or values do not fit.
        """
        if not self.conditioners and condition is None:
            return None
        values: Mapping[str, Tensor] = {}
        if condition is not None:
            self.check_names(condition.values)
            self.check_values(condition)
            if condition.batch not in (1, batch):
                raise PgdiffError(
                    f"`condition` must have the batch size {batch}, or 1. Got {condition.batch}."
                )
            values = condition.values
            for name in self.names if self.dropout == 0 else ():
                if name not in values:
                    raise PgdiffError(
                        f"`condition` must give all of {list(self.names)} to a model that was "
                        f"trained with a dropout of 0, never without one of them. Got no '{name}'."
                    )
        entries = {}
        if self.joint:
            entries[JOINT] = self._absent(self.shapes[JOINT], like)
            given = [values[c.name].to(like) for c in self.joint if c.name in values]
            if given:
                rows = max(len(value) for value in given)
                entries[JOINT] = self._joint(torch.cat([v.expand(rows, -1) for v in given], dim=1))
        for hint in self.hints:
            entries[hint.name] = (
                _entry(hint.encode(values[hint.name].to(like)))
                if hint.name in values
                else self._absent(hint.shape, like)
            )
        return Context(entries)

    def of_batch(self, batch: Any) -> Context:
        """Return the context of a batch of training segments."""
        entries = {JOINT: self._joint(batch.condition)} if self.joint else {}
        for hint in self.hints:
            entries[hint.name] = _entry(hint.encode(batch.hints[hint.name]))
        return Context(entries)

    def drop(
        self,
        context: Context,
        *,
        generator: torch.Generator,
        rows: slice = slice(None),
        total: int | None = None,
    ) -> Context:
        """Hide each entry in random rows, so that a model learns both estimates.

        Args:
            context: context of every trajectory.
            generator: on the context's device.
            rows: rows of a larger batch that `context` holds.
            total: number of rows of the larger batch; that of `context` if None.
        """
        whole = context.batch if total is None else total
        for name in context.names:
            draw = torch.rand(whole, 1, generator=generator, device=generator.device)
            context = context.drop([name], rows=(draw < self.dropout)[rows, 0])
        return context

    def _joint(self, values: Float[Tensor, "batch width"]) -> Entry:
        """Return the joint entry of concatenated raw values, in the order of the conditions."""
        parts = torch.split(values, [condition.width for condition in self.joint], dim=1)
        encoded = [c.encode(part) for c, part in zip(self.joint, parts, strict=True)]
        return _entry(torch.cat([*encoded, values.new_ones(len(values), 1)], dim=1))

    @staticmethod
    def _absent(shape: Sequence[int], like: Tensor) -> Entry:
        flags = torch.zeros(1, dtype=torch.bool, device=like.device)
        return Entry(like.new_zeros(1, *shape), flags)


def _entry(value: Tensor) -> Entry:
    return Entry(value, torch.ones(len(value), dtype=torch.bool, device=value.device))
