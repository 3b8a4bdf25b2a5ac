import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from pgdiff.core.validation import PgdiffError
from pgdiff.plotting import denoising_gif, episode_gif


def opened(path: Path) -> tuple[list[np.ndarray], list[int]]:
    """Return the frames and times of a GIF that is valid, small and not blank."""
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
    """Return candidates from noise to clean, and their levels."""
    noise = np.random.default_rng(0).normal(size=plan.candidates.shape) + 2.0
    levels = [1.0 - step / steps for step in range(steps + 1)]
    return [level * noise + (1 - level) * plan.candidates for level in levels], levels


def test_denoising_has_a_frame_for_every_step(plan: Any, maze: Any, tmp_path: Path) -> None:
    frames, levels = noising(plan, 4)
    path = denoising_gif(frames, levels, tmp_path / "denoise.gif", env=maze, scores=plan.scores)
    pictures, times = opened(path)
    assert len(pictures) == 5
    assert times == [220] * 4 + [1500]
    assert all(not np.array_equal(a, b) for a, b in itertools.pairwise(pictures))
    # Whatever does not move keeps the environment's colours.
    for picture in pictures:
        assert np.array_equal(picture[-40:, 40:60], pictures[0][-40:, 40:60])
    assert (pictures[0] == (69, 79, 97)).all(axis=-1).mean() > 0.3
    assert np.array_equal(pictures[0][0, 0], (255, 255, 255))


def many_steps(plan: Any, maze: Any, path: Path, *, steps: int, **options: Any) -> int:
    """Draw many noisy candidates and return the number of frames of a GIF that is small."""
    rng = np.random.default_rng(0)
    clean = np.repeat(plan.candidates, 6, axis=0)
    levels = np.linspace(1, 0, steps).tolist()
    frames = [clean + level * rng.normal(0, 1.5, size=clean.shape) for level in levels]
    scores = rng.normal(size=len(clean))
    return len(opened(denoising_gif(frames, levels, path, env=maze, scores=scores, **options))[0])


def test_of_many_steps_an_even_choice_is_shown(plan: Any, maze: Any, tmp_path: Path) -> None:
    assert many_steps(plan, maze, tmp_path / "denoise.gif", steps=21, max_frames=6) == 6


@pytest.mark.slow
def test_many_steps_and_candidates_stay_small(plan: Any, maze: Any, tmp_path: Path) -> None:
    assert many_steps(plan, maze, tmp_path / "denoise.gif", steps=101) == 30


def test_denoising_without_scores_or_environment(plan: Any, tmp_path: Path) -> None:
    frames, levels = noising(plan, 1)
    assert len(opened(denoising_gif(frames, levels, tmp_path / "a.gif"))[0]) == 2
    nothing = np.full(len(plan.scores), np.nan)
    look: Any = {"scores": nothing, "position": (0, 1), "goal": (1.0, 1.0)}
    path = denoising_gif(frames, levels, tmp_path / "b.gif", **look)
    assert len(opened(path)[0]) == 2


def test_the_best_candidate_is_drawn_even_where_not_all_are(plan: Any, tmp_path: Path) -> None:
    frames, levels = noising(plan, 1)
    most = len(plan.scores) // 2
    low, high = -np.ones(len(plan.scores)), -np.ones(len(plan.scores))
    low[0], high[-1] = 1.0, 1.0
    look: Any = {"max_candidates": most, "position": (0, 1)}
    first = denoising_gif(frames, levels, tmp_path / "a.gif", scores=low, **look)
    last = denoising_gif(frames, levels, tmp_path / "b.gif", scores=high, **look)
    assert not np.array_equal(opened(first)[0][-1], opened(last)[0][-1])


def test_episode_has_even_frames_and_holds_the_last(walks: Any, maze: Any, tmp_path: Path) -> None:
    path = episode_gif(walks[:121], tmp_path / "episode.gif", env=maze, max_frames=7)
    pictures, times = opened(path)
    assert len(pictures) == 7
    assert times == [80] * 6 + [1500]
    assert not np.array_equal(pictures[0], pictures[-1])


def test_episode_shows_the_plan_of_the_moment(
    walks: Any, plan: Any, maze: Any, tmp_path: Path
) -> None:
    plans = [None] * 4 + [plan] * 4
    path = episode_gif(walks[:9], tmp_path / "a.gif", env=maze, plans=plans)
    orange = [(p == (224, 128, 58)).all(axis=-1).sum() for p in opened(path)[0]]
    assert len(orange) == 9
    # Before the first plan, only the legend is orange.
    assert len(set(orange[:4])) == 1 and min(orange[4:]) > orange[0]


def test_an_episode_of_one_observation_is_drawn(tmp_path: Path) -> None:
    assert len(opened(episode_gif(np.ones((1, 2)), tmp_path / "episode.gif"))[0]) == 1


def test_same_episode_same_bytes(walks: Any, tmp_path: Path) -> None:
    first = episode_gif(walks[:4], tmp_path / "a.gif", position=(0, 1))
    again = episode_gif(walks[:4], tmp_path / "b.gif", position=(0, 1))
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
        episode_gif(walks[:3], tmp_path / "a.mp4", position=(0, 1))
    with pytest.raises(PgdiffError, match="`max_frames`"):
        episode_gif(walks[:3], target, max_frames=0)
    assert list(tmp_path.iterdir()) == []
