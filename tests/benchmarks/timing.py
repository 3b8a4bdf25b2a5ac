"""Rows of the speed table, and clocks."""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from unittest.mock import patch


@dataclass(frozen=True)
class Row:
    """One figure: of what, in which setting, how much, of which unit."""

    what: str
    setting: str
    value: float
    unit: str


def table(rows: Sequence[Row]) -> str:
    """The rows under one line of headings."""
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
    """Three digits after the point of what is small, none of what is large."""
    digits = 0 if abs(value) >= 1000 else 1 if abs(value) >= 10 else 3
    return f"{value:,.{digits}f}"


def seconds(work: Callable[[], Any]) -> float:
    """Wall-clock time of one call."""
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def timings(work: Callable[[], Any], *, repeats: int) -> list[float]:
    """Seconds of some calls, after one that warms up."""
    work()
    return [seconds(work) for _ in range(repeats)]


@dataclass
class Clock:
    """Sums up the time that is spent in some functions.

    Attributes:
        spent: seconds by label. A label whose functions call those of another holds both.
    """

    spent: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def on(self, owner: Any, name: str, label: str) -> Iterator[None]:
        """Within it, calls of `owner.name` count as `label`."""
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
