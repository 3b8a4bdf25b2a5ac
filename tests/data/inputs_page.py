"""Writer of notebooks/docs/inputs.md: rejected inputs with their messages, and accepted inputs.

python tests/data/inputs_page.py
"""

import os
import sys
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path

FOLDER = Path(__file__).parent
sys.path.insert(0, str(FOLDER))
PAGE = FOLDER.parents[1] / "notebooks" / "docs" / "inputs.md"

HEAD = """# Valid and invalid inputs

Recordings come from HDF5 files (with D4RL's fields), Minari data sets, Stable-Baselines3 replay
buffers and arrays. All of them pass the same checks before they are used. `pgdiff check DATA` runs
only the checks and lists every fault; the loaders raise at the first fault. Every message names the
field, the row if there is one, and the fix. The tables are generated from the tests with
`python tests/data/inputs_page.py`. Damaged or hostile networks, checkpoints and run folders and
settings out of range are tested in `tests/training/test_bad_files.py` and `test_bad_inputs.py`,
environments and saved evaluations in `tests/evaluation/test_bad_inputs.py`.

A recording is also rejected if its `next_observations` are not the observations after each step, or
if it contains the rows that a vector environment adds to reset itself: values of one episode would
be learned from another episode. `load_episodes(..., repair=True)` loads it without the faulty
parts, and `pgdiff convert data=IN out=OUT repair=true` writes a repaired file. Rows of an autoreset
are dropped; `next_observations` are dropped as a whole. The successor of a row is then the next
row, and the successor of a cut-off episode's last row is unknown: that row is not used in a
transition, and `to_replay_buffer` drops it.

`pgdiff check` also prints hints, which do not prevent loading: if many episodes end with a terminal
after exactly as many rows as the longest episode, a time limit may have been recorded as a
terminal.
"""


def rejected() -> Iterator[tuple[str, str, list[tuple[str, str]]]]:
    """Yield heading, noun for the cases, and each case with its message."""
    from test_bad_inputs import ARRAYS, FILES, sound
    from test_bad_minari import MINARI

    from pgdiff.data import check, write_hdf5

    def message(source: object) -> str:
        (problem,) = check(str(source))
        return str(problem)

    rows = []
    for case, (spoil, *_) in ARRAYS.items():
        with tempfile.TemporaryDirectory() as folder:
            fields = sound()
            spoil(fields)
            rows.append((case, message(write_hdf5(Path(folder) / "bad.hdf5", fields))))
    yield "Rejected: arrays, in memory or in files", "arrays", rows
    rows = []
    for case, (build, *_) in FILES.items():
        with tempfile.TemporaryDirectory() as folder:
            rows.append((case, message(build(Path(folder))).replace(folder, "...")))
    yield "Rejected: files", "files", rows
    rows = []
    for case, (build_set, *_) in MINARI.items():
        with tempfile.TemporaryDirectory() as folder:
            os.environ["MINARI_DATASETS_PATH"] = folder
            build_set(Path(folder))
            rows.append((case, message("bad-v0").replace(folder, "...")))
    yield "Rejected: Minari data sets", "data sets", rows


def page() -> str:
    """Return the text of the page."""
    from test_sound import CASES

    parts = [HEAD]
    for heading, noun, rows in rejected():
        table = _table("input", "message", rows)
        parts.append(f"## {heading}\n\n{len(rows)} {noun}.\n\n{table}")
    names = ", ".join(CASES)
    parts.append(
        f"## Accepted\n\n{len(CASES)} unusual but valid recordings; values, marks and segments are "
        f"preserved.\n\n{names}.\n"
    )
    return "\n".join(parts)


def _table(first: str, second: str, rows: Iterable[tuple[str, str]]) -> str:
    lines = [f"| {first} | {second} |", "|---|---|"]
    for case, message in rows:
        words = " ".join(message.split()).replace("|", "\\|")
        lines.append(f"| {case} | {words} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
