"""Phrases that the project's prose never uses: `phrases.txt`. Everything else is judged by reading.

Only whole words count, in code as well as in prose. A phrase may be broken over lines, comments
and string literals.
"""

import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
PHRASES = Path(__file__).with_name("phrases.txt")

FOLDERS = (
    "CHANGELOG.md",
    "README.md",
    "configs",
    "envs/pgdiff_envs",
    "notebooks/docs",
    "pgdiff/agents",
    "pgdiff/cli",
    "pgdiff/core",
    "pgdiff/critics",
    "pgdiff/data",
    "pgdiff/denoisers",
    "pgdiff/diffusion",
    "pgdiff/dynamics",
    "pgdiff/evaluation",
    "pgdiff/guides",
    "pgdiff/model",
    "pgdiff/nn",
    "pgdiff/planning",
    "pgdiff/plotting",
    "pgdiff/runs",
    "pgdiff/synthesis",
    "pgdiff/testing",
    "pgdiff/training",
    "pgdiff/trajectory.py",
    "pgdiff/workflows",
    "tests",
)
"""Folders and files that are searched."""

EXCLUDED = {
    "tests/evaluation/test_results.py",
    "tests/golden/entries.py",
    "tests/packaging/test_signatures.py",
    "tests/packaging/test_words.py",
}
"""Tests that contain lists of phrases, or names from stored files, which never change."""

SUFFIXES = {".md", ".py", ".yaml"}


def phrases() -> list[str]:
    lines = PHRASES.read_text(encoding="utf-8").splitlines()
    return [line for line in lines if line and not line.startswith("#")]


def pattern(words: list[str]) -> re.Pattern[str]:
    # Between two words: white space, the start of a comment line, the seam of two string literals.
    alternatives = (
        re.escape(phrase).replace(r"\ ", r"[\s#]+(?:\"[\s#]*f?\")?") for phrase in words
    )
    return re.compile(rf"(?<![\w'])(?:{'|'.join(alternatives)})(?![\w-])", re.IGNORECASE)


def hits(text: str, wanted: re.Pattern[str]) -> Iterator[tuple[int, str]]:
    """Yield the number of the line in which each phrase begins, and the phrase."""
    for match in wanted.finditer(text):
        yield text.count("\n", 0, match.start()) + 1, " ".join(match.group().split())


def files() -> list[Path]:
    """Return tracked or new files in `FOLDERS` that are not in `EXCLUDED`."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z", "--", *FOLDERS],
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    paths = (ROOT / name for name in sorted({*listed.split("\0")} - EXCLUDED) if name)
    return [path for path in paths if path.suffix in SUFFIXES and path.is_file()]


def test_prose_uses_no_phrase_of_the_list() -> None:
    wanted = pattern(phrases())
    lines = [
        f"{path.relative_to(ROOT)}:{number}: {phrase!r}"
        for path in files()
        for number, phrase in hits(path.read_text(encoding="utf-8"), wanted)
    ]
    assert not lines, "Say it in other words (see `phrases.txt`):\n" + "\n".join(lines)


def test_every_folder_is_there() -> None:
    names = [path.relative_to(ROOT).as_posix() for path in files()]
    for folder in FOLDERS:
        assert any(name.startswith(folder) for name in names), folder


def test_the_search_finds_whole_phrases_only() -> None:
    wanted = pattern(phrases())
    for text, line in (
        ("It is no number.", 1),
        ('"""One line.\n\nA name is\n    no number."""', 3),
        ("x = 1\n# what is\n# no number", 2),
        ('f"It is "\n    "no number"', 1),
        ("It was Told.", 1),
        ("a rule of one's own", 1),
    ):
        assert [number for number, _ in hits(text, wanted)] == [line], text
    for text in (
        "recommended",
        "the latest",
        "is not",
        "is no-op",
        "_told",
        "renewed",
        "this nose",
    ):
        assert not list(hits(text, wanted)), text
