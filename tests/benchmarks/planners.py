"""Scores of a planner with one changed setting in each row.

python tests/benchmarks/planners.py RUN --rows medium --out FOLDER [--episodes 50] [--seed 0]
python tests/benchmarks/planners.py RUN --rows goals --out FOLDER --words \\
    env=pgdiff_envs:multi2d-medium-v1 guide=goal_value

RUN is a finished run of the recipe `strided`. Rows that train replace stages in a copy of it. All
rows use the same environment seeds, so that differences to the first row are paired. Existing
results are kept, so that an interrupted table can be continued.
"""

import argparse
import json
import shutil
from collections.abc import Sequence
from pathlib import Path

from planner_rows import ROWS, Row, named

from pgdiff.cli.main import main as pgdiff
from pgdiff.evaluation import Evaluation, compare, load_evaluations

WORDS = "words.json"
"""File in the folder of a row, and of its stages, with the words of its command."""


def done(row: Row, options: argparse.Namespace) -> Evaluation:
    """Train and evaluate a row, or read its earlier result."""
    folder: Path = options.out / named(row.label)
    run: Path = options.run
    if row.train or row.run:
        run = options.out / "runs" / named(row.run or row.label)
    if row.train:
        trained(run, row, options.run)
    words = [f"run={run}", f"out={folder}", f"seed={options.seed}", "pictures=false"]
    words.append(f"episodes={row.episodes or options.episodes}")
    words += [*options.words, *row.evaluate]
    if not made(folder, words):
        call("evaluate", *words)
        (folder / WORDS).write_text(json.dumps(words))
    return load_evaluations(folder / "evaluation.json")[0]


def trained(run: Path, row: Row, base: Path) -> None:
    """Train stages in a copy of the base."""
    words = [f"base={run}", "overwrite=true", *row.train]
    if made(run, words):
        return
    shutil.rmtree(run, ignore_errors=True)
    shutil.copytree(base, run, ignore=shutil.ignore_patterns("evaluation*", "logs", "pictures"))
    call("train", *words)
    (run / WORDS).write_text(json.dumps(words))


def made(folder: Path, words: Sequence[str]) -> bool:
    """Return True if a folder was made with these arguments."""
    file = folder / WORDS
    if not file.is_file():
        return False
    if json.loads(file.read_text()) != list(words):
        raise SystemExit(f"{folder} was made with other settings: name another --out.")
    return True


def call(*words: str) -> None:
    """Run a command of pgdiff."""
    print("pgdiff", *words, flush=True)
    if pgdiff(list(words)) != 0:
        raise SystemExit(1)


def line(row: Row, result: Evaluation, other: Evaluation | None) -> str:
    """Return one line of the table as Markdown."""
    summary = result.summary()
    score, low, high = _with_interval(summary["normalized_score"])
    missed = 100 * (1 - summary["success_rate"]["mean"])
    cells = [row.label, f"{score:.1f} [{low:.1f}, {high:.1f}]"]
    if other is None:
        cells.append("")
    else:
        gap = compare(result, other).difference
        cells.append(f"{gap.value:+.1f} [{gap.low:+.1f}, {gap.high:+.1f}]")
    cells += [f"{missed:.0f} %", f"{result.milliseconds_per_plan:.0f}"]
    return "| " + " | ".join(cells) + " |"


def _with_interval(result: dict[str, object]) -> tuple[float, float, float]:
    low, high = result["interval"]  # type: ignore[misc]
    return float(result["mean"]), low, high  # type: ignore[arg-type]


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path)
    parser.add_argument("--rows", choices=ROWS, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--episodes", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--words", nargs="*", default=[], help="settings of every `pgdiff evaluate`"
    )
    options = parser.parse_args(argv)
    results: dict[str, Evaluation] = {}
    lines = [
        "| | score | difference | never arrives | ms a plan |",
        "|---|---|---|---|---|",
    ]
    rows = ROWS[options.rows]
    for row in rows:
        results[row.label] = done(row, options)
        first = None if row is rows[0] else results[row.to or rows[0].label]
        lines.append(line(row, results[row.label], first))
        (options.out / "table.md").write_text("\n".join(lines) + "\n")
        print(lines[-1], flush=True)
    print("\n".join(lines))


if __name__ == "__main__":
    main()
