"""Sums of guides: weights, shared settings, plans."""

from typing import Any

import numpy as np
import pytest
import torch
from judges import AGENTS, EPISODES, Smooth
from torch import Tensor
from toys import flat_planner, generator, tiny_model

from pgdiff import Segment
from pgdiff.core.validation import PgdiffError
from pgdiff.diffusion import DiffuserRule, Power, Score
from pgdiff.guides import Constraint, Critic, Disc, Goal, Guide, Policy, SpeedLimit, Sum, bind
from pgdiff.model.guidance import needs_goal
from pgdiff.testing import check_guide

LEVEL = torch.zeros(1, 6)
ACTIONS = ("observations", "actions")


class Slow:
    """A minimal user-defined guide."""

    name, gradient_at, scale = "slow", "x0", 3.0

    def objective(self, segment: Segment, level: Tensor) -> Tensor:
        return -segment.observations[..., 2:].square().mean(dim=(1, 2))


def segment() -> Segment:
    states = torch.randn(3, 6, 4, generator=generator(0))
    return Segment(observations=states, actions=torch.randn(3, 6, 2, generator=generator(1)))


def test_operators_weigh_and_add_energies() -> None:
    goal, limit, slow = Goal((0.1, 0.2), scale=2.0), Constraint(SpeedLimit(0.3)), Slow()
    e_goal, e_limit, e_slow = (guide.objective(segment(), LEVEL) for guide in (goal, limit, slow))
    for whole, expected in (
        (0.5 * goal, e_goal),
        (goal * 0.5, e_goal),
        (goal + limit, 2 * e_goal + e_limit),
        (0.5 * goal + limit, e_goal + e_limit),
        (goal + slow, 2 * e_goal + 3 * e_slow),
        (slow + goal, 3 * e_slow + 2 * e_goal),
        (-1 * goal + (limit + slow) * 2, -2 * e_goal + 2 * e_limit + 6 * e_slow),
        (Sum([goal, slow], weights=[0.25, 2.0]), 0.5 * e_goal + 6 * e_slow),
    ):
        assert isinstance(whole, Sum) and isinstance(whole, Guide) and whole.scale == 1.0
        torch.testing.assert_close(whole.objective(segment(), LEVEL), expected)
    assert (goal + slow).name == "goal + slow" and Sum([goal, slow], name="both").name == "both"


@pytest.mark.parametrize("model", ["untouched", "chunks"])
def test_it_is_a_sound_guide(model: str) -> None:
    fields = ACTIONS if model == "untouched" else ("observations", "action_chunks")
    whole = 0.5 * Policy(AGENTS["SAC"](), fields=None) + Critic(Smooth()) + Goal()
    figures = check_guide(whole, tiny_model(EPISODES, fields=fields), goal=[0.1, 0.2])
    assert figures["gradient"] > 0 and figures["error"] < 1e-2


def test_a_sum_plans_as_a_list_does() -> None:
    """Moves are linear in gradients without normalisation, and scores are objectives."""
    model = tiny_model(EPISODES)
    goal, limit = Goal((1.0, 0.0), width=3.0), Constraint(SpeedLimit(0.1))
    settings: dict[str, Any] = {"candidates": 4, "steps": 4}
    one = flat_planner(model, guides=[0.3 * goal + 2 * limit], **settings).plan(np.zeros(4))
    weak, strong = Goal((1.0, 0.0), width=3.0, scale=0.3), Constraint(SpeedLimit(0.1), scale=2.0)
    many = flat_planner(model, guides=[weak, strong], **settings).plan(np.zeros(4))
    free = flat_planner(model, guides=[], **settings).plan(np.zeros(4))
    np.testing.assert_allclose(one.candidates, many.candidates, atol=1e-5)
    assert np.abs(one.candidates - free.candidates).max() > 1e-2
    seen = Segment(observations=torch.from_numpy(one.candidates), stride=3)
    expected = 0.3 * goal.objective(seen, LEVEL) + 2 * limit.objective(seen, LEVEL)
    np.testing.assert_allclose(one.scores, expected.numpy(), rtol=1e-4)


def test_its_gradient_is_normalised_as_a_whole() -> None:
    model = tiny_model(EPISODES)
    parts = [
        Goal((1.0, 0.0), normalize_gradient="plan"),
        Constraint(Disc((0.0, 0.0), 3.0), normalize_gradient="plan"),
    ]
    x = torch.randn(2, 6, 4, generator=generator(0))
    whole = bind(Sum(parts), model)
    norm = whole.direction(whole.gradient(x, LEVEL)).norm(dim=(1, 2))
    torch.testing.assert_close(norm, torch.ones(2))
    twice = bind(Sum(parts, weights=[2.0, 2.0]), model)
    torch.testing.assert_close(
        twice.direction(twice.gradient(x, LEVEL)), whole.direction(whole.gradient(x, LEVEL))
    )


def test_its_requirements_are_those_of_its_members() -> None:
    model = tiny_model(EPISODES, position=(2, 3))
    whole = Goal() + (0.5 * Goal((0.0, 0.0)))
    assert needs_goal(whole) and not needs_goal(0.5 * Goal((0.0, 0.0)))
    x = torch.randn(2, 6, 4, generator=generator(0))
    goal = torch.tensor([[0.3, 0.4]])
    result = bind(whole, model, {"goal": goal}).objective(x, LEVEL)
    each = [
        bind(guide, model, {"goal": goal}).objective(x, LEVEL)
        for guide in (Goal(), Goal((0.0, 0.0)))
    ]
    torch.testing.assert_close(result, each[0] + 0.5 * each[1])
    with pytest.raises(PgdiffError, match=r"`goal` must be given to the guide goal \+ goal"):
        flat_planner(model, guides=[whole]).plan(np.zeros(4))
    with pytest.raises(PgdiffError, match=r"`fields` of the model must hold 'actions' .* 'policy'"):
        flat_planner(model, guides=[0.5 * Policy(Smooth())])


def test_settings_are_those_that_members_share() -> None:
    one = Goal(
        (0.0, 0.0),
        rule="diffuser",
        gradient_at="x",
        fields=("observations",),
        scale_schedule=Power(),
    )
    two = Goal((1.0, 0.0), gradient_at="x", fields=("observations",))
    whole = one + two
    assert (whole.gradient_at, whole.rule, whole.scale_schedule) == ("x", DiffuserRule(), Power())
    assert (
        whole.fields == ("observations",)
        and whole.normalize_gradient is whole.token_weights is None
    )
    assert (two + one).rule == DiffuserRule(), "one that has none takes the other's"


# -------------------------------------------------------------------------------------- bad input


def goal(**options: Any) -> Goal:
    return Goal((0.0, 0.0), **options)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: goal(name="a") + goal(gradient_at="x", name="b"),
            "`gradient_at` of 'a' and 'b' must be equal in a Sum.* Got 'x0' and 'x'.* a list of",
        ),
        (
            lambda: goal(name="a", rule="diffuser") + goal(name="b", rule=Score()),
            r"`rule` of 'a' and 'b' must be .* Got DiffuserRule\(\) and Score\(",
        ),
        (
            lambda: (
                goal(name="a", normalize_gradient="step")
                + goal(name="b", normalize_gradient="plan")
            ),
            "`normalize_gradient` of 'a' and 'b' must be equal",
        ),
        (
            lambda: (
                goal(name="a", scale_schedule="power") + goal(name="b", scale_schedule="sine_bump")
            ),
            "`scale_schedule` of 'a' and 'b' must be equal",
        ),
        (lambda: goal() + Policy(Smooth()), "`fields` of 'goal' and 'policy' must be equal"),
        (
            lambda: goal() + goal(token_weights=(1.0,) * 6),
            "`token_weights` of 'goal' and 'goal' must be equal",
        ),
        (lambda: goal() + goal(scale=0.0), "`scale` of 'goal' must be above 0 in a Sum"),
        (
            lambda: goal() + goal(score_weight=2.0),
            "`score_weight` of 'goal' must be 1 in a Sum.* Got 2.0",
        ),
        (lambda: goal() + 1.0, "`guides` must have the attributes name, .* Got a float"),
        (lambda: sum([goal(), goal()]), "`guides` must have the attributes name, .* Got a int"),
        (lambda: float("nan") * goal(), "`weights` must be a number"),
        (lambda: goal() * goal(), "`weights` must be a number"),
        (lambda: Sum([]), "`guides` must be a list of at least one guide"),
        (lambda: Sum(goal()), "`guides` must be a list of at least one guide"),
        (lambda: Sum([goal()], weights=[1.0, 2.0]), "`weights` must be 1 numbers.* Got 2"),
        (lambda: Sum([goal()], scale=-1.0), "`scale` must be"),
    ],
)
def test_bad_sums_are_named(make: Any, message: str) -> None:
    with pytest.raises(PgdiffError, match=message):
        make()


def test_the_member_that_is_at_fault_is_named() -> None:
    class Broken(Slow):
        name = "broken"

        def objective(self, segment: Segment, level: Tensor) -> Tensor:
            return super().objective(segment, level) * torch.nan

    planner = flat_planner(tiny_model(EPISODES), guides=[goal() + Broken()], candidates=2, steps=2)
    with pytest.raises(PgdiffError, match="The objective of 'broken' must be finite"):
        planner.plan(np.zeros(4))
