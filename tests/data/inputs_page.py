"""Writes notebooks/docs/inputs.md: what is refused, in the very words, and what is accepted.

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

HEAD = """# What goes in

Recordings come from HDF5 files (D4RL's fields), Minari data sets, Stable-Baselines3 replay buffers
and arrays. All of them pass the same checks, before anything else happens; `pgdiff check DATA` runs
them alone and lists every fault, the loaders stop at the first. Each message names the field, the
row where there is one, and the fix. The tables are made from the tests
(`python tests/data/inputs_page.py`), and each row is one of them. Networks, checkpoints and run
folders that are damaged or hostile, and settings out of range, are tested likewise
(`tests/training/test_bad_files.py`, `test_bad_inputs.py`), and environments and saved evaluations
(`tests/evaluation/test_bad_inputs.py`).

A recording is refused as well where its `next_observations` are not what followed, or where it
holds the rows that a vector environment adds to reset itself: values of one episode would be
learned from another. `load_episodes(..., repair=True)` reads it without them, and
`pgdiff convert data=IN out=OUT repair=true` writes it so. Rows of an autoreset are left out;
`next_observations` are left out as a whole. Then the successor of a row is the row that follows,
and that of a cut episode's last row is unknown: no transition is made of it, and
`to_replay_buffer` leaves it out.

`pgdiff check` also prints hints, which refuse nothing: where many episodes end with a terminal
after exactly as many rows as the longest has, a time limit may have been recorded as a terminal.
"""


def refused() -> Iterator[tuple[str, str, list[tuple[str, str]]]]:
    """Heading, name of the cases, and each case with what is said of it."""
    from test_bad_inputs import ARRAYS, FILES, sound
    from test_bad_minari import MINARI

    from pgdiff.data import check, write_hdf5

    def message(place: object) -> str:
        (problem,) = check(str(place))
        return str(problem)

    rows = []
    for case, (spoil, *_) in ARRAYS.items():
        with tempfile.TemporaryDirectory() as folder:
            fields = sound()
            spoil(fields)
            rows.append((case, message(write_hdf5(Path(folder) / "bad.hdf5", fields))))
    yield "Refused: arrays, and files of such fields", "arrays", rows
    rows = []
    for case, (build, *_) in FILES.items():
        with tempfile.TemporaryDirectory() as folder:
            rows.append((case, message(build(Path(folder))).replace(folder, "...")))
    yield "Refused: files", "files", rows
    rows = []
    for case, (build_set, *_) in MINARI.items():
        with tempfile.TemporaryDirectory() as folder:
            os.environ["MINARI_DATASETS_PATH"] = folder
            build_set(Path(folder))
            rows.append((case, message("bad-v0").replace(folder, "...")))
    yield "Refused: Minari data sets", "data sets", rows


def page() -> str:
    """The whole page."""
    from test_sound import CASES

    parts = [HEAD]
    for heading, what, rows in refused():
        table = _table("input", "what is said", rows)
        parts.append(f"## {heading}\n\n{len(rows)} {what}.\n\n{table}")
    names = ", ".join(CASES)
    parts.append(
        f"## Accepted\n\n{len(CASES)} recordings that are odd and sound; values, marks and "
        f"segments come out as they went in.\n\n{names}.\n"
    )
    return "\n".join(parts)


def _table(first: str, second: str, rows: Iterable[tuple[str, str]]) -> str:
    lines = [f"| {first} | {second} |", "|---|---|"]
    for case, said in rows:
        words = " ".join(said.split()).replace("|", "\\|")
        lines.append(f"| {case} | {words} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
