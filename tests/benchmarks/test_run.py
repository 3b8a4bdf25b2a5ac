"""A run of the speed table, whose figures are not checked."""

import math
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
import run
from timing import Row, table


def test_quick(capsys: pytest.CaptureFixture[str]) -> None:
    rows = run.main(["--quick"])
    assert all(math.isfinite(row.value) for row in rows)
    figures = {(row.what, row.unit) for row in rows}
    assert figures >= {
        ("recording", "steps/s"),
        ("loading", "segments/s"),
        ("training, bare loop", "steps/s"),
        ("training, Trainer", "steps/s"),
        ("plan", "ms"),
    }
    for candidates in ("1 candidate", "64 candidates"):
        shares = [row.value for row in rows if row.unit == "%" and row.setting == candidates]
        assert len(shares) == 6
        assert sum(shares) == pytest.approx(100)
    out = capsys.readouterr().out
    assert "threads, torch" in out.splitlines()[0]
    assert all(row.what in out for row in rows)


def test_table() -> None:
    lines = table([Row("a", "of one", 1234567.8, "x/s"), Row("bb", "two", 0.51234, "")]).split("\n")
    assert [line.split() for line in lines[2:]] == [
        ["a", "of", "one", "1,234,568", "x/s"],
        ["bb", "two", "0.512"],
    ]
