"""The page of inputs has a row for every tested case."""

from inputs_page import PAGE
from test_bad_inputs import ARRAYS, FILES
from test_bad_minari import MINARI
from test_sound import CASES


def test_the_page_has_every_case() -> None:
    text = PAGE.read_text(encoding="utf-8")
    rows = [line.split(" | ")[0][2:] for line in text.splitlines() if line.startswith("| ")]
    assert rows.count("input") == 3
    assert [row for row in rows if row != "input"] == [*ARRAYS, *FILES, *MINARI]
    assert ", ".join(CASES) in text
