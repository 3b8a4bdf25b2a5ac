"""Flattening of Dict observations, and its inverse."""

import json
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces

from pgdiff.core.registry import from_config, to_config
from pgdiff.core.validation import PgdiffError
from pgdiff.data import Episodes, ObservationLayout
from pgdiff.data.dict_observations import from_json, to_json


def box(*shape: int) -> spaces.Box:
    return spaces.Box(-1, 1, shape, np.float64)


SPACE = spaces.Dict(
    {
        "observation": box(4),
        "desired_goal": box(2),
        "achieved_goal": box(2),
        "Arm": spaces.Dict({"joints": box(2, 3), "force": box(1)}),
    }
)
LAYOUT = ObservationLayout(
    fields=(("Arm.force", 1), ("Arm.joints", 6), ("achieved_goal", 2), ("observation", 4)),
    goal=("desired_goal", 2),
    position=(7, 8),
)


def stacked(batch: tuple[int, ...], seed: int = 0) -> dict[str, Any]:
    rng = np.random.default_rng(seed)
    return {
        "observation": rng.normal(size=(*batch, 4)),
        "Arm": {"force": rng.normal(size=(*batch, 1)), "joints": rng.normal(size=(*batch, 2, 3))},
        "desired_goal": rng.normal(size=(*batch, 2)),
        "achieved_goal": rng.normal(size=(*batch, 2)),
    }


def test_the_rule() -> None:
    assert ObservationLayout.from_space(SPACE) == LAYOUT
    assert LAYOUT.features == 13


def test_flatten_and_back() -> None:
    for batch in ((), (1,), (5,), (2, 3), (1, 1)):
        flatten_and_back(batch)


def flatten_and_back(batch: tuple[int, ...]) -> None:
    given = stacked(batch)
    flat, goal = LAYOUT.flatten(given)
    assert flat.shape == (*batch, 13) and goal is not None and goal.shape == (*batch, 2)
    assert flat.dtype == goal.dtype == np.float32
    assert LAYOUT.check(given) == batch
    # Column by column, against the documented order.
    columns = [
        given["Arm"]["force"],
        given["Arm"]["joints"].reshape(*batch, 6),
        given["achieved_goal"],
        given["observation"],
    ]
    assert np.array_equal(flat, np.concatenate(columns, axis=-1).astype(np.float32))
    assert np.array_equal(flat[..., LAYOUT.position], given["achieved_goal"].astype(np.float32))
    again = LAYOUT.unflatten(flat, goal)
    assert np.array_equal(LAYOUT.flatten(again)[0], flat)
    assert again["Arm"]["joints"].shape == (*batch, 6)


def test_without_a_goal() -> None:
    layout = ObservationLayout.from_space(spaces.Dict({"b": box(2), "a": box()}))
    assert layout == ObservationLayout(fields=(("a", 1), ("b", 2)))
    for batch in ((), (7,), (1,)):
        flat, goal = layout.flatten({"a": np.ones(batch), "b": np.zeros((*batch, 2))})
        assert flat.shape == (*batch, 3) and goal is None
    only = ObservationLayout(fields=(("a", 1),))
    assert only.flatten({"a": 3.0})[0].tolist() == [3.0]
    assert only.flatten({"a": [1.0, 2.0]})[0].tolist() == [[1.0], [2.0]]


def test_a_goal_that_nothing_is_compared_with() -> None:
    layout = ObservationLayout.from_sizes({"desired_goal": 3, "x": 2})
    assert layout.goal == ("desired_goal", 3) and layout.position == ()


def test_samples_of_its_own_space() -> None:
    space = LAYOUT.space()
    assert ObservationLayout.from_space(space) == LAYOUT
    space.seed(0)
    sample = space.sample()
    flat, goal = LAYOUT.flatten(sample)
    assert LAYOUT.unflatten(flat, goal) in space


def test_saved_and_read_back() -> None:
    for layout in (LAYOUT, ObservationLayout(fields=(("a", 1),))):
        saved = json.loads(json.dumps(to_config(layout)))
        assert from_config("observation_layout", saved) == layout
        assert from_json(to_json(layout)) == layout
        assert hash(from_json(to_json(layout))) == hash(layout)


def spoiled(**changes: Any) -> dict[str, Any]:
    return {key: x for key, x in (stacked((5,)) | changes).items() if x is not None}


def test_other_observations_are_refused() -> None:
    cases: list[tuple[Any, str]] = [
        (np.zeros(13), "must be a dict with the fields .* Got ndarray"),
        (spoiled(observation=None), r"must have the field 'observation'\. Got \['Arm.force'"),
        (spoiled(desired_goal=None), r"must have the field 'desired_goal'"),
        (spoiled(extra=np.zeros(2)), "must not have a field 'extra', but one of"),
        (spoiled(Arm=np.zeros((5, 7))), "must not have a field 'Arm'.* Did you mean 'Arm.force'"),
        (spoiled(observation=np.zeros((5, 3))), r"'observation' must have shape \[4\].*\[5, 3\]"),
        (spoiled(observation=np.zeros(4)), r"same batch axes\. Got .*'observation' \[4\]"),
        (spoiled(observation=np.zeros((6, 4))), r"same batch axes\. Got .*'observation' \[6, 4\]"),
        (spoiled(observation=["a"] * 5), "'observation' must hold numbers. Got <U1"),
        (spoiled(observation=[[1.0], [1.0, 2.0]]), "'observation' must be one array"),
        ({**stacked(()), 3: 1.0}, "name must be a string without a dot. Got 3"),
    ]
    for observation, message in cases:
        for look in (LAYOUT.check, LAYOUT.flatten):
            with pytest.raises(PgdiffError, match=message):
                look(observation)


def test_spaces_without_a_layout_are_refused() -> None:
    cases: list[tuple[gymnasium.Space, str]] = [
        (box(3), "must be a gymnasium.spaces.Dict"),
        (spaces.Dict({"a": spaces.Discrete(3)}), "'a' is Discrete"),
        (spaces.Dict({"a": spaces.Dict({"b": spaces.Text(3)})}), "'a.b' is Text"),
        (spaces.Dict({"a": spaces.Box(0, 255, (8, 8, 3), np.uint8)}), "'a' is an image"),
        (spaces.Dict({"a.b": box(1)}), "string without a dot"),
        (spaces.Dict({"desired_goal": box(2)}), "at least one field"),
        (
            spaces.Dict({"desired_goal": box(2), "achieved_goal": box(3)}),
            "`achieved_goal` must have the size of `desired_goal`, 2. Got 3",
        ),
    ]
    for space, message in cases:
        with pytest.raises(PgdiffError, match=message):
            ObservationLayout.from_space(space)


def test_bad_settings_are_named() -> None:
    cases: list[tuple[dict[str, Any], str]] = [
        ({"fields": ()}, "at least one field"),
        ({"fields": (("a", 0),)}, "size of 'a'` must be an integer of at least 1"),
        ({"fields": (("a", 1), ("a", 2))}, "different names"),
        ({"fields": ("a",)}, "pairs of a name and a size"),
        ({"fields": (("a", 1),), "position": (0,)}, "Got 1 for no goal"),
        ({"fields": (("a", 1),), "goal": ("g", 2), "position": (0,)}, "Got 1 for a goal of 2"),
        ({"fields": (("a", 1),), "goal": ("g", 1), "position": (1,)}, "indices of the 1 features"),
        ({"fields": (("a", 1),), "goal": ("a", 1)}, "different names"),
    ]
    for settings, message in cases:
        with pytest.raises(PgdiffError, match=message):
            ObservationLayout(**settings)


def test_a_goal_must_be_given_back() -> None:
    with pytest.raises(PgdiffError, match="`goal` must be given for the field 'desired_goal'"):
        LAYOUT.unflatten(np.zeros((2, 13), np.float32))


def test_episodes_of_a_layout_need_its_goals(recording) -> None:
    layout = ObservationLayout.from_sizes({"achieved_goal": 2, "desired_goal": 2, "x": 1})
    fields = recording()
    goal = fields["observations"][:, :2]
    episodes = Episodes.from_arrays(**fields, infos={"goal": goal}, observation_layout=layout)
    assert episodes.observation_layout == layout
    assert episodes.select([0]).observation_layout == layout
    for infos, value in (({}, "none"), ({"goal": goal[:, :1]}, r"shape \[60, 1\]")):
        with pytest.raises(PgdiffError, match=f"`infos/goal` must have 2 .* Got {value}"):
            Episodes.from_arrays(**fields, infos=infos, observation_layout=layout)
    with pytest.raises(PgdiffError, match=r"`observation_layout` must have 3 .* Got 4"):
        Episodes.from_arrays(**fields, observation_layout=ObservationLayout(fields=(("a", 4),)))
