import importlib.util
import json
from pathlib import Path
from types import ModuleType

import pytest

HERE = Path(__file__).parent


def program() -> ModuleType:
    spec = importlib.util.spec_from_file_location("plan_truth_page", HERE / "plan_truth_page.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_page_shows_what_the_files_hold(tmp_path: Path) -> None:
    page = program()
    names = [name for name, _ in (*page.WALLS, *page.WAYS, *page.REWARDS)]
    figure = {"value": 0.125, "low": 0.1, "high": 0.15}
    row = dict.fromkeys(names, figure) | {"nats": None}
    content = {
        "rows": {"recorded": row, "guided": row | {"miss_first": {**figure, "value": 12.34}}},
        "value": {"name": "value", "recorded": figure, "at_rest": figure},
        "limits": {"clearance": 0.24, "miss": None, "unit": "metres"},
        "settings": {"env": "maze", "agent": "mine", "starts": 1000, "seed": 7, "likelihood": 64},
        "seconds": 120.0,
    }
    (tmp_path / "truth.json").write_text(json.dumps(content))
    target = tmp_path / "page.md"
    target.write_text(f"Before.\n\n{page.BEGIN}\nold\n{page.END}\n\nAfter.\n")
    for _ in range(2):  # the second time changes nothing
        page.main([str(tmp_path), "--page", str(target)])
        text = target.read_text()
        assert text.startswith("Before.") and text.endswith("After.\n") and "old" not in text
        assert text.count(page.BEGIN) == text.count(page.END) == 1
        assert "| maze | recorded | 12.5 % [10.0, 15.0] |" in text
        assert "| maze | guided | 12.3 [0.1, 0.1] |" in text
        assert "1,000 recorded starts outside the goal, seed 7; the likelihood of 64" in text
        assert "| maze | value | 0.12 [0.10, 0.15] |" in text
    with pytest.raises(ValueError, match="must hold the lines"):
        page.replaced("no marks", "text")


def test_every_column_of_the_table_is_measured() -> None:
    page = program()
    from pgdiff.evaluation.plan_truth.report import COLUMNS

    measured = {column.name for column in COLUMNS}
    assert {name for name, _ in (*page.WALLS, *page.WAYS, *page.REWARDS)} <= measured
