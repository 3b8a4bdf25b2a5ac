"""The picture of an explanation: its panels, their content, and that nothing stays open."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from pgdiff.planning.explanation import Explanation, Outcome
from pgdiff.plotting import explanation as drawing
from pgdiff.plotting.explanation import explanation_picture

ROWS, TOKENS, CANDIDATES = 6, 5, 4
RED = (209, 73, 91)


def outcome(rng: np.random.Generator, guides: int, actions: bool) -> Outcome:
    return Outcome(
        observations=rng.normal(size=(CANDIDATES, TOKENS, 3)),
        actions=rng.uniform(-1.3, 1.3, (CANDIDATES, TOKENS, 2)) if actions else None,
        objective=rng.normal(size=(guides, ROWS + 1, CANDIDATES)),
        log_prob={},
    )


def explanation(*, guides: int = 1, actions: bool = True, kept: bool = True) -> Explanation:
    rng = np.random.default_rng(0)
    level = np.repeat(np.linspace(1, 0, ROWS + 1)[:, None], TOKENS, axis=1)
    level[:, 0] = 0.0
    push_tokens = rng.uniform(size=(guides, ROWS, TOKENS))
    push_tokens[..., 0] = np.nan
    return Explanation(
        guides=tuple(f"guide{number}" for number in range(guides)),
        scales=(0.5,) * guides,
        best=1,
        level=level,
        push=rng.uniform(size=(guides, ROWS, CANDIDATES)),
        push_tokens=push_tokens,
        total=rng.uniform(size=(ROWS, CANDIDATES)),
        kept=rng.uniform(size=(ROWS, CANDIDATES)) if kept else None,
        kept_tokens=None,
        moved=rng.uniform(size=CANDIDATES),
        low=np.full(2, -1.0) if actions else None,
        high=np.full(2, 1.0) if actions else None,
        guided=outcome(rng, guides, actions),
        unguided=outcome(rng, guides, actions),
    )


@pytest.fixture
def figures(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Return the figures that were made."""
    made: list[Any] = []
    new = drawing.new_figure

    def noted(*arguments: Any, **options: Any) -> Any:
        made.append(new(*arguments, **options))
        return made[-1]

    monkeypatch.setattr(drawing, "new_figure", noted)
    return made


def titles(figure: Any) -> list[str]:
    return [text for axes in figure.axes if (text := axes.get_title(loc="left"))]


def test_the_panels(tmp_path: Path, figures: list[Any]) -> None:
    for guides, actions in ((1, False), (3, True)):
        found = explanation(guides=guides, actions=actions)
        path = explanation_picture(found, tmp_path / f"{guides}.png", title="a plan")
        with Image.open(path) as image:
            assert min(image.size) > 700
            assert image.size[0] / image.size[1] > 0.6 * (guides + 1) - 0.2
        assert titles(figures[-1]) == [
            *(f"Objective of guide{number} x 0.5" for number in range(guides)),
            "Size of the pushes (band: all candidates)",
            *(f"Push of guide{number}, chosen plan" for number in range(guides)),
            *(["Actions"] if actions else []),
        ]


def test_what_is_drawn_is_what_was_found(tmp_path: Path, figures: list[Any]) -> None:
    found = explanation(guides=2)
    explanation_picture(found, tmp_path / "explanation.png")
    objectives, _, sizes, tokens, *_ = figures[0].axes
    lines = {line.get_label(): line for line in objectives.lines}
    chosen = lines["guided, chosen"]
    np.testing.assert_allclose(chosen.get_ydata(), found.guided.objective[0, :, 1])
    np.testing.assert_allclose(chosen.get_xdata(), np.linspace(1, 0, ROWS + 1))
    np.testing.assert_allclose(
        lines["unguided, mean"].get_ydata(), found.unguided.objective[0].mean(axis=1)
    )
    left, right = objectives.get_xlim()
    assert left > right, "from noise to clean"
    np.testing.assert_allclose(
        [line.get_ydata() for line in sizes.lines], found.push[:, :, found.best]
    )
    mesh = tokens.collections[0].get_array()
    np.testing.assert_array_equal(mesh.mask[:, 0], True)
    np.testing.assert_allclose(mesh[:, 1:], found.push_tokens[0][:, 1:])


def test_the_trust_region_and_the_bounds_are_there_or_not(
    tmp_path: Path, figures: list[Any]
) -> None:
    explanation_picture(explanation(), tmp_path / "with.png")
    explanation_picture(explanation(kept=False), tmp_path / "without.png")
    labels = [
        [axes.get_ylabel() for axes in figure.axes].count("kept by the trust region")
        for figure in figures
    ]
    assert labels == [1, 0]
    with Image.open(tmp_path / "with.png") as image:
        pixels = np.asarray(image.convert("RGB"))
    assert (np.abs(pixels.astype(int) - RED).max(axis=-1) < 12).sum() > 300
    again = explanation_picture(explanation(), tmp_path / "again.png")
    assert again.read_bytes() == (tmp_path / "with.png").read_bytes()


def test_of_one_step_in_which_nothing_is_pushed(tmp_path: Path) -> None:
    for size in (0.0, np.nan):
        explanation_picture(still(size), tmp_path / "still.png")


def still(size: float) -> Explanation:
    """Return one step whose pushes have this size."""
    whole = explanation()
    nothing = np.full((1, 1, CANDIDATES), size)
    return dataclasses.replace(
        whole,
        level=whole.level[[0, -1]],
        push=nothing,
        push_tokens=np.full((1, 1, TOKENS), size),
        total=nothing[0],
        kept=np.ones((1, CANDIDATES)),
        **{
            name: dataclasses.replace(part, objective=np.zeros((1, 2, CANDIDATES)))
            for name, part in (("guided", whole.guided), ("unguided", whole.unguided))
        },
    )
