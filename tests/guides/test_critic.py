"""Guides of a critic: closed forms, moved fields, refused inputs."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from judges import AGENTS, EPISODES, Smooth, live
from torch import Tensor, nn
from toys import DOUBLE, flat_planner, generator, record, tiny_model

from pgdiff import Segment, TransitionValue
from pgdiff.core.validation import PgdiffError
from pgdiff.guides import Critic, Guide

ACTIONS, CHUNKS = ("observations", "actions"), ("action_chunks", "observations")
LEVEL = torch.zeros(1, 6)


class Inpainting:
    """A critic whose heads are the first features of action and observation."""

    def q(self, observation: Tensor, action: Tensor) -> Tensor:
        return torch.stack([action[..., 0], observation[..., 0]])

    def value(self, observation: Tensor) -> Tensor:
        return observation[..., 1]


def segment(first: list[float], of_state: list[float], *, stride: int = 3) -> Segment:
    """Return one trajectory with heads `first` and `of_state`, and values 10 times as large."""
    actions = torch.tensor([first], dtype=DOUBLE)[..., None].expand(-1, -1, 2)
    state = torch.tensor(of_state, dtype=DOUBLE)
    observations = torch.stack([state, 10 * state], dim=-1)[None]
    return Segment(observations=observations, actions=actions, stride=stride)


SEEN = segment([1.0, 5.0, 3.0], [2.0, 4.0, -6.0])


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, (1 + 4 - 6) / 3),
        ({"heads": "mean"}, (1.5 + 4.5 - 1.5) / 3),
        ({"where": "end"}, -6.0),
        ({"where": "end", "heads": "mean"}, -1.5),
        ({"where": "discounted", "discount": 0.5}, (1 + 4 / 8 - 6 / 64) / (1 + 1 / 8 + 1 / 64)),
        ({"where": "discounted", "discount": 1.0}, (1 + 4 - 6) / 3),
        ({"of": "value"}, 0.0),
        ({"of": "value", "where": "end"}, -60.0),
        ({"heads": "mean", "transform": "log", "floor": 0.1}, math.log(1.5)),
        ({"where": "end", "transform": "log", "floor": 0.1}, -6 / 0.1 - 1 + math.log(0.1)),
    ],
    ids=str,
)
def test_closed_forms(options: dict[str, Any], expected: float) -> None:
    objective = Critic(Inpainting(), **options).objective(SEEN, LEVEL)
    torch.testing.assert_close(objective, torch.tensor([expected], dtype=DOUBLE))


def test_without_actions_it_uses_the_value_of_states() -> None:
    bare = Segment(observations=SEEN.observations, stride=3)
    assert float(Critic(Inpainting()).objective(bare, LEVEL)) == 0.0
    agent = AGENTS["IQL"]()
    guide = Critic(agent)
    assert isinstance(guide, Guide)
    states = torch.randn(2, 6, 4, generator=generator(0))
    expected = agent.value(states).mean(dim=1)
    torch.testing.assert_close(guide.objective(Segment(observations=states), LEVEL), expected)
    planner = flat_planner(tiny_model(EPISODES), guides=[guide], candidates=2, steps=2)
    assert np.isfinite(planner.plan(np.zeros(4)).scores).all()


def test_a_value_of_this_package_is_a_critic_of_states() -> None:
    value = TransitionValue.from_episodes(EPISODES, stride=3, width=16, depth=1)
    states = torch.randn(2, 6, 4, generator=generator(0))
    result = Critic(value, where="end").objective(Segment(observations=states, stride=3), LEVEL)
    torch.testing.assert_close(result, value.value(states[:, -1]))


def test_of_a_chunk_it_sees_the_first_action() -> None:
    chunks = torch.randn(2, 6, 6, generator=generator(1))
    states = torch.randn(2, 6, 4, generator=generator(2))
    agent = Smooth()
    result = Critic(agent).objective(
        Segment(observations=states, action_chunks=chunks, stride=3), LEVEL
    )
    expected = agent.q(states, chunks[..., :2]).amin(dim=0).mean(dim=1)
    torch.testing.assert_close(result, expected)


def test_files_and_live_models_are_critics(tmp_path: Path) -> None:
    model, iql = live("TD3"), AGENTS["IQL"]()
    model.save(tmp_path / "td3.zip")
    iql.save_pretrained(tmp_path / "iql")
    seen = Segment(
        observations=torch.randn(2, 6, 4, generator=generator(0)),
        actions=torch.zeros(2, 6, 2),
        stride=3,
    )
    for critic, place in ((model, "td3.zip"), (iql, "iql")):
        expected = Critic(critic).objective(seen, LEVEL)
        result = Critic(tmp_path / place).objective(seen, LEVEL)
        torch.testing.assert_close(result, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("transform", ["none", "log"])
def test_plans_get_higher_values(transform: Any) -> None:
    class Near(nn.Module):
        """A positive critic with its maximum at the action (0.5, -0.5)."""

        def q(self, observation: Tensor, action: Tensor) -> Tensor:
            there = action.new_tensor([0.5, -0.5])
            return (-(action - there).square().sum(dim=-1)).exp()[None]

    model = tiny_model(EPISODES, fields=ACTIONS)
    result = []
    for scale in (0.0, 3.0, 30.0):
        guide = Critic(Near(), scale=scale, transform=transform)
        plan = flat_planner(model, guides=[guide], candidates=16, steps=8).plan(np.zeros(4))
        result.append(float(plan.scores.mean()))
    print(f"\n{transform}: value of plans at scales 0, 3 and 30: {result}")
    assert result[0] < result[1] < result[2]


# -------------------------------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    ("critic", "options", "message"),
    [
        (Inpainting(), {"scale": float("nan")}, "`scale` must be a number"),
        (Inpainting(), {"where": "last"}, "`where` must be one of {discounted, end, every}"),
        (Inpainting(), {"heads": "max"}, "`heads` must be one of {mean, min}"),
        (Inpainting(), {"of": "state"}, "`of` must be one of {action, value}"),
        (Inpainting(), {"discount": 0.0}, r"`discount` must be a number in \(0.0, 1.0\]"),
        (Inpainting(), {"transform": "exp"}, "`transform` must be one of {log, none}"),
        (Inpainting(), {"floor": 0.0}, "`floor` must be"),
        (nn.Linear(6, 1), {}, "`critic` must be .* with the method q or value. Got a Linear"),
        (nn.Linear(6, 1), {"of": "value"}, "`critic` must be .* method value. Got a Linear"),
        ("nowhere.zip", {}, "'nowhere.zip' does not exist"),
    ],
)
def test_bad_settings_are_named(critic: Any, options: dict[str, Any], message: str) -> None:
    with pytest.raises(PgdiffError, match=message):
        Critic(critic, **options)


def test_a_model_that_does_not_fit_is_refused() -> None:
    iql = AGENTS["IQL"]()
    with pytest.raises(PgdiffError, match="`fields` of the model must hold 'actions'"):
        flat_planner(tiny_model(EPISODES), guides=[Critic(iql, of="action")])
    with pytest.raises(PgdiffError, match=r"`critic` .* must have the method value\(observation\)"):
        flat_planner(tiny_model(EPISODES), guides=[Critic(Judged(lambda q: q))])
    more = record(EPISODES.observations[:, :3], EPISODES.actions, EPISODES.rewards, lengths=[480])
    with pytest.raises(PgdiffError, match=r"`critic` must be of the model's task.*\(4,\).*\(3,\)"):
        flat_planner(tiny_model(more), guides=[Critic(iql)])
    with pytest.raises(PgdiffError, match="`segment` must have actions for 'critic'"):
        Critic(iql, of="action").objective(Segment(observations=torch.zeros(1, 6, 4)), LEVEL)


def test_an_agent_says_what_it_has_no_critic_of() -> None:
    model = tiny_model(EPISODES, fields=ACTIONS)
    for name, of, message in (
        ("PPO", None, "PPO agents have no Q-function"),
        ("SAC", "value", "SAC agents have no value function"),
    ):
        planner = flat_planner(model, guides=[Critic(AGENTS[name](), of=of)], candidates=2, steps=2)
        with pytest.raises(PgdiffError, match=message):
            planner.plan(np.zeros(4))


def test_a_critic_of_actions_alone_is_refused_for_observations() -> None:
    with pytest.raises(PgdiffError, match=r"object with the method value\. Got a TD3BC"):
        Critic(AGENTS["TD3BC"](), of="value")


class Judged(nn.Module):
    """A critic with faulty estimates."""

    def __init__(self, spoil: Any) -> None:
        super().__init__()
        self.spoil = spoil

    def q(self, observation: Tensor, action: Tensor) -> Tensor:
        result: Tensor = self.spoil(torch.stack([action.sum(dim=-1), observation.sum(dim=-1)]))
        return result


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (
            lambda q: q * torch.nan,
            "The objective of 'mine' must be finite(, .*|\\.) Got nan for trajectory 0",
        ),
        (
            lambda q: q / 0,
            "The objective of 'mine' must be finite(, .*|\\.) Got (inf|nan) for trajectory 0",
        ),
        (lambda q: q[..., 0], r"`q` of the agent of 'mine' must return .* Got \[2, 2\]"),
        (lambda q: q.transpose(1, 2), r"`q` of the agent of 'mine' must return .* Got \[2, 6, 2\]"),
        (lambda q: None, "`q` of the agent of 'mine' must return .* Got NoneType"),
    ],
)
@pytest.mark.parametrize("scale", [1.0, 0.0])
@pytest.mark.usefixtures("unchecked")
def test_bad_estimates_are_named(spoil: Any, message: str, scale: float) -> None:
    model = tiny_model(EPISODES, fields=ACTIONS)
    guide = Critic(Judged(spoil), name="mine", scale=scale)
    planner = flat_planner(model, guides=[guide], candidates=2, steps=2)
    with pytest.raises(PgdiffError, match=message):
        planner.plan(np.zeros(4))
