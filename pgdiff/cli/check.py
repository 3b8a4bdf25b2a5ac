"""`pgdiff check`: the problems of a data file."""

from pgdiff.data import check


def run(path: str) -> int:
    """Print every problem and every hint; return 1 if the file has a problem, else 0."""
    problems = check(path)
    for problem in problems:
        row = "" if problem.row is None else f", row {problem.row}"
        hint = "hint: " if problem.hint else ""
        print(f"{hint}{problem.field}{row}: {problem.message} {problem.fix}")
    count = sum(not problem.hint for problem in problems)
    print(f"{path}: {count or 'no'} problem{'' if count == 1 else 's'} found")
    return 1 if count else 0
