"""Conditions of segments against plain loops over rows, and refusals."""

import json
import math
from collections.abc import Callable
from dataclasses import replace
from itertools import product
from typing import Any

import numpy as np
import pytest
import torch

from pgdiff.core.registry import from_config, to_config
from pgdiff.core.validation import PgdiffError
from pgdiff.data import (
    ClassCondition,
    ConditionedDataset,
    Conditioner,
    Episodes,
    GoalCondition,
    ReturnCondition,
    SegmentDataset,
)

LENGTHS = (20, 7, 33, 12)
ALL: list[Conditioner] = [
    ReturnCondition(discount=0.9),
    GoalCondition(goal_features=(2, 0)),
    ClassCondition(classes=4),
]


@pytest.fixture
def episodes(recording: Callable[..., dict[str, np.ndarray]]) -> Episodes:
    fields = recording(LENGTHS)
    classes = np.repeat([3, 0, 2, 1], LENGTHS)[:, None]
    return Episodes.from_arrays(**fields, infos={"class": classes})


def loop(episodes: Episodes, horizon: int, stride: int, first_rows: list[int]) -> np.ndarray:
    """Compute return, goal and class of the segments that start at these rows."""
    values = []
    for first in first_rows:
        bounds = zip(episodes.starts, episodes.ends, strict=True)
        (end,) = (int(end) for start, end in bounds if start <= first < end)
        total = sum(
            0.9 ** (row - first) * float(episodes.rewards[row]) for row in range(first, end)
        )
        last = [row for row in range(first, first + horizon * stride, stride) if row < end][-1]
        goal = [float(episodes.observations[last, feature]) for feature in (2, 0)]
        values.append([total, *goal, float(episodes.infos["class"][first, 0])])
    return np.array(values)


def test_values_are_those_of_a_plain_loop(episodes: Episodes) -> None:
    for part, padding in product((episodes, episodes.select([1, 3])), ("none", "repeat")):
        for horizon, stride in ((4, 1), (3, 3), (7, 1)):
            segments = SegmentDataset(part, horizon, stride, padding=padding)
            dataset = ConditionedDataset(segments, ALL)
            assert len(dataset) == len(segments)
            indices = np.random.default_rng(0).permutation(len(dataset))
            batch = dataset.batch(indices)
            rows, _ = segments.index.rows(indices)
            expected = loop(part, horizon, stride, rows[:, 0].tolist())
            assert np.abs(batch.condition - expected).max() < 1e-5
            assert batch.condition.dtype == np.float32
            plain = segments.batch(indices)
            assert plain.condition is None
            for name, values in plain._asdict().items():
                assert values is None or np.array_equal(getattr(batch, name), values)


def test_statistics_are_those_of_the_chosen_episodes(episodes: Episodes) -> None:
    part = episodes.select([1, 3])
    rows = np.concatenate([np.arange(20, 27), np.arange(60, 72)])
    returns = loop(part, 1, 1, rows.tolist())[:, 0]
    fitted = ReturnCondition(discount=0.9).fit(part)
    assert math.isclose(fitted.mean or 0.0, returns.mean(), rel_tol=1e-5)
    assert math.isclose(fitted.std or 0.0, returns.std(), rel_tol=1e-5)
    goal = GoalCondition(goal_features=(2, 0)).fit(part)
    places = episodes.observations[rows][:, [2, 0]]
    np.testing.assert_allclose(goal.mean, places.mean(axis=0), rtol=1e-5)
    np.testing.assert_allclose(goal.std, places.std(axis=0), rtol=1e-5)
    assert fitted.fit(episodes) is fitted and goal.fit(episodes) is goal
    half = ReturnCondition(discount=0.9, mean=5.0).fit(part)
    assert half.mean == 5.0 and half.std == fitted.std


def test_encoding(episodes: Episodes) -> None:
    part = ReturnCondition(mean=2.0, std=4.0)
    assert part.encode(torch.tensor([[10.0], [2.0]])).tolist() == [[2.0], [0.0]]
    goal = GoalCondition(mean=(1.0, -1.0), std=(0.5, 2.0))
    value = torch.tensor([[2.0, 1.0]], requires_grad=True)
    encoded = goal.encode(value)
    assert encoded.tolist() == [[2.0, 1.0]]
    (gradient,) = torch.autograd.grad(encoded.sum(), value)
    assert gradient.tolist() == [[2.0, 0.5]]
    one_hot = ClassCondition(classes=3).encode(torch.tensor([[2.0], [0.0]]))
    assert one_hot.tolist() == [[0.0, 0.0, 1.0], [1.0, 0.0, 0.0]]
    for condition in ALL:
        fitted = condition.fit(episodes)
        value = torch.zeros(5, fitted.width)
        assert isinstance(fitted, Conditioner)
        assert fitted.encode(value).shape == (5, fitted.size)
        assert fitted.encode(value.double()).dtype == torch.float64


def test_a_constant_feature_is_harmless(recording: Callable[..., dict[str, np.ndarray]]) -> None:
    fields = recording() | {"rewards": np.ones(60), "observations": np.full((60, 3), 7.0)}
    episodes = Episodes.from_arrays(**fields)
    encoded = GoalCondition().fit(episodes).encode(torch.full((2, 2), 7.0))
    assert encoded.tolist() == [[0.0, 0.0], [0.0, 0.0]]


def test_config_round_trip_through_json(episodes: Episodes) -> None:
    for condition in [*ALL, *(condition.fit(episodes) for condition in ALL)]:
        assert from_config("condition", json.loads(json.dumps(to_config(condition)))) == condition


# ----------------------------------------------------------------------------------------- refusals


def with_info(episodes: Episodes, **infos: Any) -> Episodes:
    return replace(episodes, infos={key: np.asarray(value) for key, value in infos.items()})


def test_classes_that_are_none_are_named_with_their_row(episodes: Episodes) -> None:
    column = np.zeros((72, 1), np.float32)
    for row, value, shown in ((30, 4, "4"), (5, -1, "-1"), (0, 0.5, "0.5"), (71, np.nan, "nan")):
        bad = column.copy()
        bad[row] = value
        recording = with_info(episodes, **{"class": bad})
        message = rf"`infos/class` must hold integers in \[0, 4\). Got {shown} in row {row}\."
        for look in (ALL[2].fit, ALL[2].reader):
            with pytest.raises(PgdiffError, match=message):
                look(recording)
    outside = column.copy()
    outside[30] = 9  # in the third episode
    ALL[2].fit(with_info(episodes, **{"class": outside}).select([0, 1, 3]))


def test_infos_that_give_no_class_are_named(episodes: Episodes) -> None:
    with pytest.raises(PgdiffError, match=r"`info` must be .* Did you mean 'class'.* Got 'clas'"):
        ClassCondition(classes=4, info="clas").fit(episodes)
    with pytest.raises(PgdiffError, match=r"`infos/goal` must have shape \[72, 1\] .* \[72, 2\]"):
        ClassCondition(classes=4, info="goal").fit(with_info(episodes, goal=np.zeros((72, 2))))
    assert ClassCondition(classes=4, info="skill").name == "skill"


def test_values_that_are_no_class_are_named() -> None:
    condition = ClassCondition(classes=3)
    condition.check(torch.tensor([[0.0], [2.0]]))
    for wrong in (3.0, -1.0, 1.5):
        with pytest.raises(
            PgdiffError, match=rf"`class` must be .* \[0, 3\). Got {wrong:g} in row 1"
        ):
            condition.check(torch.tensor([[0.0], [wrong]]))


def test_features_that_are_not_there_are_named(episodes: Episodes) -> None:
    condition = GoalCondition(goal_features=(0, 3))
    for look in (condition.fit, condition.reader):
        with pytest.raises(PgdiffError, match=r"`goal_features` must be indices of the 3 features"):
            look(episodes)


def test_what_is_not_fitted_is_refused() -> None:
    for condition in ALL[:2]:
        with pytest.raises(PgdiffError, match=f"condition '{condition.name}' must be .* fitted"):
            condition.encode(torch.zeros(1, condition.width))


def test_bad_settings_are_named() -> None:
    cases: list[tuple[Any, dict[str, Any], str]] = [
        (ReturnCondition, {"discount": 0.0}, "`discount` must be"),
        (ReturnCondition, {"discount": 1.1}, "`discount` must be"),
        (ReturnCondition, {"mean": math.inf}, "`mean` must be"),
        (ReturnCondition, {"std": 0.0}, "`std` must be"),
        (GoalCondition, {"goal_features": ()}, "`goal_features` must name at least one"),
        (GoalCondition, {"goal_features": (0, -1)}, "`goal_features` must be an integer"),
        (GoalCondition, {"mean": (0.0,)}, "`mean` must have 2 numbers"),
        (GoalCondition, {"mean": (0.0, math.nan)}, "`mean` must be a number"),
        (GoalCondition, {"std": (1.0, 0.0)}, "`std` must be a number"),
        (ClassCondition, {"classes": 0}, "`classes` must be"),
    ]
    for make, settings, message in cases:
        with pytest.raises(PgdiffError, match=message):
            make(**settings)
