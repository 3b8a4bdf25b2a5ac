from typing import Any

import numpy as np
import pytest

from pgdiff.trajectory import Plan

CELLS = np.array([[3, 1], [3, 2], [3, 3], [2, 3], [1, 3], [1, 2], [1, 1]], dtype=float)


class Maze:
    """A U-shaped maze that draws itself, with the marks of its present state."""

    goal = np.array([1.0, 1.0])

    def __init__(self) -> None:
        self.unwrapped = self
        self.drawn = 0

    def draw(self, axes: Any, plan: Any = None) -> None:
        self.drawn += 1
        axes.add_patch(_rectangle(-0.7, -0.7, 5.0, 5.0, "#454f61"))
        for x, y in CELLS:
            axes.add_patch(_rectangle(x - 0.5, y - 0.5, 1.0, 1.0, "#f6f4ee"))
        axes.plot(0.0, 0.0, marker="o", color="#ff00ff", markersize=20)
        axes.set_xlim(-0.7, 4.3)
        axes.set_ylim(-0.7, 4.3)


def _rectangle(x: float, y: float, width: float, height: float, colour: str) -> Any:
    from matplotlib.patches import Rectangle

    return Rectangle((x, y), width, height, color=colour)


def walk(rng: np.random.Generator, steps: int, end: float) -> np.ndarray:
    """Return a noisy way through the U, [steps, 4]: place and velocity."""
    time = np.linspace(0, end, steps)
    place = np.stack([np.interp(time, range(7), CELLS[:, i]) for i in range(2)], axis=1)
    place += 0.05 * rng.normal(size=place.shape)
    return np.concatenate([place, np.gradient(place, axis=0)], axis=1)


def make_plan(seed: int = 0, count: int = 16, scored: bool = True) -> Plan:
    rng = np.random.default_rng(seed)
    candidates = np.stack([walk(rng, 20, end) for end in rng.uniform(1, 6, count)])
    scores = -np.linalg.norm(candidates[:, -1, :2] - Maze.goal, axis=-1)
    best = int(scores.argmax())
    return Plan(
        observations=candidates[best],
        actions=None,
        candidates=candidates,
        scores=scores if scored else np.full(count, np.nan),
        best=best,
        stride=15,
    )


@pytest.fixture
def maze() -> Maze:
    return Maze()


@pytest.fixture
def plan() -> Plan:
    return make_plan()


@pytest.fixture
def unscored() -> Plan:
    return make_plan(seed=1, scored=False)


@pytest.fixture
def walks() -> np.ndarray:
    rng = np.random.default_rng(0)
    return np.concatenate([walk(rng, 200, end) for end in rng.uniform(1, 6, 20)])
