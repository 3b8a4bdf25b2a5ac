"""Laws of every picture: named axes, a legend of all marks, no overlapping text."""

import itertools
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from pgdiff.core.validation import PgdiffError
from pgdiff.data import Episodes
from pgdiff.plotting import (
    ShownEpisode,
    comparison_picture,
    failures_picture,
    level_picture,
    marginals_picture,
    plan_picture,
    reach_picture,
    value_picture,
)
from pgdiff.plotting.names import action_names, observation_names
from pgdiff.trajectory import Plan

Drawn = Callable[..., Figure]


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Drawn:
    """Draw a picture and return its figure."""
    figures: list[Figure] = []
    save = Figure.savefig

    def keep(self: Figure, *words: Any, **options: Any) -> None:
        figures.append(self)
        save(self, *words, **options)

    monkeypatch.setattr(Figure, "savefig", keep)

    def draw(picture: Callable[..., Path], *words: Any, **options: Any) -> Figure:
        picture(*words, tmp_path / f"{len(figures)}.png", **options)
        return figures[-1]

    return draw


class Hopping:
    """An environment that names its features and bounds its actions, and draws nothing."""

    feature_names = ("height", "angle", "speed", "spin")
    action_names = ("hip", "knee")
    action_space = SimpleNamespace(low=np.full(2, -1.0), high=np.full(2, 1.0))

    def __init__(self) -> None:
        self.unwrapped = self


def acting(plan: Plan, stride: int, steps: int) -> Plan:
    """Return the plan with `steps` actions and another stride."""
    actions = np.random.default_rng(0).uniform(-1, 1, (steps, 2))
    fields = {"observations": plan.observations, "candidates": plan.candidates}
    return Plan(**fields, scores=plan.scores, best=plan.best, actions=actions, stride=stride)


def pictures(plan: Plan, look: dict[str, Any]) -> dict[str, tuple[Any, ...]]:
    """Return every picture of paths, with four panels of failures."""
    episodes = [
        ShownEpisode(
            trajectory=plan.candidates[number],
            seed=number,
            score=1.0,
            steps_to_goal=9.0,
            plans=[(0, plan.candidates[number]), (5, plan.candidates[number + 1])],
        )
        for number in range(4)
    ]
    levels = np.linspace(1, 0, 6)[:, None].repeat(len(plan.observations), axis=1)
    frames = np.repeat(plan.observations[None], 6, axis=0)
    title = {"title": "a task\nand its guide"}
    return {
        "plan": (plan_picture, (plan,), {**look, **title}),
        "comparison": (comparison_picture, (plan, plan), {**look, **title}),
        "failures": (failures_picture, (episodes,), {**look, **title}),
        "reach": (reach_picture, (plan,), look),
        "levels": (level_picture, (levels, frames), {**look, **title}),
    }


LOOKS: dict[str, dict[str, Any]] = {
    "place": {"position": (0, 1)},
    "time": {"env": Hopping(), "features": [2, "height"]},
}


def test_axes_have_names_marks_a_legend_and_texts_their_own_place(plan: Plan, drawn: Drawn) -> None:
    figure = drawn(
        *(value_picture, lambda x: x[:, 0]),
        **{"observation": [0, 0], "low": (0, 0), "high": (4, 4), "goal": (1, 1)},
        **{"visited": plan.candidates.reshape(-1, 4), "points": 20, "note": "a note"},
    )
    _check_texts("value", figure)
    # Both kinds of a plan and of failures; one of the others, which have the same parts.
    for look, names in (
        ("place", ("plan", "failures", "levels", "comparison")),
        ("time", ("plan", "failures", "reach")),
    ):
        every = pictures(acting(plan, 3, 20), LOOKS[look])
        for name in names:
            picture, words, options = every[name]
            _check_texts(name, drawn(picture, *words, **options))


def _check_texts(name: str, figure: Figure) -> None:
    bars = [axes for axes in figure.axes if axes.get_label() == "<colorbar>"]
    panels = [axes for axes in figure.axes if axes.axison and axes not in bars]
    assert panels
    for axes in panels:
        assert axes.get_xlabel() and axes.get_ylabel()
    assert all(bar.get_ylabel() for bar in bars)
    (legend,) = figure.legends
    explained = [text.get_text() for text in legend.get_texts()]
    assert len(set(explained)) == len(explained)
    for axes in panels:
        for artist in (*axes.lines, *axes.collections, *axes.images):
            by_bar = getattr(artist, "get_array", lambda: None)() is not None
            line_of_value = name == "value" and type(artist).__name__.endswith("ContourSet")
            assert artist.get_label() in explained or by_bar or line_of_value, artist
    texts = [legend, *figure.texts, *([figure._suptitle] if figure._suptitle else [])]
    for axes in figure.axes:
        texts += [axes.title, axes._left_title, axes.xaxis.label, axes.yaxis.label, *axes.texts]  # type: ignore[attr-defined]
    texts = [text for text in texts if text.axes is None or text.axes in panels]
    renderer = FigureCanvasAgg(figure).get_renderer()
    boxes = {text: text.get_window_extent(renderer) for text in texts}
    boxes = {text: box for text, box in boxes.items() if box.width > 1 and box.height > 1}
    for (one, here), (other, there) in itertools.combinations(boxes.items(), 2):
        overlap = min(here.x1, there.x1) - max(here.x0, there.x0) > 1 and (
            min(here.y1, there.y1) - max(here.y0, there.y0) > 1
        )
        assert not overlap, (one, other)


def test_a_task_without_a_place_shows_chosen_features_and_actions_over_time(
    plan: Plan, drawn: Drawn
) -> None:
    for steps in (20, 60):
        _check_over_time(plan, drawn, stride=3, steps=steps)


def _check_over_time(plan: Plan, drawn: Drawn, *, stride: int, steps: int) -> None:
    shown = acting(plan, stride, steps)
    figure = drawn(plan_picture, shown, env=Hopping(), features=[3, "angle"])
    panels = {axes.get_ylabel(): axes for axes in figure.axes if axes.axison and axes.get_xlabel()}
    assert list(panels)[:4] == ["spin", "angle", "hip", "knee"]
    for name, feature in (("spin", 3), ("angle", 1)):
        (line,) = [one for one in panels[name].lines if one.get_label() == "chosen plan"]
        np.testing.assert_array_equal(line.get_xdata(), stride * np.arange(20))
        np.testing.assert_array_equal(line.get_ydata(), shown.observations[:, feature])
    for name, number in (("hip", 0), ("knee", 1)):
        (line,) = [one for one in panels[name].lines if one.get_label() == "planned action"]
        # A chunk has an action for each environment step; otherwise a token has one.
        step = stride if steps == len(plan.observations) else 1
        np.testing.assert_array_equal(line.get_xdata()[:-1], step * np.arange(steps))
        np.testing.assert_array_equal(line.get_ydata()[:-1], shown.actions[:, number])  # type: ignore[index]
        assert len([one for one in panels[name].lines if one.get_label().startswith("bou")]) == 2  # type: ignore[union-attr]


def test_features_have_the_names_that_are_known() -> None:
    hopper = gym.make("Hopper-v5")
    names = observation_names(hopper, 11)
    assert (names[0], names[5], names[10]) == (
        "rootz",
        "velocity of rootx",
        "velocity of foot_joint",
    )
    assert action_names(hopper, 3)[1] == "action on leg_joint"
    assert observation_names(hopper, 12)[:2] == ("feature 0", "feature 1")  # of another size
    box = gym.spaces.Box(-1, 1, (2,))
    fields = SimpleNamespace(observation_space=gym.spaces.Dict({"b": box, "achieved_goal": box}))
    assert observation_names(fields, 4) == ("achieved_goal[0]", "achieved_goal[1]", "b[0]", "b[1]")
    assert observation_names(None, 1) == ("feature 0",)
    assert observation_names(Hopping(), 4)[0] == "height"


def test_features_that_are_none_are_refused(plan: Plan, tmp_path: Path) -> None:
    features: Any
    for features in ([], "height", ["heigth"], [4], [-1], [0.5]):
        with pytest.raises(PgdiffError, match="`features`"):
            plan_picture(plan, tmp_path / "p.png", env=Hopping(), features=features)
    assert list(tmp_path.iterdir()) == []


def test_masked_cells_are_those_that_no_recorded_state_has_visited(drawn: Drawn) -> None:
    rng = np.random.default_rng(0)
    recorded = np.concatenate([rng.uniform(0.5, 2.5, (60, 2)), rng.normal(size=(60, 2))], axis=1)

    def farther(points: np.ndarray) -> np.ndarray:
        return points[:, 0] + points[:, 1]

    options = {"observation": [0] * 4, "low": (0, 0), "high": (4, 2), "points": 16}
    figure = drawn(value_picture, farther, visited=recorded, **options)
    (mesh,) = [one for one in figure.axes[0].collections if type(one).__name__ == "QuadMesh"]
    array: Any = mesh.get_array()
    centres = np.arange(0.125, 4, 0.25)
    near = np.abs(
        recorded[None, :, :2] - np.stack(np.meshgrid(centres, centres[:8]), -1).reshape(-1, 1, 2)
    )
    visited = (near <= 0.125).all(axis=-1).any(axis=1).reshape(8, 16)
    assert 0 < visited.sum() < visited.size
    np.testing.assert_array_equal(np.ma.getmaskarray(array).reshape(8, 16), ~visited)
    # Colours and the cross of the highest value are only of visited cells.
    values = farther(np.stack(np.meshgrid(centres, centres[:8]), -1).reshape(-1, 2)).reshape(8, 16)
    assert mesh.get_clim() == pytest.approx((values[visited].min(), values[visited].max()))
    (cross,) = [one for one in figure.axes[0].collections if one.get_label() == "highest value"]
    assert farther(np.asarray(cross.get_offsets()))[0] == pytest.approx(values[visited].max())
    # Without a recording nothing is masked.
    figure = drawn(value_picture, farther, **options)
    (mesh,) = [one for one in figure.axes[0].collections if type(one).__name__ == "QuadMesh"]
    assert not np.ma.getmaskarray(mesh.get_array()).any()
    with pytest.raises(PgdiffError, match="`visited`"):
        drawn(value_picture, farther, visited=recorded + 9, **options)


def test_marginals_are_of_the_selected_episodes_alone(drawn: Drawn) -> None:
    values = np.repeat([0.0, 1.0], 50)
    episodes = Episodes.from_arrays(
        observations=values[:, None],
        actions=values[:, None],
        rewards=values,
        terminals=np.zeros(100, bool),
        timeouts=np.arange(1, 101) % 50 == 0,
    )
    figure = drawn(marginals_picture, {"real": episodes, "last": episodes.select([1])})
    axes = figure.axes[0]
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("feature 0", "density")
    last = next(patch for patch in axes.patches if patch.get_label() == "last")
    outline = last.get_path().vertices  # type: ignore[union-attr]
    assert np.asarray(outline)[np.asarray(outline)[:, 1] > 0, 0].min() > 0.9
