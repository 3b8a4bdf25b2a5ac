"""Guides to a goal: closed forms, goals of a plan, refused inputs."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from toys import DOUBLE, fit, flat_model, flat_planner, generator, tiny_model, walk

from pgdiff import Segment
from pgdiff.core.validation import PgdiffError
from pgdiff.denoisers import TransformerConfig
from pgdiff.guides import Goal, Guide, bind
from pgdiff.model.guidance import needs_goal
from pgdiff.testing import check_guide

EPISODES = walk()
LEVEL = torch.zeros(1, 3)
PATH = Segment(
    observations=torch.tensor([[[0.0, 0, 9], [3, 4, 9], [0, 2, 9]]], dtype=DOUBLE), stride=1
)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, -4 / 2),
        ({"width": 2.0}, -1 / 2),
        ({"where": "every"}, -(0 + 25 + 4) / 6),
        ({"where": "any"}, math.log((1 + math.exp(-12.5) + math.exp(-2)) / 3)),
        ({"goal_features": (1, 0)}, -4 / 2),
        ({"goal_features": (2, 1), "goal": (9.0, 2.0)}, 0.0),
        ({"goal_features": (2,), "goal": (8.0,), "where": "any"}, -1 / 2),
    ],
    ids=str,
)
def test_closed_forms(options: dict[str, Any], expected: float) -> None:
    guide = Goal(**({"goal": (0.0, 0.0)} | options))
    assert isinstance(guide, Guide) and not needs_goal(guide)
    objective = guide.objective(PATH, LEVEL)
    torch.testing.assert_close(objective, torch.tensor([expected], dtype=DOUBLE))


def test_somewhere_is_near_the_nearest_token() -> None:
    """Far from the goal the smooth maximum is the nearest token's objective, up to log T."""
    path = Segment(observations=10 * torch.randn(64, 12, 2, generator=generator(0)))
    any_, nearest = (
        Goal((1.0, 2.0), where="any").objective(path, LEVEL),
        -(path.observations - torch.tensor([1.0, 2.0])).square().sum(dim=-1).amin(dim=1) / 2,
    )
    assert (any_ <= nearest + 1e-4).all() and (any_ >= nearest - math.log(12) - 1e-4).all()


@pytest.mark.parametrize("where", ["end", "any", "every"])
def test_it_is_a_sound_guide(where: Any) -> None:
    model = tiny_model(EPISODES)
    assert check_guide(Goal((0.3, -0.2), where=where), model)["error"] < 1e-5
    assert check_guide(Goal(where=where), model, goal=[0.3, -0.2])["error"] < 1e-5
    with pytest.raises(PgdiffError, match="needs a goal"):
        check_guide(Goal(where=where), model)


def test_its_position_is_that_of_the_models_goals_unless_it_is_given() -> None:
    model = tiny_model(EPISODES, position=(3, 2))
    x = torch.randn(2, 6, 4, generator=generator(0))
    level = torch.zeros(1, 6)
    default = bind(Goal((0.1, 0.2)), model).objective(x, level)
    given = bind(Goal((0.1, 0.2), goal_features=(3, 2)), model).objective(x, level)
    other = bind(Goal((0.1, 0.2), goal_features=(0, 1)), model).objective(x, level)
    assert torch.equal(default, given) and not torch.allclose(default, other)
    guide = Goal((0.1, 0.2))
    bind(guide, model)
    assert guide.goal_features is None, "a guide may steer several models"


def test_plans_go_to_their_goals() -> None:
    model = fit(
        flat_model(EPISODES, horizon=6, stride=3, denoiser=TransformerConfig(width=32, depth=1)),
        EPISODES,
        steps=300,
    )
    starts = np.zeros((4, 4), np.float32)
    goals = np.float32([[1, 0], [-1, 0], [0, 1], [0, -1]])
    missed = []
    for scale in (0.0, 0.2, 2.0):
        guide = Goal(width=0.5, scale=scale)
        planner = flat_planner(model, guides=[guide], candidates=8, steps=8)
        assert "goal" in planner.condition_keys
        plans = planner.plan_batch(starts, seeds=range(4), condition={"goal": goals})
        ends = np.stack([plan.candidates[:, -1, :2] for plan in plans])
        missed.append(float(np.linalg.norm(ends - goals[:, None], axis=-1).mean()))
    print(f"\nmean distance of all ends to their goals at scales 0, 0.2 and 2: {missed}")
    assert missed[0] > missed[1] > missed[2] and missed[2] < missed[0] / 2
    # One goal, as an argument of the guide or of the plan.
    given = flat_planner(model, guides=[Goal((1.0, 0.0), width=0.5)], candidates=4, steps=4)
    per_plan = flat_planner(model, guides=[Goal(width=0.5)], candidates=4, steps=4)
    assert "goal" not in given.condition_keys
    np.testing.assert_allclose(
        given.plan(starts[0]).candidates,
        per_plan.plan(starts[0], condition={"goal": (1.0, 0.0)}).candidates,
        atol=1e-6,
    )


# -------------------------------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"where": "start"}, "`where` must be one of {any, end, every}"),
        ({"width": 0.0}, r"`width` must be a number in \(0.0, inf\]"),
        ({"goal": (0.0, float("nan"))}, "`goal` must be a number"),
        (
            {"goal": (0.0, 1.0, 2.0), "goal_features": (0, 1)},
            r"`goal` must .*\[0, 1\]. Got \[0.0, 1.0,",
        ),
        ({"goal_features": (0, -1)}, "`goal_features` must be an integer of at least 0. Got -1"),
        ({"goal_features": ()}, "`goal_features` must name at least one feature"),
        ({"scale": -1.0}, "`scale` must be"),
    ],
)
def test_bad_settings_are_named(options: dict[str, Any], message: str) -> None:
    with pytest.raises(PgdiffError, match=message):
        Goal(**options)


def test_a_goal_that_does_not_fit_is_named() -> None:
    model = tiny_model(EPISODES)
    with pytest.raises(
        PgdiffError, match="`goal_features` of 'goal' must be indices of the 4 features"
    ):
        flat_planner(model, guides=[Goal((0.0, 0.0), goal_features=(0, 4))])
    with pytest.raises(PgdiffError, match="`goal` of 'goal' must give a number for each"):
        flat_planner(model, guides=[Goal((0.0,))])
    with pytest.raises(PgdiffError, match="`goal` must be given to the guide goal"):
        flat_planner(model, guides=[Goal()]).plan(np.zeros(4))
    with pytest.raises(PgdiffError, match=r"`goal` of 'goal' must be given.*to Goal\(goal\)"):
        Goal().objective(PATH, LEVEL)
    wide = Segment(observations=PATH.observations, condition={"goal": torch.zeros(1, 3)})
    with pytest.raises(PgdiffError, match=r"`goal` of 'goal' must give .* 2 goal features. Got 3"):
        Goal().objective(wide, LEVEL)
