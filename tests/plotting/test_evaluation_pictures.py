"""Pictures of episodes, values, reach and scores: right content, or a clear error."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from pgdiff.core.validation import PgdiffError
from pgdiff.plotting import (
    ShownEpisode,
    failures_picture,
    reach_picture,
    score_picture,
    value_picture,
    worst,
)

WALL, GOAL, INK = (69, 79, 97), (209, 73, 91), (31, 41, 51)


def opened(path: Path) -> np.ndarray:
    """Return the pixels of a PNG that is not blank and has no half-written sibling."""
    assert [file.name for file in path.parent.iterdir()] == [path.name]
    with Image.open(path) as image:
        pixels = np.asarray(image.convert("RGB"))
    assert len(np.unique(pixels @ np.array([65536, 256, 1]))) > 20
    return pixels


def near(pixels: np.ndarray, colour: tuple[int, int, int], tolerance: int = 12) -> np.ndarray:
    """Return rows and columns of the pixels of about this colour."""
    return np.argwhere(np.abs(pixels.astype(int) - np.array(colour)).max(axis=-1) <= tolerance)


def shown(walks: np.ndarray, count: int, **changes: Any) -> list[ShownEpisode]:
    ways = walks.reshape(20, 200, 4)
    return [
        ShownEpisode(
            trajectory=ways[number],
            seed=number,
            score=float(number),
            plans=[(step, ways[number, step : step + 60 : 6]) for step in range(0, 140, 10)],
            **changes,
        )
        for number in range(count)
    ]


class Walls:
    """A square of walls around a free middle, [0, 4] x [0, 4]; records its resets."""

    goal = np.array([1.0, 1.0])

    def __init__(self) -> None:
        self.unwrapped = self
        self.seeds: list[int] = []

    def reset(self, *, seed: int) -> Any:
        self.seeds.append(seed)
        self.goal = np.array([1.0 + seed % 2, 1.0])

    def draw(self, axes: Any, plan: Any = None) -> None:
        from matplotlib.collections import PatchCollection
        from matplotlib.patches import Circle, Rectangle

        corners = [(x, y) for x in range(4) for y in range(4) if {x, y} & {0, 3}]
        axes.add_collection(
            PatchCollection([Rectangle(c, 1, 1) for c in corners], facecolor="#454f61", zorder=1)
        )
        axes.add_patch(Circle(tuple(self.goal), 0.5, color="#e2574c", alpha=0.15, zorder=1.5))
        axes.set_xlim(0, 4)
        axes.set_ylim(0, 4)


def test_worst_are_those_that_never_arrived_then_the_lowest() -> None:
    scores = np.array([50.0, -5.0, 20.0, 90.0, -5.0])
    assert worst(scores, 3) == [1, 4, 2]
    steps = np.array([10.0, 8.0, np.nan, np.nan, 3.0])
    assert worst(scores, 4, steps_to_goal=steps) == [2, 3, 1, 4]
    assert worst(scores, 99) == [1, 4, 2, 0, 3]


def test_a_gallery_has_one_panel_for_each_episode(
    walks: np.ndarray, maze: Any, tmp_path: Path
) -> None:
    one = opened(failures_picture(shown(walks, 1), tmp_path / "1" / "f.png", env=maze))
    six = opened(failures_picture(shown(walks, 6), tmp_path / "6" / "f.png", env=maze))
    assert maze.drawn == 7
    assert six.shape[1] > 3 * one.shape[1] and six.shape[0] > 1.7 * one.shape[0]
    for pixels in (one, six):
        assert len(near(pixels, WALL)) > 1_000 and len(near(pixels, GOAL)) > 20
        assert len(near(pixels, INK)) > 200  # the way


def test_goals_of_each_episode_are_drawn_separately(walks: np.ndarray, tmp_path: Path) -> None:
    env = Walls()
    failures_picture(shown(walks, 3), tmp_path / "f.png", env=env)
    assert env.seeds == [0, 1, 2]


def test_plans_are_those_on_the_way_to_the_goal(walks: np.ndarray, tmp_path: Path) -> None:
    late = shown(walks, 1, steps_to_goal=200.0)
    early = shown(walks, 1, steps_to_goal=5.0)
    without = [dataclasses.replace(early[0], plans=())]
    never = shown(walks, 1, steps_to_goal=float("nan"))
    found = {
        name: opened(
            failures_picture(episodes, tmp_path / name / "f.png", plans=3, position=(0, 1))
        )
        for name, episodes in {"l": late, "e": early, "w": without, "n": never}.items()
    }
    first_of_all = near(found["e"], (68, 1, 84), 20)  # viridis' first colour: the plan of step 0
    assert len(first_of_all) > len(near(found["w"], (68, 1, 84), 20))
    third = near(found["l"], (33, 145, 140), 40)
    assert len(third) > len(near(found["e"][:, : found["e"].shape[1] // 2], (33, 145, 140), 40))
    assert not np.array_equal(found["l"], found["n"])  # another heading


def test_a_gallery_of_nothing_is_refused(tmp_path: Path) -> None:
    with pytest.raises(PgdiffError, match="at least one episode"):
        failures_picture([], tmp_path / "f.png")


def left(points: np.ndarray) -> np.ndarray:
    """Return a value that falls to the right, and is far off beneath the outer walls."""
    outside = (points[:, :2] < 0.9).any(axis=1) | (points[:, :2] > 3.1).any(axis=1)
    return np.where(outside, 1e3, -points[:, 0])


def test_a_value_lies_beneath_the_walls_and_its_colours_span_what_is_seen(tmp_path: Path) -> None:
    calls: list[np.ndarray] = []

    def value(points: np.ndarray) -> np.ndarray:
        calls.append(points)
        return left(points)

    pixels = opened(
        value_picture(value, tmp_path / "v.png", env=Walls(), observation=[9, 9, 0.5, -1])
    )
    (points,) = calls
    assert points.dtype == np.float32 and points.shape[1] == 4
    assert (points[:, 2:] == [0.5, -1]).all()  # fixed
    assert points[:, :2].min() > 0 and points[:, :2].max() < 4
    walls = near(pixels, WALL, tolerance=1)
    (top, first), size = walls.min(axis=0), (walls.max(axis=0) - walls.min(axis=0)) // 4
    # The upper half of the free middle: the goal is in the lower.
    middle = pixels[
        top + size[0] + 9 : top + 2 * size[0] - 9, first + size[1] + 5 : first + 3 * size[1] - 5
    ]
    assert len(near(middle, WALL)) == 0  # the map is visible there
    # From the last colour to the first, left to right, although walls hide far larger values.
    assert np.abs(middle[:, :6].astype(int) - (253, 231, 36)).max(axis=-1).min() < 40
    assert np.abs(middle[:, -6:].astype(int) - (68, 1, 84)).max(axis=-1).min() < 40


def test_a_value_without_an_environment_needs_corners(tmp_path: Path) -> None:
    opened(
        value_picture(
            lambda x: x[:, 0] * x[:, 1],
            tmp_path / "v.png",
            observation=[0, 0],
            low=(0, 0),
            high=(2, 1),
            goal=(1, 0.5),
        )
    )
    for low, high in ((None, None), ((0, 0), None), ((1, 1), (0, 0)), ((0,), (1,))):
        with pytest.raises(PgdiffError, match="`low` and `high`"):
            value_picture(
                lambda x: x[:, 0], tmp_path / "w.png", observation=[0, 0], low=low, high=high
            )


def test_values_of_another_shape_are_refused(tmp_path: Path) -> None:
    for value in (lambda x: x, lambda x: x[:3, 0], lambda x: np.full(len(x), np.nan)):
        with pytest.raises(PgdiffError, match="one finite number for each"):
            value_picture(value, tmp_path / "v.png", observation=[0, 0], low=(0, 0), high=(1, 1))
    assert list(tmp_path.iterdir()) == []


def test_a_constant_value_is_drawn(tmp_path: Path) -> None:
    value_picture(
        lambda x: np.ones(len(x)), tmp_path / "v.png", observation=[0, 0], low=(0, 0), high=(1, 1)
    )
    assert (tmp_path / "v.png").exists()


def test_reach_shows_tokens_and_ends(plan: Any, maze: Any, tmp_path: Path) -> None:
    pixels = opened(reach_picture(plan, tmp_path / "a" / "r.png", env=maze))
    assert maze.drawn == 2
    half = pixels.shape[1] // 2
    assert len(near(pixels[:, half:], (224, 128, 58))) > 50  # ends, only on the right
    assert len(near(pixels[:, :half], (224, 128, 58))) == 0
    one = dataclasses.replace(plan, candidates=plan.candidates[:1])
    assert not np.array_equal(
        opened(reach_picture(one, tmp_path / "b" / "r.png", env=maze)), pixels
    )


def test_scores_with_their_lines(tmp_path: Path) -> None:
    scores = np.random.default_rng(0).normal(150, 30, size=100)
    plain = opened(score_picture(scores, tmp_path / "a" / "s.png"))
    lined = opened(
        score_picture(
            scores,
            tmp_path / "b" / "s.png",
            interval=(144.0, 156.0),
            references={"ceiling": 229.4, "published": 206.1},
        )
    )
    assert len(near(lined, (51, 99, 141), 40)) > 1_000  # bars
    assert len(near(lined, INK)) > len(near(plain, INK)) + 100  # the ceiling
    again = score_picture(
        scores, tmp_path / "c" / "s.png", references={"published": 206.1, "ceiling": 229.4}
    )
    assert not np.array_equal(opened(again), lined)


def test_equal_scores_are_drawn(tmp_path: Path) -> None:
    opened(score_picture(np.zeros(5), tmp_path / "s.png"))


def test_scores_that_are_none_are_refused(tmp_path: Path) -> None:
    references: Any
    for scores, references, message in (
        ([], None, "`scores`"),
        ([1.0, float("nan")], None, "`scores`"),
        ([1.0], {"ceiling": float("inf")}, "references"),
        ([1.0], {"ceiling": "high"}, "references"),
    ):
        with pytest.raises(PgdiffError, match=message):
            score_picture(np.array(scores), tmp_path / "s.png", references=references)
    assert list(tmp_path.iterdir()) == []
