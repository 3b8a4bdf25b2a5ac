"""Checks of recorded fields, block by block so that memory stays bounded."""

import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Protocol

import numpy as np

from pgdiff.data.schema import FIELDS, Field, Problem, recording_fields

LARGEST = 1e9
"""Magnitudes above this are reported as faults: float32 resolves only 64 there."""

BLOCK_ROWS = 65_536
BLOCK_BYTES = 1 << 26
"""A block has as many rows as both limits allow, and at least one."""


class Source(Protocol):
    """Source of a field's values: a NumPy array or an HDF5 data set."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the field, rows first."""
        ...

    @property
    def dtype(self) -> Any:
        """Data type as stored."""
        ...

    def __getitem__(self, rows: slice, /) -> Any: ...


Sink = Callable[[Field, int, np.ndarray], None]
"""Receives (field, first row, block); the block is float32 or bool and has passed its checks."""


NO_END = Problem(
    "timeouts",
    None,
    "no row of `terminals` or `timeouts` marks the end of an episode.",
    "Write `timeouts` with 1 at the last row of every episode, or pass `join_continuous=True` to "
    "read the recording as one episode.",
)


def find_problems(
    sources: Mapping[str, Source], sink: Sink | None = None, *, need_end: bool = True
) -> Iterator[Problem]:
    """Yield every fault of a recording's fields: shapes and types first, then values, then ends.

    Args:
        sources: the fields by their D4RL names.
        sink: receives the converted blocks of the fields whose shape and type are valid.
        need_end: if True, a recording without any episode end is a fault.
    """
    sound: dict[str, Source] = {}
    yield from _structure(sources, sound)
    marked = False
    fields = recording_fields()
    scans = {name: _Scan(fields[name]) for name in sound}
    for name, source in sound.items():
        scan = scans[name]
        step = block_rows(source)
        for first in range(0, source.shape[0], step):
            try:
                block = np.asarray(source[first : first + step])
            except (OSError, RuntimeError, ValueError, KeyError) as error:
                yield Problem(name, first, f"cannot be read ({error}).", "Download the file again.")
                scan.unreadable = True
                break
            clean = scan.take(first, block)
            if sink is not None:
                sink(scan.field, first, clean)
        yield from scan.problems()
        marked |= scan.marks > 0
    flags = [name for name in ("terminals", "timeouts") if name in sources]
    readable = all(name in sound and not scans[name].faulty for name in flags)
    if need_end and "terminals" in flags and readable and not marked:
        yield NO_END


def block_rows(source: Source) -> int:
    """Return the number of rows of a block."""
    row: int = max(math.prod(source.shape[1:]) * np.dtype(source.dtype).itemsize, 1)
    return max(min(BLOCK_ROWS, BLOCK_BYTES // row), 1)


def _structure(sources: Mapping[str, Source], sound: dict[str, Source]) -> Iterator[Problem]:
    """Yield faults of presence, type, rank and length; put the valid fields into `sound`."""
    present = [field for field in recording_fields().values() if field.name in sources]
    for field in FIELDS:
        if field.required and field.name not in sources:
            yield Problem(
                field.name,
                None,
                f"is missing; the recording has {sorted(sources) or 'no fields'}.",
                "Write it under this name (fields have D4RL's names).",
            )
    shaped: list[Field] = []
    for field in present:
        problem = _type_problem(field, sources[field.name])
        if problem is None:
            shaped.append(field)
        else:
            yield problem
    # The most frequent number of rows is the right one; the first field's in a tie.
    lengths = [sources[field.name].shape[0] for field in shaped]
    rows = max(lengths, key=lambda n: (lengths.count(n), -lengths.index(n)), default=0)
    for field in shaped:
        shape = sources[field.name].shape
        if shape[0] == 0:
            yield Problem(field.name, None, "is empty.", "Record at least one step.")
        elif shape[0] != rows:
            yield Problem(
                field.name,
                min(shape[0], rows),
                f"has {shape[0]} rows, but `{shaped[lengths.index(rows)].name}` has {rows}.",
                "Give every field one row per step.",
            )
        elif (
            field.name == "next_observations"
            and "observations" in sound
            and shape != sound["observations"].shape
        ):
            yield Problem(
                field.name,
                None,
                f"has shape {list(shape)}, but `observations` has shape "
                f"{list(sound['observations'].shape)}.",
                "Store both with the same features.",
            )
        else:
            sound[field.name] = sources[field.name]


def _type_problem(field: Field, source: Source) -> Problem | None:
    kind = np.dtype(source.dtype).kind
    if kind not in "biuf":
        contents = {"c": "complex numbers", "V": "records", "M": "dates", "m": "durations"}
        return Problem(
            field.name,
            None,
            f"holds {contents.get(kind, 'text or objects')} (type {source.dtype}) instead of real "
            "numbers.",
            "Store it as float32.",
        )
    shape = tuple(source.shape)
    if field.rank == 1 and len(shape) == 2 and shape[1] == 1:
        return None
    if len(shape) != field.rank:
        form = "[steps, features]" if field.rank == 2 else "[steps]"
        return Problem(
            field.name, None, f"has shape {list(shape)}.", f"Store it with the shape {form}."
        )
    if field.rank == 2 and shape[1] == 0:
        return Problem(field.name, None, "has no features.", "Store at least one feature per row.")
    return None


class _Scan:
    """Count of the faults in one field's values, with the first row of each."""

    def __init__(self, field: Field) -> None:
        self.field = field
        self.first: dict[str, int] = {}
        self.count: dict[str, int] = {}
        self.worst = 0.0
        self.marks = 0
        self.unreadable = False

    @property
    def faulty(self) -> bool:
        return self.unreadable or bool(self.first)

    def take(self, first: int, block: np.ndarray) -> np.ndarray:
        """Check a block and return it as float32, or as bool for a flag."""
        if self.field.rank == 1:
            block = block.reshape(len(block))
        if block.dtype.kind == "f":
            # A finite sum proves that all values are finite: a cheap first test.
            with np.errstate(over="ignore", invalid="ignore"):
                suspicious = not np.isfinite(block.sum(dtype=np.float64))
            if suspicious:
                self._note("NaN", first, np.isnan(block))
                self._note("infinite", first, np.isinf(block))
        if self.field.flag:
            with np.errstate(invalid="ignore"):
                flags = block != 0
                self._note("not 0 or 1", first, flags & (block != 1) & np.isfinite(block))
            self.marks += int(flags.sum())
            return np.asarray(flags, dtype=np.bool_)
        if block.dtype.kind == "b":
            return block.astype(np.float32)
        low, high = float(block.min()), float(block.max())
        if not max(-low, high) <= LARGEST:  # also where NaN
            with np.errstate(invalid="ignore"):
                size = np.abs(block.astype(np.float64))
            size[~np.isfinite(size)] = 0.0
            self.worst = max(self.worst, float(size.max()))
            self._note("too large", first, size > LARGEST)
        with np.errstate(over="ignore", invalid="ignore"):
            return block.astype(np.float32)

    def _note(self, fault: str, first: int, bad: np.ndarray) -> None:
        rows = np.flatnonzero(bad.reshape(len(bad), -1).any(axis=1))
        if len(rows):
            self.first.setdefault(fault, first + int(rows[0]))
            self.count[fault] = self.count.get(fault, 0) + len(rows)

    def problems(self) -> Iterator[Problem]:
        for fault, row in sorted(self.first.items(), key=lambda item: item[1]):
            message = f"is {fault}"
            fix = "Repair the value, or drop its episode."
            if fault == "too large":
                message = f"is above {LARGEST:g} in magnitude (largest {self.worst:g})"
                if self.worst > float(np.finfo(np.float32).max):
                    message += " and overflows float32, the type of all stored data"
                fix = "Rescale the field, or drop the episode."
            elif fault == "not 0 or 1":
                fix = "Store 1 where the step ends the episode, and 0 elsewhere."
            count = self.count[fault]
            yield Problem(self.field.name, row, f"{message} ({count} row{'s' * (count > 1)}).", fix)
