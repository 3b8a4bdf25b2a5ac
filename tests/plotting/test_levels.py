import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from pgdiff.core.validation import PgdiffError
from pgdiff.plotting import level_gif, level_picture


def pyramid(plan: Any, tokens: int = 8) -> tuple[np.ndarray, np.ndarray]:
    """Return levels of a pyramid of 4 steps, and a plan that becomes clean token by token."""
    rows = np.arange(4 + tokens)
    levels = np.clip((4 + np.arange(tokens) - rows[:, None]) / 4, 0.0, 1.0)
    way = plan.observations[:tokens]
    noise = np.random.default_rng(0).normal(2.0, 1.0, (len(rows), *way.shape))
    return levels, (1 - levels[..., None]) * way + levels[..., None] * noise


def test_the_matrix_beside_the_plan(plan: Any, maze: Any, tmp_path: Path) -> None:
    levels, frames = pyramid(plan)
    for env in (maze, None):
        path = level_picture(levels, frames, tmp_path / "levels.png", env=env, panels=3)
        _check_matrix(path, walls=env is maze)


def _check_matrix(path: Path, *, walls: bool) -> None:
    with Image.open(path) as image:
        width, height = image.size
        assert 1500 < width < 2100 and 400 < height < 600
        shown = np.asarray(image.convert("RGB"))
    assert len(np.unique(shown @ np.array([65536, 256, 1]))) > 50
    if walls:
        # A wall in each of three panels, and none in the heat map.
        wall = (shown == (69, 79, 97)).all(axis=-1).any(axis=0)
        assert int((np.diff(wall.astype(int)) == 1).sum()) >= 3


def test_a_frame_for_every_row(plan: Any, maze: Any, tmp_path: Path) -> None:
    levels, frames = pyramid(plan)
    path = level_gif(levels, frames, tmp_path / "levels.gif", env=maze, max_frames=5)
    assert path.stat().st_size < 1_000_000
    pictures, times = [], []
    with Image.open(path) as image:
        for index in range(image.n_frames):
            image.seek(index)
            pictures.append(np.asarray(image.convert("RGB")))
            times.append(int(image.info["duration"]))
    assert times == [160] * 4 + [1500]
    assert all(not np.array_equal(a, b) for a, b in itertools.pairwise(pictures))


@pytest.mark.usefixtures("unchecked")
def test_bad_input_is_named(plan: Any, tmp_path: Path) -> None:
    levels, frames = (part[:3] for part in pyramid(plan, tokens=3))
    for draw, suffix in ((level_picture, "png"), (level_gif, "gif")):
        path = tmp_path / f"levels.{suffix}"
        for bad in ((levels[1:], frames), (levels[:, 1:], frames), (levels[0], frames[0])):
            with pytest.raises(PgdiffError, match=r"`levels` must have shape \[rows, tokens\]"):
                draw(*bad, path)
        assert not path.exists()
    with pytest.raises(PgdiffError, match="`panels` must be"):
        level_picture(levels, frames, tmp_path / "levels.png", panels=0)
