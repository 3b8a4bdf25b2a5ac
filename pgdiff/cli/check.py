"""`pgdiff check`: the faults of a data file."""

from pgdiff.data import check


def run(path: str) -> int:
    """Print each fault and each hint; 1 if there is a fault."""
    found = check(path)
    for problem in found:
        row = "" if problem.row is None else f", row {problem.row}"
        hint = "hint: " if problem.hint else ""
        print(f"{hint}{problem.field}{row}: {problem.message} {problem.mend}")
    count = sum(not problem.hint for problem in found)
    print(f"{path}: {count or 'no'} problem{'' if count == 1 else 's'} found")
    return 1 if count else 0
