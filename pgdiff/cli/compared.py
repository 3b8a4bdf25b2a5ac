"""`pgdiff evaluate compare=[A,B]`: saved evaluations side by side, and what they differ by."""

from pathlib import Path
from typing import Any

from pgdiff.evaluation import Evaluation, aggregate, compare, comparison_table, load_evaluations
from pgdiff.validation import PgdiffError
from pgdiff.workflows.files import write_json


def show(files: list[Path], out: Path | None) -> int:
    """Print a row for each evaluation, and the difference of each to the first.

    Args:
        files: saved evaluations, or folders of them; several training seeds where a folder holds
            several.
        out: a folder for `comparison.json`, or None.
    """
    if len(files) < 2:
        raise PgdiffError(f"`compare` must name at least 2 evaluations. Got {len(files)}.")
    if len(set(files)) < len(files):
        raise PgdiffError("`compare` must name each evaluation once.")
    found = {str(file): load_evaluations(file) for file in files}
    rows: dict[str, Evaluation] = {}
    for name, evaluations in found.items():
        for number, evaluation in enumerate(evaluations):
            rows[f"{name} ({number})" if len(evaluations) > 1 else name] = evaluation
    print(comparison_table(rows))
    first, *others = found
    content: dict[str, Any] = {"rows": {}, "differences": {}}
    for name, evaluations in found.items():
        content["rows"][name] = aggregate(evaluations).to_dict()
        if len(evaluations) > 1:
            print(f"\n{name}\n{aggregate(evaluations)}")
    print(f"\ndifference to {first} [95 %]")
    for name in others:
        difference = compare(found[name], found[first])
        content["differences"][name] = difference.to_dict()
        print(f"  {name}  {difference}")
    if out is not None:
        write_json(out / "comparison.json", content)
        print(f"comparison: {out}")
    return 0
