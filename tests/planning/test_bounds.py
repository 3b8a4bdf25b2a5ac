"""Actions lie within the recorded range to the last bit, in every way of making them."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from toys import flat_planner, flat_rollout, record, stir, tiny_model, walk

from pgdiff import Episodes, InverseDynamics
from pgdiff.agents import IQL, TD3BC
from pgdiff.model.clipping import on_bounds

WALK = walk()
ODD = record(
    WALK.observations,
    np.asarray(WALK.actions) * (0.1, 0.7) + (0.05, -0.3),
    WALK.rewards,
    lengths=[80] * 6,
)
"""Bounds whose middle and half-width round."""
OBSERVATIONS = np.random.default_rng(0).uniform(-1, 1, (20, 4)).astype(np.float32)
SMALL: dict[str, Any] = {"width": 16, "depth": 1}


def loud(fields: str, normalizer: str) -> Any:
    """Return a model whose estimates lie far outside, so that all actions are on their bounds."""
    stride = 1 if fields == "actions" else 3
    model = tiny_model(ODD, fields=("observations", fields), normalizer=normalizer, stride=stride)
    with torch.no_grad():
        model.network.token_out.weight.mul_(40)
    return model


def acted(fields: str, normalizer: str) -> Iterator[np.ndarray]:
    """Return actions of plans, of acting, and of long roll-outs."""
    model = loud(fields, normalizer)
    planner = flat_planner(model, controller="actions", candidates=2, steps=3, replan_every=2)
    seeds = range(len(OBSERVATIONS))
    plans = planner.plan_batch(OBSERVATIONS, seeds=seeds)
    yield np.stack([plan.actions for plan in plans if plan.actions is not None])
    yield planner.predict(OBSERVATIONS)[0]
    segment = flat_rollout(model, OBSERVATIONS, tokens=6, steps=3)
    found = segment.every_action
    assert found is not None
    yield found.numpy()


def test_a_plans_own_actions() -> None:
    low, high = np.asarray(ODD.actions).min(axis=0), np.asarray(ODD.actions).max(axis=0)
    for fields in ("actions", "action_chunks", "previous_actions"):
        for normalizer in ("limits", "standard", "arctanh"):
            for actions in acted(fields, normalizer):
                assert ((low <= actions) & (actions <= high)).all(), (fields, normalizer)
                if normalizer != "arctanh":
                    assert ((actions == low) | (actions == high)).any(), (fields, normalizer)


def test_what_is_further_out_than_rounding_stays_there() -> None:
    model = loud("actions", "standard")
    low, high = (torch.tensor(bound) for bound in model.codec.action_range)
    just, far = torch.nextafter(high, high + 1), high + 0.1 * (high - low)
    x = torch.cat([torch.zeros(2, 4), torch.stack([just, far])], dim=1)[None]
    segment = on_bounds(model.codec.layout.segment(x), model.codec.action_range)
    assert segment.actions is not None
    assert torch.equal(segment.actions[0], torch.stack([high, far]))


def agents(episodes: Episodes) -> Iterator[Any]:
    low, high = np.asarray(episodes.actions).min(axis=0), np.asarray(episodes.actions).max(axis=0)
    for kind in (TD3BC, IQL):
        yield kind.from_episodes(episodes, action_low=low, action_high=high, members=1, **SMALL)


def test_controllers_and_agents() -> None:
    low, high = np.asarray(ODD.actions).min(axis=0), np.asarray(ODD.actions).max(axis=0)
    far = np.full(20, 3)
    for kind in (torch.float32, torch.float16, torch.float64):
        inverse = stir(InverseDynamics.from_episodes(ODD, stride=3, **SMALL), size=5).to(kind)
        action = inverse.act(OBSERVATIONS, -OBSERVATIONS, far)
        assert ((low <= action) & (action <= high)).all() and (action == high).any()
    for agent in agents(ODD):
        stir(agent, size=20)
        action, _ = agent.predict(OBSERVATIONS)
        assert ((low <= action) & (action <= high)).all() and (action == high).any()
