"""Acting by the plan's own actions."""

from typing import Any

import numpy as np
import pytest
import torch
from toys import tiny_model, walk

from pgdiff import Planner
from pgdiff.diffusion import SamplerStep
from pgdiff.trajectory import Plan, Segment
from pgdiff.validation import PgdiffError

EPISODES = walk()
WALKS = np.random.default_rng(0).uniform(-1, 1, (40, 3, 4)).astype(np.float32)
LAYOUTS: dict[str, dict[str, Any]] = {
    "chunks": {"fields": ("observations", "action_chunks"), "stride": 3},
    "chunks first": {"fields": ("action_chunks", "observations"), "stride": 3},
    "chunks of one": {"fields": ("observations", "action_chunks"), "stride": 1},
    "actions": {"fields": ("observations", "actions"), "stride": 1},
    "previous": {"fields": ("observations", "previous_actions"), "stride": 3},
    "previous first, of one": {"fields": ("previous_actions", "observations"), "stride": 1},
}
HELD = {"actions": "actions", "previous": "previous_actions"}
"""The field in which a layout has its actions; that of the others is `action_chunks`."""


class Recording(Planner):
    """A planner that keeps every plan, by the environment's first observation of it."""

    plans: list[tuple[np.ndarray, list[Plan]]]

    def plan_batch(self, observations: Any, **options: Any) -> list[Plan]:
        made = super().plan_batch(observations, **options)
        self.plans.append((np.asarray(observations), made))
        return made


def make(layout: str, **options: Any) -> Recording:
    settings: dict[str, Any] = {
        "model": tiny_model(EPISODES, horizon=4, **LAYOUTS[layout]),
        "controller": "actions",
        "candidates": 2,
        "steps": 3,
        "device": "cpu",
    }
    planner = Recording(**(settings | options))
    planner.plans = []
    return planner


@pytest.mark.parametrize("layout", sorted(LAYOUTS))
def test_a_plans_actions_are_those_of_its_tokens(layout: str) -> None:
    """Token by token and step by step, from the normalised samples."""
    planner = make(layout)
    seen: list[SamplerStep] = []
    plan = planner.plan(WALKS[0, 0], callback=seen.append)
    model, stride = planner.model, planner.model.layout.stride
    token = seen[-1].x[plan.best]
    raw = token * model.normalizer.scale + model.normalizer.center
    name = HELD.get(layout.partition(" ")[0], "action_chunks")
    start = model.layout.slices[name].start
    if name == "previous_actions":  # those that lead to the first token are no part of the plan
        assert torch.equal(raw[0, start : start + 2 * stride], torch.zeros(2 * stride))
        raw = raw[1:]
    assert plan.actions is not None and plan.actions.shape == (len(raw) * stride, 2)
    for k in range(len(raw)):
        for j in range(stride):
            expected = raw[k, start + 2 * j : start + 2 * j + 2].numpy()
            np.testing.assert_allclose(plan.actions[k * stride + j], expected, atol=1e-6)


@pytest.mark.parametrize("replan_every", [None, 1, 5, 30])
@pytest.mark.parametrize("layout", sorted(LAYOUTS))
def test_every_step_has_its_own_action(layout: str, replan_every: int | None) -> None:
    """Across tokens, past the end of a plan, with new episodes and three environments."""
    planner = make(layout, replan_every=replan_every)
    following: list[Plan | None] = [None, None, None]
    age = [0, 0, 0]
    state: Any = None
    for t in range(40):
        begins = np.array([t == 0, t in (0, 7), t in (0, 7, 31)])
        planner.plans.clear()
        action, state = planner.predict(WALKS[t], state, begins)
        due = [i for i in range(3) if begins[i] or age[i] == replan_every]
        made = planner.plans[0][1] if planner.plans else []
        for i, plan in zip(due, made, strict=True):
            following[i], age[i] = plan, 0
        for i in range(3):
            plan = following[i]
            assert plan is not None and plan.actions is not None
            assert np.array_equal(action[i], plan.actions[min(age[i], len(plan.actions) - 1)])
            age[i] += 1


def test_one_environment_and_no_batch() -> None:
    planner = make("chunks", replan_every=None)
    state: Any = None
    for t in range(15):
        action, state = planner.predict(WALKS[t, 0], state)
        (_, (plan,)) = planner.plans[0]
        assert plan.actions is not None and action.shape == (2,)
        assert np.array_equal(action, plan.actions[min(t, 11)])


class First:
    """A guide for which the first candidate of every environment is the best."""

    name, at, scale = "first", "x0", 0.0

    def energy(self, segment: Segment, level: Any) -> torch.Tensor:
        place = torch.arange(len(segment.observations)) % 2
        return 0 * segment.observations.sum(dim=(1, 2)) - place


@pytest.mark.parametrize("layout", sorted(LAYOUTS))
def test_a_plan_that_is_always_kept_acts_as_one_that_is_followed_to_its_end(layout: str) -> None:
    """Replanned after 5 steps, which is no whole number of strides, and past the plan's end."""
    driven = []
    for replan_every in (None, 5):
        planner = make(layout, guides=[First()], keep_plan=True, replan_every=replan_every)
        state: Any = None
        actions = []
        for t in range(20):
            action, state = planner.predict(WALKS[t], state)
            actions.append(action)
        driven.append(np.stack(actions))
        assert planner.plans_made == (3 if replan_every is None else 12)
    np.testing.assert_allclose(driven[1], driven[0], atol=1e-5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {},
            "'previous_actions', or 'actions' at stride 1. Got a model of observations at stride 3",
        ),
        ({"fields": ("observations", "actions")}, "Got a model of observations, actions at stride"),
    ],
)
def test_a_model_that_has_no_action_for_every_step_is_refused(
    options: dict[str, Any], message: str
) -> None:
    with pytest.raises(PgdiffError, match=message):
        Planner(tiny_model(EPISODES, **options), controller="actions", device="cpu")
