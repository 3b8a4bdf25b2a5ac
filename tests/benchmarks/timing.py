"""Rows of the speed table, and clocks."""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from unittest.mock import patch


@dataclass(frozen=True)
class Row:
    """One figure with its name, setting, value and unit."""

    what: str
    setting: str
    value: float
    unit: str


def table(rows: Sequence[Row]) -> str:
    """Return the rows under one line of headings."""
    cells = [("what", "setting", "value", "unit")]
    cells += [(row.what, row.setting, _figure(row.value), row.unit) for row in rows]
    widths = [max(len(cell[column]) for cell in cells) for column in range(4)]
    lines = []
    for what, setting, value, unit in cells:
        line = (what.ljust(widths[0]), setting.ljust(widths[1]), value.rjust(widths[2]), unit)
        lines.append("  ".join(line).rstrip())
    lines.insert(1, "  ".join("-" * width for width in widths))
    return "\n".join(lines)


def _figure(value: float) -> str:
    """Return a number with three decimals if it is small, and without decimals if it is large."""
    digits = 0 if abs(value) >= 1000 else 1 if abs(value) >= 10 else 3
    return f"{value:,.{digits}f}"


def seconds(work: Callable[[], Any]) -> float:
    """Return the wall-clock time of one call."""
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def timings(work: Callable[[], Any], *, repeats: int) -> list[float]:
    """Return the seconds of `repeats` calls, after one that warms up."""
    work()
    return [seconds(work) for _ in range(repeats)]


@dataclass
class Clock:
    """Sum of the time that is spent in some functions.

    Attributes:
        spent: seconds by label, including functions with other labels that are called.
    """

    spent: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def on(self, owner: Any, name: str, label: str) -> Iterator[None]:
        """Count calls of `owner.name` as `label` within the context."""
        original = getattr(owner, name)

        def timed(*args: Any, **kwargs: Any) -> Any:
            began = time.perf_counter()
            try:
                return original(*args, **kwargs)
            finally:
                elapsed = time.perf_counter() - began
                self.spent[label] = self.spent.get(label, 0.0) + elapsed

        with patch.object(owner, name, timed):
            yield
