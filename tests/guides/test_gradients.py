"""Gradients of every guide and agent against central finite differences."""

from typing import Any

import numpy as np
import pytest
import torch
from judges import AGENTS, EPISODES, HIGH, LOW, Smooth, live
from torch import Tensor, nn
from toys import DOUBLE, generator, stir, tiny_model

from pgdiff import Segment, SegmentValue, TrajectoryDiffusion, TransitionValue
from pgdiff.agents import load
from pgdiff.denoisers import TransformerConfig
from pgdiff.guides import (
    ActionLimit,
    Box,
    Constraint,
    Critic,
    Disc,
    Goal,
    Policy,
    Return,
    SpeedLimit,
    Value,
    bind,
)
from pgdiff.testing import check_guide

STEPS = 1e-6, 2.5e-7
ACTIONS, CHUNKS = ("observations", "actions"), ("action_chunks", "observations")
REWARDS = ("rewards", "observations", "actions")


def points(model: TrajectoryDiffusion) -> tuple[Tensor, Tensor]:
    """Return four trajectories partly outside the data, and a level for every token."""
    shape = (4, model.codec.tokens, model.codec.features)
    x = 0.9 * torch.randn(shape, generator=generator(3), dtype=DOUBLE)
    return x, torch.rand(4, model.codec.tokens, generator=generator(4), dtype=DOUBLE)


def differences(function: Any, x: Tensor, step: float) -> Tensor:
    """Return central differences of independent rows, one feature of all rows at a time."""
    gradient = torch.zeros_like(x)
    for place in np.ndindex(*x.shape[1:]):
        up, down = x.clone(), x.clone()
        up[:, *place] += step
        down[:, *place] -= step
        gradient[:, *place] = (function(up) - function(down)) / (2 * step)
    return gradient


def relative(one: Tensor, other: Tensor) -> float:
    """Return the largest distance of two gradients relative to their size, which may be 0."""
    size = other.norm(dim=(1, 2)).clamp(min=1e-9)
    return float(((one - other).norm(dim=(1, 2)) / size).max())


def check(guide: Any, model: TrajectoryDiffusion, *networks: nn.Module, goal: Any = None) -> Tensor:
    """Compare the gradient of a function of normalised tokens in float64, and return it."""
    model.double()
    for network in networks:
        network.double()
    x, level = points(model)
    guidance = bind(guide, model, None if goal is None else {"goal": torch.tensor([goal])})
    gradient = guidance.gradient(x, level)
    with torch.no_grad():
        coarse, fine = (
            differences(lambda gradient_at: guidance.objective(gradient_at, level), x, h)
            for h in STEPS
        )
    # Rectifiers have kinks, which two step sizes treat differently.
    assert relative(coarse, fine) < 1e-6, "a kink lies within a step of a point"
    error = relative(gradient, fine)
    print(f"\n{guide.name}: relative error {error:.1e}")
    assert error < 1e-6
    return gradient


# ------------------------------------------------------------------------------------------ agents


@pytest.mark.parametrize("fields", [ACTIONS, CHUNKS])
@pytest.mark.parametrize("name", AGENTS)
def test_of_policies(name: str, fields: tuple[str, ...]) -> None:
    agent = AGENTS[name]()
    model = tiny_model(EPISODES, fields=fields)
    x, _ = points(model.double())
    segment = model.codec.decode(x)
    actions = segment.actions if segment.actions is not None else segment.action_chunks[..., :2]
    bounds = torch.tensor(LOW), torch.tensor(HIGH)
    inside = ((actions > bounds[0]) & (actions < bounds[1])).all(dim=-1)
    assert 4 <= int(inside.sum()) <= 20, "of 24 actions some are in bounds and some are not"
    gradient = check(Policy(agent, temperature=0.7), model, agent)
    unused = gradient[..., 2:6] if fields == CHUNKS else gradient[..., :0]
    assert (unused == 0).all(), "the policy sees the first action of a chunk"
    assert (gradient[..., -2:] != 0).any(dim=(0, 2)).all(), "every token counts"


@pytest.mark.parametrize("name", ["SAC", "PPO", "TD3"])
def test_of_policies_with_a_deviation(name: str) -> None:
    agent = AGENTS[name]()
    check(Policy(agent, deviation=0.3), tiny_model(EPISODES, fields=ACTIONS), agent)


@pytest.mark.parametrize("limit", [0.5, 0.999])
def test_of_squashed_policies_with_a_limit(limit: float) -> None:
    agent = AGENTS["SAC"]()
    check(Policy(agent, limit=limit), tiny_model(EPISODES, fields=ACTIONS), agent)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"heads": "mean", "where": "discounted", "discount": 0.9},
        {"where": "end"},
        {"heads": "mean", "transform": "log"},
    ],
    ids=str,
)
@pytest.mark.parametrize("name", ["SAC", "TD3", "TQC", "IQL", "TD3BC", "own"])
def test_of_critics(name: str, options: dict[str, Any]) -> None:
    agent = AGENTS[name]()
    check(Critic(agent, **options), tiny_model(EPISODES, fields=ACTIONS), agent)


@pytest.mark.parametrize("where", ["every", "discounted", "end"])
@pytest.mark.parametrize("name", ["PPO", "IQL", "own"])
def test_of_values_of_states(name: str, where: Any) -> None:
    agent = AGENTS[name]()
    gradient = check(Critic(agent, of="value", where=where), tiny_model(EPISODES), agent)
    assert (gradient[:, :-1] == 0).all() == (where == "end")


# ------------------------------------------------------------------------------------ other guides


def test_of_returns() -> None:
    for options in ({}, {"target": 3.0, "width": 0.5}, {"discount": 1.0}):
        gradient = check(Return(**options), tiny_model(EPISODES, fields=REWARDS))
        assert (gradient[..., 1:] == 0).all() and (gradient[..., 0] != 0).all()
    small = TransformerConfig(width=16, depth=1, heads=2)
    value = stir(SegmentValue.from_episodes(EPISODES, horizon=6, stride=3, denoiser=small))
    check(Return(value), tiny_model(EPISODES), value)
    check(Return(value, target=70.0, width=10.0, gradient_at="x0"), tiny_model(EPISODES), value)


@pytest.mark.parametrize("where", ["end", "any", "every"])
def test_of_goals(where: Any) -> None:
    model = tiny_model(EPISODES)
    given = check(Goal((0.5, -0.2), where=where, width=0.6), model)
    per_plan = check(Goal(where=where, width=0.6), model, goal=(0.5, -0.2))
    torch.testing.assert_close(given, per_plan, rtol=1e-7, atol=0)  # the goal is passed in float32
    assert (given[..., 2:] == 0).all() and (given[:, -1, :2] != 0).all()
    assert (given[:, :-1] == 0).all() == (where == "end")


@pytest.mark.parametrize(
    "cost",
    [
        Disc((0.2, 0.1), 3.0, margin=0.4),
        Disc((0.2, 0.1), 4.0, path=False),
        Disc((0.2, 0.1, 0.0), 3.5, position=(1, 0, 3)),
        Box((-2.5, -3.0), (3.5, 2.0), margin=0.5),
        Box((-4.0, -4.0), (5.0, 3.0), path=False),
        Box((-2.5, -1.0, -2.5), (3.5, 0.8, 2.5), position=(0, 2, 1)),
        SpeedLimit(0.5),
        ActionLimit(LOW, HIGH),
    ],
    ids=str,
)
def test_of_constraints(cost: Any) -> None:
    for fields in (ACTIONS, CHUNKS):
        model = tiny_model(EPISODES, fields=fields)
        gradient = check(Constraint(cost), model)
        assert (gradient.flatten(1) != 0).any(dim=1).sum() >= 2


def test_of_sums() -> None:
    agent, critic = AGENTS["IQL"](), AGENTS["SAC"]()
    value = stir(TransitionValue.from_episodes(EPISODES, stride=3, width=16, depth=1))
    model = tiny_model(EPISODES, fields=ACTIONS)
    parts = (
        Policy(agent, scale=2.0, fields=None),
        Critic(critic),
        Value(value, scale=10.0, transform="none"),
        Goal(),
        Constraint(Disc((0.0, 0.0), 0.5)),
    )
    weights = (0.5, 2.0, 1.0, -0.3, 1.0)
    whole = 0.5 * parts[0] + 2 * parts[1] + parts[2] + -0.3 * parts[3] + parts[4]
    goal = (0.4, 0.4)
    gradient = check(whole, model, agent, critic, value, goal=goal)
    each = [check(part, model, goal=goal) for part in parts]
    expected = sum(
        weight * part.scale * one for weight, part, one in zip(weights, parts, each, strict=True)
    )
    torch.testing.assert_close(gradient, expected)


# ------------------------------------------------------------------------------------- references


def judged() -> tuple[Segment, Tensor, Tensor]:
    """Return a segment of 24 tokens within the agents' bounds, and its parts."""
    observations = torch.randn(4, 6, 4, generator=generator(7))
    scaled = 1.9 * torch.rand(4, 6, 2, generator=generator(8)) - 0.95
    low, high = torch.tensor(LOW), torch.tensor(HIGH)
    actions = low + (scaled + 1) / 2 * (high - low)
    return Segment(observations=observations, actions=actions, stride=3), observations, scaled


@torch.no_grad()
def test_energies_are_those_of_stable_baselines3() -> None:
    segment, observations, scaled = judged()
    flat, flat_scaled = observations.reshape(-1, 4), scaled.reshape(-1, 2)
    level = torch.zeros(1, 6)

    sac, td3, tqc, ppo = (live(name) for name in ("SAC", "TD3", "TQC", "PPO"))
    for squashed in (sac, tqc):
        mean, log_std, _ = squashed.policy.actor.get_action_dist_params(flat)
        law = squashed.policy.actor.action_dist.proba_distribution(mean, log_std)
        expected = law.log_prob(flat_scaled).reshape(4, 6).sum(dim=1)
        objective = Policy(squashed).objective(segment, level)
        torch.testing.assert_close(objective, expected, rtol=1e-4, atol=1e-3)
    normal = torch.distributions.Normal(td3.policy.actor(flat), 1.0)
    expected = normal.log_prob(flat_scaled).sum(dim=1).reshape(4, 6).sum(dim=1)
    torch.testing.assert_close(
        Policy(td3).objective(segment, level), expected, rtol=1e-4, atol=1e-4
    )
    raw = segment.actions.reshape(-1, 2)
    value, density, _ = ppo.policy.evaluate_actions(flat, raw)
    torch.testing.assert_close(
        Policy(ppo, temperature=2.0).objective(segment, level),
        density.reshape(4, 6).sum(dim=1) / 2,
        rtol=1e-4,
        atol=1e-4,
    )
    objective = Critic(ppo, of="value").objective(segment, level)
    torch.testing.assert_close(objective, value.reshape(4, 6).mean(dim=1), rtol=1e-5, atol=1e-5)
    for twin in (sac, td3):
        estimates = torch.cat(twin.policy.critic(flat, flat_scaled), dim=1)
        objective = Critic(twin).objective(segment, level)
        torch.testing.assert_close(objective, estimates.amin(dim=1).reshape(4, 6).mean(dim=1))
    estimates = tqc.policy.critic(flat, flat_scaled).mean(dim=2)  # [24, critics, quantiles]
    objective = Critic(tqc, heads="mean", where="end").objective(segment, level)
    torch.testing.assert_close(objective, estimates.mean(dim=1).reshape(4, 6)[:, -1])


@pytest.mark.usefixtures("unchecked", "own_registry")
@pytest.mark.parametrize("name", AGENTS)
def test_they_are_sound_guides(name: str) -> None:
    agent = AGENTS[name]()
    for fields in (ACTIONS, CHUNKS):
        model = tiny_model(EPISODES, fields=fields)
        guides = [Policy(agent)]
        if name not in ("Cloning", "PPO"):
            guides += [Critic(agent), Critic(agent, where="end", heads="mean", transform="log")]
        for guide in guides:
            assert check_guide(guide, model)["error"] < 1e-5


def test_a_model_and_an_agent_of_it_are_the_same() -> None:
    """A live model equals the result of `load`."""
    segment, _, _ = judged()
    model = live("SAC")
    level = torch.zeros(1, 6)
    assert torch.equal(
        Policy(model).objective(segment, level), Policy(load(model)).objective(segment, level)
    )


def test_nothing_after_a_generated_terminal_counts() -> None:
    """Return, policy, critic and value depend on a trajectory only up to its end."""
    ends = torch.tensor([2, 0, 6])[:, None]  # the last one does not end
    tokens = torch.arange(6)
    flags = (tokens >= ends).float()[..., None]
    value = TransitionValue.from_episodes(EPISODES, stride=1, width=8, depth=1)
    guides = {
        "return": Return(),
        "policy": Policy(Smooth()),
        "mean": Critic(Smooth()),
        "discounted": Critic(Smooth(), where="discounted"),
        "end": Critic(Smooth(), where="end"),
        "states": Critic(Smooth(), of="value"),
        # The reward of the last step belongs to the state that it leads to.
        "value": Value(stir(value), transform="none"),
    }
    sizes = {"observations": 4, "actions": 2, "rewards": 1}
    parts = {k: torch.randn(3, 6, n, generator=generator(n)) for k, n in sizes.items()}
    level = torch.zeros(1, 6)
    for name, guide in guides.items():
        later = (tokens > ends + (name == "value"))[..., None]
        moved = {k: torch.where(later, x + 3, x) for k, x in parts.items()}
        plain = guide.objective(Segment(**parts, terminals=flags), level)
        changed = guide.objective(Segment(**moved, terminals=flags), level)
        without = guide.objective(Segment(**parts), level)
        assert torch.equal(plain, changed), name
        torch.testing.assert_close(plain[2], without[2])
        assert (plain[:2] - without[:2]).abs().min() > 1e-4, name


def test_an_end_counts_once_where_it_is_uncertain() -> None:
    """Recorded flags stay 1 after an end: with probability 1/2, half of the later tokens count."""
    rewards = torch.ones(1, 4, 1)
    flags = torch.tensor([[0.0, 0.5, 0.5, 0.5]])[..., None].requires_grad_()
    segment = Segment(observations=torch.zeros(1, 4, 1), rewards=rewards, terminals=flags)
    objective = Return(discount=1.0).objective(segment, torch.zeros(1, 4))
    assert objective.item() == 1 + 1 + 0.5 + 0.5
    (gradient,) = torch.autograd.grad(objective.sum(), flags)
    assert gradient.flatten().tolist() == [-1, -1, -1, 0]  # each end costs the next reward once
