"""Acting by the plan's actions."""

from typing import Any

import numpy as np
import pytest
import torch
from toys import flat_planner, planner_options, tiny_model, walk

from pgdiff import Planner
from pgdiff.core.validation import PgdiffError
from pgdiff.diffusion import SamplerStep
from pgdiff.trajectory import Plan, Segment

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
"""The field in which a layout has its actions; for other layouts it is `action_chunks`."""


class Recording(Planner):
    """A planner that keeps every plan, by the first observation that the environment had for it."""

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
    planner = Recording(**planner_options(settings | options))
    planner.plans = []
    return planner


def test_a_plans_actions_are_those_of_its_tokens() -> None:
    """They are equal token by token and step by step, from the normalised samples."""
    for layout in LAYOUTS:
        check_tokens(layout)


def check_tokens(layout: str) -> None:
    planner = make(layout)
    seen: list[SamplerStep] = []
    plan = planner.plan(WALKS[0, 0], callback=seen.append)
    model, stride = planner.model, planner.model.codec.spec.stride
    token = seen[-1].x[plan.best]
    raw = token * model.codec.normalizer.scale + model.codec.normalizer.center
    name = HELD.get(layout.partition(" ")[0], "action_chunks")
    start = model.codec.layout.slices[name].start
    if name == "previous_actions":  # actions that lead to the first token are not part of the plan
        assert torch.equal(raw[0, start : start + 2 * stride], torch.zeros(2 * stride))
        raw = raw[1:]
    assert plan.actions is not None and plan.actions.shape == (len(raw) * stride, 2)
    for k in range(len(raw)):
        for j in range(stride):
            expected = raw[k, start + 2 * j : start + 2 * j + 2].numpy()
            np.testing.assert_allclose(plan.actions[k * stride + j], expected, atol=1e-6)


@pytest.mark.parametrize("layout", sorted(LAYOUTS))
def test_every_step_has_its_own_action(layout: str) -> None:
    """This holds across tokens, past a plan's end, with new episodes and three environments."""
    for replan_every in (None, 5, 30):
        check_steps(layout, replan_every)


def check_steps(layout: str, replan_every: int | None) -> None:
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
    """A guide that prefers the first candidate of every environment."""

    name, gradient_at, scale = "first", "x0", 0.0

    def objective(self, segment: Segment, level: Any) -> torch.Tensor:
        place = torch.arange(len(segment.observations)) % 2
        return 0 * segment.observations.sum(dim=(1, 2)) - place


@pytest.mark.parametrize("layout", sorted(LAYOUTS))
def test_a_plan_that_is_always_kept_acts_as_one_that_is_followed_to_its_end(layout: str) -> None:
    """It replans after 5 steps, which is not a multiple of the stride, and past the plan's end."""
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


def test_a_model_that_has_no_action_for_every_step_is_refused() -> None:
    for fields in (("observations",), ("observations", "actions")):
        message = f"'actions' at stride 1. Got a model of {', '.join(fields)} at stride 3"
        with pytest.raises(PgdiffError, match=message):
            flat_planner(tiny_model(EPISODES, fields=fields), controller="actions", device="cpu")
