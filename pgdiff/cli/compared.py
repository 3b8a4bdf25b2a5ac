"""`pgdiff evaluate compare=[A,B]`: saved evaluations side by side, and what they differ by."""

from pathlib import Path
from typing import Any

from pgdiff.evaluation import Evaluation, aggregate, compare, comparison_table, load_evaluations
from pgdiff.evaluation.strata import further_metrics
from pgdiff.saving import check_writable
from pgdiff.validation import PgdiffError
from pgdiff.workflows.files import write_json

COMPARISON = "comparison.json"


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
    if out is not None:
        check_writable(out / COMPARISON)
    found = {str(file): load_evaluations(file) for file in files}
    rows: dict[str, Evaluation] = {}
    for name, evaluations in found.items():
        for number, evaluation in enumerate(evaluations):
            rows[f"{name} ({number})" if len(evaluations) > 1 else name] = evaluation
    print(comparison_table(rows))
    first, *others = found
    content: dict[str, Any] = {"rows": {}, "differences": {}}
    for name, evaluations in found.items():
        together = aggregate(evaluations)
        if len(evaluations) > 1:
            print(f"\n{name}\n{together}")
        content["rows"][name] = {**together.to_dict(), "further": further(evaluations)}
    print(f"\ndifference to {first} [95 %]")
    for name in others:
        content["differences"][name] = _difference(name, found[name], found[first])
    if out is not None:
        write_json(out / COMPARISON, content)
        print(f"comparison: {out}")
    return 0


def further(evaluations: list[Evaluation]) -> dict[str, Any]:
    """Aggregate the metrics beside the score, print them if they are of several runs."""
    content = {}
    for metric in further_metrics(evaluations):
        together = aggregate(evaluations, metric=metric)
        if len(evaluations) > 1:
            print(together)
        content[metric] = together.to_dict()
    return content


def _difference(name: str, a: list[Evaluation], b: list[Evaluation]) -> dict[str, Any]:
    """Print what two planners differ by, in every metric that both have."""
    difference = compare(a, b)
    print(f"  {name}  {difference}")
    also = {}
    for metric in further_metrics([*a, *b]):
        found = compare(a, b, metric=metric)
        print(f"    {metric}  {found}")
        also[metric] = found.to_dict()
    return {**difference.to_dict(), "further": also}
