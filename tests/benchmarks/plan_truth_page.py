"""Write the table of notebooks/docs/results.md from saved measurements.

    python -m pgdiff evaluate run=RUN truth=true
    python tests/benchmarks/plan_truth_page.py RUN/evaluation/truth.json ...

Each file is one planner of the table, in the given order. Pictures are not copied.
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pgdiff.core.serialization import write_whole

PAGE = Path(__file__).parents[2] / "notebooks" / "docs" / "results.md"
BEGIN, END = "<!-- results: begin -->", "<!-- results: end -->"

SHARES = ("cut_first", "cut_three", "cut_all", "through", "in_wall", "infeasible")
WALLS = (
    ("cut_first", "cuts a wall, leg 1"),
    ("cut_three", "legs 1 to 3"),
    ("cut_all", "any leg"),
    ("through", "goes through one"),
    ("in_wall", "way-points in walls"),
    ("infeasible", "infeasible legs"),
)
WAYS = (
    ("miss_first", "miss, way-point 1"),
    ("miss_middle", "middle"),
    ("miss_last", "last"),
    ("ends_near", "ends near"),
)
REWARDS = (
    ("promised", "promised"),
    ("achieved", "achieved"),
    ("gap", "difference"),
    ("error", "its size"),
    ("value_gap", "value, planned less driven end"),
    ("nats", "nats a feature"),
    ("unlikely", "below 1 %"),
)
PERCENT = (*SHARES, "ends_near", "unlikely")


def load(file: Path) -> dict[str, Any]:
    """Read one measurement; `file` may be the folder that holds it."""
    content: dict[str, Any] = json.loads(
        (file / "truth.json" if file.is_dir() else file).read_text(encoding="utf-8")
    )
    return content


def results(measurements: Sequence[dict[str, Any]]) -> str:
    """Return the tables as Markdown, a row for each kind of plans of each planner."""
    parts = [
        f"{_starts(measurements)} [95 % intervals].",
        "### Walls and legs",
        _table(measurements, WALLS),
        f"### One plan followed open loop (misses in {_units(measurements)})",
        _table(measurements, WAYS),
        "### Rewards, values and likelihood",
        _table(measurements, REWARDS),
        "### Values: rank correlation with the true way to the goal",
        _values(measurements),
        "### The planners",
        *(
            f"- **{one['settings']['env']}**: {one['settings']['agent']}; a wall is a clearance of "
            f"{_number(one['limits']['clearance'])}, a leg is feasible up to a miss of "
            f"{_number(one['limits']['miss'])}; {one['seconds'] / 60:.0f} minutes."
            for one in measurements
        ),
    ]
    text = "\n\n".join(part for part in parts if part)
    return text.replace(".\n\n- **", ".\n- **")


def replaced(page: str, text: str) -> str:
    """Return the page with the text between its two marks."""
    before, mark, rest = page.partition(BEGIN)
    _, other, after = rest.partition(END)
    if not mark or not other:
        raise ValueError(f"The page must hold the lines '{BEGIN}' and '{END}'.")
    return f"{before}{BEGIN}\n\n{text}\n\n{END}{after}"


def _starts(measurements: Sequence[dict[str, Any]]) -> str:
    counts = sorted({one["settings"]["starts"] for one in measurements})
    seeds = sorted({one["settings"]["seed"] for one in measurements})
    nats = sorted({one["settings"]["likelihood"] for one in measurements})
    return (
        f"{_listed(counts)} recorded starts outside the goal, seed {_listed(seeds)}; the "
        f"likelihood of {_listed(nats)} of them"
    )


def _units(measurements: Sequence[dict[str, Any]]) -> str:
    return " or ".join(sorted({one["limits"]["unit"] for one in measurements}))


def _listed(values: Sequence[int]) -> str:
    return " or ".join(f"{value:,}" for value in values)


def _table(measurements: Sequence[dict[str, Any]], columns: Sequence[tuple[str, str]]) -> str:
    lines = [
        "| task | plans | " + " | ".join(label for _, label in columns) + " |",
        "|---|---|" + "---|" * len(columns),
    ]
    for one in measurements:
        for name, row in one["rows"].items():
            cells = [_cell(row[column], percent=column in PERCENT) for column, _ in columns]
            lines.append(f"| {one['settings']['env']} | {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _values(measurements: Sequence[dict[str, Any]]) -> str:
    lines = ["| task | value | recorded states | the same places at rest |", "|---|---|---|---|"]
    for one in measurements:
        value = one["value"] or {"name": "-", "recorded": None, "at_rest": None}
        cells = [_cell(value["recorded"]), _cell(value["at_rest"])]
        lines.append(f"| {one['settings']['env']} | {value['name']} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _cell(figure: dict[str, float] | None, *, percent: bool = False) -> str:
    if figure is None:
        return "-"
    value, low, high = (figure[key] * (100 if percent else 1) for key in ("value", "low", "high"))
    if percent:
        return f"{value:.1f} % [{low:.1f}, {high:.1f}]"
    digits = 1 if abs(value) >= 10 else 2 if abs(value) >= 0.1 else 3
    return f"{value:.{digits}f} [{low:.{digits}f}, {high:.{digits}f}]"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def main(words: Sequence[str] | None = None) -> None:
    """Write the page."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("files", nargs="+", type=Path)
    parser.add_argument("--page", type=Path, default=PAGE)
    chosen = parser.parse_args(words)
    text = results([load(file) for file in chosen.files])
    write_whole(chosen.page, replaced(chosen.page.read_text(encoding="utf-8"), text))


if __name__ == "__main__":
    main()
