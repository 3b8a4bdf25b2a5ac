import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from pgdiff.plotting import level_gif, level_picture
from pgdiff.validation import PgdiffError


def pyramid(plan: Any) -> tuple[np.ndarray, np.ndarray]:
    """Levels of a pyramid of 8 steps, and a plan that becomes clean token by token."""
    tokens = len(plan.observations)
    rows = np.arange(8 + tokens)
    levels = np.clip((8 + np.arange(tokens) - rows[:, None]) / 8, 0.0, 1.0)
    noise = np.random.default_rng(0).normal(2.0, 1.0, (len(rows), *plan.observations.shape))
    return levels, (1 - levels[..., None]) * plan.observations + levels[..., None] * noise


@pytest.mark.parametrize("place", ["maze", "none"])
def test_the_matrix_beside_the_plan(plan: Any, maze: Any, tmp_path: Path, place: str) -> None:
    levels, frames = pyramid(plan)
    path = level_picture(
        levels, frames, tmp_path / "levels.png", env=maze if place == "maze" else None, panels=3
    )
    with Image.open(path) as image:
        width, height = image.size
        assert 1500 < width < 2100 and 400 < height < 600
        shown = np.asarray(image.convert("RGB"))
    assert len(np.unique(shown.reshape(-1, 3), axis=0)) > 50
    if place == "maze":
        # A wall in each of three panels, and none in the heat map.
        wall = (shown == (69, 79, 97)).all(axis=-1).any(axis=0)
        assert int((np.diff(wall.astype(int)) == 1).sum()) >= 3


def test_a_frame_for_every_row(plan: Any, maze: Any, tmp_path: Path) -> None:
    levels, frames = pyramid(plan)
    path = level_gif(levels, frames, tmp_path / "levels.gif", env=maze, max_frames=9)
    assert path.stat().st_size < 1_000_000
    pictures, times = [], []
    with Image.open(path) as image:
        for index in range(image.n_frames):
            image.seek(index)
            pictures.append(np.asarray(image.convert("RGB")))
            times.append(int(image.info["duration"]))
    assert times == [160] * 8 + [1500]
    assert all(not np.array_equal(a, b) for a, b in itertools.pairwise(pictures))


@pytest.mark.usefixtures("unchecked")
def test_bad_input_is_named(plan: Any, tmp_path: Path) -> None:
    levels, frames = pyramid(plan)
    for draw, suffix in ((level_picture, "png"), (level_gif, "gif")):
        path = tmp_path / f"levels.{suffix}"
        for bad in ((levels[1:], frames), (levels[:, 1:], frames), (levels[0], frames[0])):
            with pytest.raises(PgdiffError, match=r"`levels` must have shape \[rows, tokens\]"):
                draw(*bad, path)
        with pytest.raises(PgdiffError, match="must end in"):
            draw(levels, frames, tmp_path / "levels.jpg")
        assert not path.exists()
    with pytest.raises(PgdiffError, match="`panels` must be"):
        level_picture(levels, frames, tmp_path / "levels.png", panels=0)
