"""Contexts: named tensors that condition a denoiser."""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from pgdiff.core.validation import PgdiffError

JOINT = "condition"
"""Name of the entry that holds all conditions with one flag of presence, its last number."""


@dataclass(frozen=True, eq=False)
class Entry:
    """A tensor for each row of a batch, and whether the row has it.

    Attributes:
        value: `[batch or 1, ...]`, zero in rows without a value. A batch of 1 applies to all rows.
        present: `[batch or 1]`, with the batch size of `value`.

    Example:
        >>> import torch
        >>> from pgdiff.core.context import Entry
        >>> Entry(torch.ones(2, 8, 8), torch.tensor([True, True])).shape
        (8, 8)
    """

    value: Float[Tensor, "rows ..."]
    present: Bool[Tensor, " rows"]

    def __post_init__(self) -> None:
        if len(self.value) != len(self.present):
            raise PgdiffError(
                f"`present` must have one flag for each of the {len(self.value)} rows of `value`. "
                f"Got {list(self.present.shape)}."
            )

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the value of one row."""
        return tuple(self.value.shape[1:])

    def map(self, function: Callable[[Tensor], Tensor]) -> "Entry":
        """Return the entry with a function of tensors applied to both parts."""
        return Entry(function(self.value), function(self.present))

    def drop(self, rows: Bool[Tensor, " batch"] | None = None) -> "Entry":
        """Return the entry with zeros in these rows; in all rows if None."""
        if rows is None:
            return Entry(torch.zeros_like(self.value), torch.zeros_like(self.present))
        keep = (~rows).view(-1, *[1] * len(self.shape))
        return Entry(self.value * keep, self.present & ~rows)


@dataclass(frozen=True, eq=False)
class Context:
    """Named entries that condition a denoiser; the sampler never reads their values.

    Attributes:
        entries: entries by name, in the order in which a network concatenates vectors.

    Example:
        >>> import torch
        >>> from pgdiff.core.context import Context, Entry
        >>> context = Context({"walls": Entry(torch.ones(2, 8, 8), torch.tensor([True, True]))})
        >>> context.tile(3).batch, context.drop(["walls"])["walls"].present.tolist()
        (6, [False, False])
    """

    entries: Mapping[str, Entry]

    def __post_init__(self) -> None:
        sizes = {name: len(entry.value) for name, entry in self.entries.items()}
        if not sizes or len(set(sizes.values()) - {1}) > 1:
            raise PgdiffError(f"`entries` must have one batch size, or 1. Got {sizes}.")

    @classmethod
    def from_vector(cls, vector: Float[Tensor, "batch size"]) -> "Context":
        """Return the context with one vector, whose last number is its flag of presence."""
        if vector.ndim != 2:
            raise PgdiffError(f"`vector` must have shape [batch, size]. Got {list(vector.shape)}.")
        return cls({JOINT: Entry(vector, vector[:, -1] != 0)})

    def __getitem__(self, name: str) -> Entry:
        return self.entries[name]

    def __contains__(self, name: str) -> bool:
        return name in self.entries

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the entries."""
        return tuple(self.entries)

    @property
    def batch(self) -> int:
        """Number of rows; 1 stands for any number."""
        return max(len(entry.value) for entry in self.entries.values())

    @property
    def vector(self) -> Float[Tensor, "#batch size"] | None:
        """Concatenation of all vectors, each followed by its flag of presence; None without any.

        The vector of the joint conditions holds its flag already.
        """
        parts = []
        for name, entry in self.entries.items():
            if len(entry.shape) == 1:
                flag = [] if name == JOINT else [entry.present[:, None].to(entry.value)]
                parts.append(torch.cat([entry.value, *flag], dim=1) if flag else entry.value)
        if len(parts) < 2:
            return parts[0] if parts else None
        rows = max(len(part) for part in parts)
        return torch.cat([part.expand(rows, -1) for part in parts], dim=1)

    def map(self, function: Callable[[Tensor], Tensor]) -> "Context":
        """Return the context with a function of tensors applied to all values and flags."""
        return Context({name: entry.map(function) for name, entry in self.entries.items()})

    def tile(self, count: int) -> "Context":
        """Return `count` copies of the batch one after another: rows 0 1 0 1."""
        return self._repeat(lambda t: t.repeat(count, *[1] * (t.ndim - 1)))

    def interleave(self, count: int) -> "Context":
        """Return `count` copies of each row: rows 0 0 1 1."""
        return self._repeat(lambda t: t.repeat_interleave(count, dim=0))

    def expand(self, batch: int) -> "Context":
        """Return the context with `batch` rows; entries with one row are expanded."""
        return self.map(lambda t: t.expand(batch, *t.shape[1:]))

    def rows(self, index: slice | Sequence[int] | Tensor) -> "Context":
        """Return the context of these rows; entries with one row are unchanged."""
        return self._repeat(lambda t: t[index])

    def drop(
        self,
        names: Collection[str] | None = None,
        rows: Bool[Tensor, " batch"] | None = None,
    ) -> "Context":
        """Return the context without these names in these rows.

        Args:
            names: names of dropped entries; all if None.
            rows: True in rows that lose them; all rows if None.
        """
        dropped = self.entries if names is None else names
        return Context(
            {n: e.drop(rows) if n in dropped else e for n, e in self.entries.items()},
        )

    def to(self, dtype: torch.dtype, device: torch.device | str | None = None) -> "Context":
        """Return the context with values of this type, on this device."""
        return Context(
            {
                name: replace(
                    entry,
                    value=entry.value.to(device=device, dtype=dtype),
                    present=entry.present.to(device=device),
                )
                for name, entry in self.entries.items()
            }
        )

    def same(self, other: "Context | None") -> bool:
        """Return whether both contexts have equal entries."""
        if other is None or self.names != other.names:
            return False
        pairs = [(self[name], other[name]) for name in self.names]
        return all(
            a.value.shape == b.value.shape
            and torch.equal(a.value, b.value)
            and torch.equal(a.present, b.present)
            for a, b in pairs
        )

    def _repeat(self, function: Callable[[Tensor], Tensor]) -> "Context":
        """Return the context with a function of tensors applied where there are several rows."""
        return self.map(lambda t: t if len(t) == 1 else function(t))


def cat(contexts: Sequence[Context]) -> Context:
    """Return the concatenated rows of contexts with equal names.

    Example:
        >>> import torch
        >>> from pgdiff.core.context import Context, cat
        >>> context = Context.from_vector(torch.ones(2, 3))
        >>> cat([context, context.drop()])["condition"].present.tolist()
        [True, True, False, False]
    """
    contexts = [context.expand(context.batch) for context in contexts]
    return Context(
        {
            name: Entry(
                torch.cat([context[name].value for context in contexts]),
                torch.cat([context[name].present for context in contexts]),
            )
            for name in contexts[0].names
        }
    )
