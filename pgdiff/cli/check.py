"""`pgdiff check`: the faults of a data file."""

from pgdiff.data import check


def run(path: str) -> int:
    """Print each fault; 1 if there is one."""
    problems = check(path)
    for problem in problems:
        row = "" if problem.row is None else f", row {problem.row}"
        print(f"{problem.field}{row}: {problem.message} {problem.mend}")
    count = len(problems)
    print(f"{path}: {count or 'no'} problem{'' if count == 1 else 's'} found")
    return 1 if problems else 0
