import dataclasses
import json
from typing import Any

import numpy as np
import pytest
import torch

from pgdiff.core.registry import from_config, to_config
from pgdiff.core.validation import PgdiffError
from pgdiff.trajectory import Condition, Layout, Plan, Segment

BOTH = Layout(fields=(("observations", 4), ("actions", 2)), horizon=8, stride=15)


def test_fields_lie_one_after_another() -> None:
    assert BOTH.features == 6
    assert BOTH.slices == {"observations": slice(0, 4), "actions": slice(4, 6)}
    turned = Layout(fields=(("actions", 2), ("observations", 4), ("rewards", 1)), horizon=2)
    assert turned.slices == {
        "actions": slice(0, 2),
        "observations": slice(2, 6),
        "rewards": slice(6, 7),
    }
    assert turned.stride == 1


def test_segment_names_the_fields_and_keeps_the_gradient() -> None:
    x = torch.randn(3, 8, 6, requires_grad=True)
    segment = BOTH.segment(x)
    assert torch.equal(segment.observations, x[..., :4])
    assert segment.actions is not None and torch.equal(segment.actions, x[..., 4:])
    assert segment.rewards is None and segment.stride == 15
    (gradient,) = torch.autograd.grad(segment.actions.sum(), x)
    assert torch.equal(gradient, torch.cat([torch.zeros(3, 8, 4), torch.ones(3, 8, 2)], dim=-1))


def test_config_round_trip_through_json() -> None:
    config = json.loads(json.dumps(to_config(BOTH)))
    assert from_config("layout", config) == BOTH
    assert hash(from_config("layout", config)) == hash(BOTH)


def test_everything_is_frozen() -> None:
    segment = Segment(observations=torch.zeros(1, 2, 3))
    plan = Plan(
        observations=np.zeros((2, 3)),
        actions=None,
        candidates=np.zeros((1, 2, 3)),
        scores=np.zeros(1),
        best=0,
        stride=1,
    )
    assert plan.goal is None
    for thing in (BOTH, segment, plan):
        with pytest.raises(dataclasses.FrozenInstanceError):
            thing.stride = 2  # type: ignore[misc]


def test_bad_settings_are_named() -> None:
    cases: list[tuple[dict[str, Any], str]] = [
        ({"horizon": 0}, "`horizon` must be an integer of at least 1. Got 0"),
        ({"horizon": -3}, "`horizon`"),
        ({"stride": 0}, "`stride` must be an integer of at least 1. Got 0"),
        ({"stride": -1}, "`stride`"),
        ({"fields": (("observation", 4),)}, "`fields` must be .*observations.* Got 'observation'"),
        ({"fields": (("stride", 4),)}, "`fields`"),
        ({"fields": (("observations", 0),)}, "size of field 'observations'"),
    ]
    for settings, message in cases:
        with pytest.raises(PgdiffError, match=message):
            Layout(**({"fields": (("observations", 4),), "horizon": 8} | settings))


def test_a_condition_holds_tensors_by_name() -> None:
    given = torch.tensor([[0.5, 1.0]], dtype=torch.float64, requires_grad=True)
    condition = Condition(values={"goal": given, "class": torch.tensor([[2], [0], [1]])})
    assert condition.values["goal"] is given, "type and gradient stay"
    assert condition.values["class"].dtype == torch.float32
    assert condition.batch == 3 and Condition(values={"goal": given}).batch == 1


def test_bad_conditions_are_named() -> None:
    cases: list[tuple[Any, str]] = [
        ({}, "`values` must give at least one"),
        (torch.zeros(2, 1), "`values` must give at least one value by name"),
        ({"return": torch.zeros(3)}, r"`return` must have shape \[batch, size\].* Got \[3\]"),
        ({"return": torch.zeros(0, 1)}, "`return` must have shape"),
        ({"return": torch.zeros(2, 1, dtype=torch.complex64)}, "`return` must have shape"),
        ({"return": "high"}, "`return` must be numbers"),
        ({"return": None}, "`return` must be numbers"),
        ({"return": torch.tensor([[1.0], [torch.inf]])}, "`return` must be finite"),
        ({"a": torch.zeros(2, 1), "b": torch.zeros(3, 1)}, r"one batch size, or 1. Got \{'a': 2"),
    ]
    for values, message in cases:
        with pytest.raises(PgdiffError, match=message):
            Condition(values=values)


def test_a_segment_is_a_mapping_of_fields_with_conditions() -> None:
    goal = torch.ones(1, 2)
    segment = Segment(observations=torch.zeros(1, 2, 3), actions=None, condition={"goal": goal})
    assert list(segment.fields) == ["observations"] and segment.actions is None
    assert segment.goal is goal and Segment(observations=torch.zeros(1, 2, 3)).goal is None
    changed = segment.replace(rewards=torch.zeros(1, 2, 1), stride=2)
    assert list(changed.fields) == ["observations", "rewards"] and changed.rewards is not None
    assert changed.stride == 2 and changed.goal is goal and segment.stride == 1
    assert changed.replace(rewards=None, condition=None).fields == segment.fields
    with pytest.raises(PgdiffError, match=r"`fields` must be .* Got 'goal'"):
        segment.replace(goal=goal)
