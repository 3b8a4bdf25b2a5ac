import dataclasses
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from pgdiff.core.validation import PgdiffError
from pgdiff.plotting import comparison_picture, coverage_picture, loss_picture, plan_picture

MARK_OF_THE_ENVIRONMENT = (255, 0, 255)


def opened(path: Path) -> np.ndarray:
    """Return the pixels of a PNG that is valid, not blank, and has no half-written sibling."""
    assert path.read_bytes().startswith(b"\x89PNG")
    assert [file.name for file in path.parent.iterdir()] == [path.name]
    with Image.open(path) as image:
        image.load()
        pixels = np.asarray(image.convert("RGB"))
    assert min(pixels.shape[:2]) >= 300
    assert len(np.unique(pixels @ np.array([65536, 256, 1]))) > 20
    return pixels


def near(pixels: np.ndarray, colour: tuple[int, int, int], tolerance: int = 12) -> int:
    """Return the number of pixels of about this colour."""
    distance = np.abs(pixels.astype(int) - np.array(colour)).max(axis=-1)
    return int((distance <= tolerance).sum())


def test_plan_picture_shows_all_its_parts(plan: Any, maze: Any, tmp_path: Path) -> None:
    pixels = opened(plan_picture(plan, tmp_path / "plan.png", env=maze, score_label="value"))
    assert near(pixels, (69, 79, 97)) > 1_000  # the walls that the environment draws
    assert near(pixels, (209, 73, 91)) > 30  # the star of the goal
    assert near(pixels, (31, 41, 51)) > 300  # the chosen plan
    assert near(pixels, MARK_OF_THE_ENVIRONMENT) == 0  # its state at another moment is left out


def test_same_plan_same_picture_and_another_another(
    plan: Any, unscored: Any, maze: Any, tmp_path: Path
) -> None:
    first = plan_picture(plan, tmp_path / "a" / "plan.png", env=maze)
    again = plan_picture(plan, tmp_path / "b" / "plan.png", env=maze)
    other = plan_picture(unscored, tmp_path / "c" / "plan.png", env=maze)
    assert first.read_bytes() == again.read_bytes()
    assert first.read_bytes() != other.read_bytes()


def test_a_plan_without_environment_scores_or_goal_is_drawn(unscored: Any, tmp_path: Path) -> None:
    pixels = opened(plan_picture(unscored, tmp_path / "plan.png"))
    assert near(pixels, (209, 73, 91)) == 0


def test_a_plan_of_equal_scores_is_drawn(plan: Any, tmp_path: Path) -> None:
    flat = dataclasses.replace(plan, scores=np.zeros(len(plan.scores)), goal=np.array([2.0, 3.0]))
    opened(plan_picture(flat, tmp_path / "plan.png"))


def test_comparison_shares_its_scale_and_draws_both_places(
    plan: Any, unscored: Any, maze: Any, tmp_path: Path
) -> None:
    path = comparison_picture(unscored, plan, tmp_path / "both.png", env=maze)
    pixels = opened(path)
    assert maze.drawn == 2
    half = pixels.shape[1] // 2
    assert near(pixels[:, :half], (69, 79, 97)) > 1_000
    assert near(pixels[:, half:], (69, 79, 97)) > 1_000


def test_coverage_shows_where_and_how_fast(walks: Any, maze: Any, tmp_path: Path) -> None:
    both = opened(coverage_picture(walks, tmp_path / "coverage.png", env=maze))
    alone = opened(coverage_picture(walks[:, :2], tmp_path / "coverage.png", velocity=None))
    assert both.shape[1] > alone.shape[1]


def test_coverage_of_one_place_is_drawn(tmp_path: Path) -> None:
    opened(coverage_picture(np.ones((5, 4)), tmp_path / "coverage.png"))


def test_losses_from_rows_and_from_their_file_are_equal(tmp_path: Path) -> None:
    rows = [
        {"step": step, "train/loss": 1.0 / (1 + step), "train/value_loss": 0.1, "time/fps": 9}
        for step in range(100)
    ]
    rows[50]["validation/loss"] = 0.2
    rows[60]["train/loss"] = float("nan")
    file = tmp_path / "run" / "metrics.jsonl"
    file.parent.mkdir()
    file.write_text("\n".join(json.dumps(row) for row in rows) + "\n\n")
    first = loss_picture(rows, tmp_path / "a" / "loss.png", title="umaze")
    again = loss_picture(file, tmp_path / "b" / "loss.png", title="umaze")
    assert np.array_equal(opened(first), opened(again))
    chosen = loss_picture(rows, tmp_path / "c" / "loss.png", keys=["time/fps"])
    assert not np.array_equal(opened(first), opened(chosen))


def test_losses_below_zero_are_drawn(tmp_path: Path) -> None:
    opened(loss_picture([{"step": 0, "loss": -1.0}, {"step": 1, "loss": 2.0}], tmp_path / "l.png"))


def test_a_file_without_losses_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "metrics.jsonl"
    for content, message in (
        ("", "`history`"),
        ('{"step": 1, "reward": 2}', "`history`"),
        ('{"step": 1, "loss": 2}\n{"step": ', "line 2"),
        ("[1, 2]", "line 1.*object"),
    ):
        file.write_text(content)
        with pytest.raises(PgdiffError, match=message):
            loss_picture(file, tmp_path / "loss.png")
    assert list(tmp_path.iterdir()) == [file]


def test_bad_arguments_are_named(plan: Any, walks: Any, tmp_path: Path) -> None:
    with pytest.raises(PgdiffError, match=r"'\.png'"):
        plan_picture(plan, tmp_path / "plan.jpg")
    with pytest.raises(PgdiffError, match="`position`"):
        coverage_picture(walks[:, :1], tmp_path / "coverage.png", position=(0, 1))
    with pytest.raises(PgdiffError, match="`observations`"):
        coverage_picture(walks[:, :3], tmp_path / "coverage.png", position=(0, 1))
    with pytest.raises(PgdiffError, match="`bins`"):
        coverage_picture(walks, tmp_path / "coverage.png", bins=0)
    with pytest.raises(PgdiffError, match="readable"):
        loss_picture(tmp_path / "absent.jsonl", tmp_path / "loss.png")
    assert list(tmp_path.iterdir()) == []


def test_a_failed_write_leaves_the_old_picture(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [{"step": 0, "loss": 1.0}, {"step": 1, "loss": 0.5}]
    path = loss_picture(rows, tmp_path / "loss.png")
    before = path.read_bytes()

    def fail(*_: Any) -> None:
        raise OSError("disk full")

    monkeypatch.setattr("os.fsync", fail)
    with pytest.raises(PgdiffError, match="disk full"):
        loss_picture(rows, path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_pyplot_is_never_named() -> None:
    folder = Path(__file__).parents[2] / "pgdiff"
    for file in folder.rglob("*.py"):
        assert not re.search(r"import.*pyplot|pyplot.*import|\.pyplot\b", file.read_text()), file


@pytest.mark.slow
def test_pyplot_is_never_loaded(tmp_path: Path) -> None:
    code = (
        "import sys, numpy as np\n"
        "from pgdiff.plotting import coverage_picture, episode_gif\n"
        "assert 'matplotlib' not in sys.modules\n"
        f"coverage_picture(np.random.default_rng(0).normal(size=(50, 4)), {str(tmp_path)!r}"
        " + '/a.png')\n"
        f"episode_gif(np.ones((3, 2)), {str(tmp_path)!r} + '/a.gif')\n"
        "assert 'matplotlib.pyplot' not in sys.modules\n"
    )
    root = Path(__file__).parents[2]
    subprocess.run([sys.executable, "-c", code], check=True, cwd=root)


def test_a_missing_package_names_its_extra(
    plan: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(PgdiffError, match=r"pgdiff-rl\[viz\]"):
        plan_picture(plan, tmp_path / "plan.png")
