"""The pages of notebooks/docs keep their word: every snippet runs, every link leads somewhere."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "readme"))
from snippets import anchors, blocks, compiled, links

ROOT = Path(__file__).parents[2]
PAGES = sorted((ROOT / "notebooks" / "docs").glob("*.md"))
names = pytest.mark.parametrize("page", PAGES, ids=[page.name for page in PAGES])


def test_there_is_a_page_on_extending() -> None:
    assert "extending.md" in [page.name for page in PAGES]


@names
@pytest.mark.usefixtures("unchecked", "own_registry")
def test_python(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All snippets of a page, in the reader's order, in one namespace."""
    monkeypatch.chdir(tmp_path)
    namespace: dict[str, object] = {"__name__": "__main__"}
    for block in blocks(page.read_text(encoding="utf-8")):
        if block.language == "python":
            exec(compiled(block, str(page)), namespace)


@names
def test_links(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    missing = [
        target
        for target in links(text)
        if (target.startswith("#") and target[1:] not in anchors(text))
        or not (page.parent / target.partition("#")[0]).exists()
    ]
    assert missing == []


def test_the_solver_of_the_page_is_short() -> None:
    text = (ROOT / "notebooks" / "docs" / "extending.md").read_text(encoding="utf-8")
    (block,) = [block for block in blocks(text) if '@register("solver"' in block.text]
    lines = block.text.splitlines()
    start = next(index for index, line in enumerate(lines) if line.startswith("@register"))
    end = next(index for index, line in enumerate(lines) if line.startswith("figures"))
    code = [line for line in lines[start:end] if line.strip()]
    print(f"\nthe solver has {len(code)} lines")
    assert len(code) <= 20
