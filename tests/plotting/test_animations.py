import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from pgdiff.plotting import denoising_gif, episode_gif
from pgdiff.validation import PgdiffError


def opened(path: Path) -> tuple[list[np.ndarray], list[int]]:
    """The frames and times of a GIF that is valid, small and not blank."""
    assert path.read_bytes().startswith(b"GIF89a")
    assert path.stat().st_size < 1_000_000
    frames, times = [], []
    with Image.open(path) as image:
        assert image.info["loop"] == 0
        for index in range(image.n_frames):
            image.seek(index)
            frames.append(np.asarray(image.convert("RGB")))
            times.append(int(image.info["duration"]))
    assert all(len(np.unique(frame @ np.array([65536, 256, 1]))) > 5 for frame in frames)
    return frames, times


def noising(plan: Any, steps: int) -> tuple[list[np.ndarray], list[float]]:
    """Candidates from noise to clean, and their levels."""
    noise = np.random.default_rng(0).normal(size=plan.candidates.shape) + 2.0
    levels = [1.0 - step / steps for step in range(steps + 1)]
    return [level * noise + (1 - level) * plan.candidates for level in levels], levels


def test_denoising_has_a_frame_for_every_step(plan: Any, maze: Any, tmp_path: Path) -> None:
    frames, levels = noising(plan, 6)
    path = denoising_gif(frames, levels, tmp_path / "denoise.gif", env=maze, scores=plan.scores)
    pictures, times = opened(path)
    assert len(pictures) == 7
    assert times == [220] * 6 + [1500]
    assert all(not np.array_equal(a, b) for a, b in itertools.pairwise(pictures))
    # What stands still, stands still, in the environment's own colours.
    for picture in pictures:
        assert np.array_equal(picture[-40:, 40:60], pictures[0][-40:, 40:60])
    assert (pictures[0] == (69, 79, 97)).all(axis=-1).mean() > 0.3
    assert np.array_equal(pictures[0][0, 0], (255, 255, 255))


def test_many_steps_and_candidates_stay_small(plan: Any, maze: Any, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    clean = np.repeat(plan.candidates, 6, axis=0)
    levels = np.linspace(1, 0, 101).tolist()
    frames = [clean + level * rng.normal(0, 1.5, size=clean.shape) for level in levels]
    scores = rng.normal(size=len(clean))
    path = denoising_gif(frames, levels, tmp_path / "denoise.gif", env=maze, scores=scores)
    assert len(opened(path)[0]) == 30


def test_denoising_without_scores_or_environment(plan: Any, tmp_path: Path) -> None:
    frames, levels = noising(plan, 3)
    assert len(opened(denoising_gif(frames, levels, tmp_path / "a.gif"))[0]) == 4
    nothing = np.full(len(plan.scores), np.nan)
    path = denoising_gif(frames, levels, tmp_path / "b.gif", scores=nothing, goal=(1.0, 1.0))
    assert len(opened(path)[0]) == 4


def test_the_best_candidate_is_drawn_even_where_not_all_are(plan: Any, tmp_path: Path) -> None:
    frames, levels = noising(plan, 2)
    most = len(plan.scores) // 2
    low, high = -np.ones(len(plan.scores)), -np.ones(len(plan.scores))
    low[0], high[-1] = 1.0, 1.0
    first = denoising_gif(frames, levels, tmp_path / "a.gif", scores=low, max_candidates=most)
    last = denoising_gif(frames, levels, tmp_path / "b.gif", scores=high, max_candidates=most)
    assert not np.array_equal(opened(first)[0][-1], opened(last)[0][-1])


def test_episode_has_even_frames_and_holds_the_last(walks: Any, maze: Any, tmp_path: Path) -> None:
    path = episode_gif(walks[:121], tmp_path / "episode.gif", env=maze, max_frames=13)
    pictures, times = opened(path)
    assert len(pictures) == 13
    assert times == [80] * 12 + [1500]
    assert not np.array_equal(pictures[0], pictures[-1])


def test_episode_shows_the_plan_of_the_moment(
    walks: Any, plan: Any, maze: Any, tmp_path: Path
) -> None:
    plans = [None] * 10 + [plan] * 10
    path = episode_gif(walks[:21], tmp_path / "a.gif", env=maze, plans=plans)
    orange = [(p == (224, 128, 58)).all(axis=-1).sum() for p in opened(path)[0]]
    assert len(orange) == 21
    # Before there is a plan, the legend alone is orange.
    assert len(set(orange[:10])) == 1 and min(orange[10:]) > orange[0]


def test_an_episode_of_one_observation_is_drawn(tmp_path: Path) -> None:
    assert len(opened(episode_gif(np.ones((1, 2)), tmp_path / "episode.gif"))[0]) == 1


def test_same_episode_same_bytes(walks: Any, tmp_path: Path) -> None:
    first = episode_gif(walks[:9], tmp_path / "a.gif")
    again = episode_gif(walks[:9], tmp_path / "b.gif")
    assert first.read_bytes() == again.read_bytes()


def test_bad_arguments_are_named(plan: Any, walks: Any, tmp_path: Path) -> None:
    frames, levels = noising(plan, 2)
    target = tmp_path / "a.gif"
    with pytest.raises(PgdiffError, match="3 frames and 2 levels"):
        denoising_gif(frames, levels[:2], target)
    with pytest.raises(PgdiffError, match="`frames`"):
        denoising_gif([], [], target)
    with pytest.raises(PgdiffError, match="one shape"):
        denoising_gif([frames[0], frames[1][:1]], levels[:2], target)
    with pytest.raises(PgdiffError, match="`scores`"):
        denoising_gif(frames, levels, target, scores=np.zeros(3))
    with pytest.raises(PgdiffError, match=r"each of the 20 steps\. Got 1"):
        episode_gif(walks[:21], target, plans=[plan])
    with pytest.raises(PgdiffError, match=r"'\.gif'"):
        episode_gif(walks[:3], tmp_path / "a.mp4")
    with pytest.raises(PgdiffError, match="`max_frames`"):
        episode_gif(walks[:3], target, max_frames=0)
    assert list(tmp_path.iterdir()) == []
