"""Implicit Q-learning against values and policies in closed form."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from toys import fit, record
from worlds import (
    DISCOUNT,
    STATES,
    chain,
    chain_q,
    coin,
    cpu_batch,
    make,
    normal,
    random_episodes,
)

from pgdiff.agents import IQL
from pgdiff.core.validation import PgdiffError

HERE = torch.zeros(1, 2)


def learn(episodes: Any, *, steps: int = 300, **options: Any) -> IQL:
    settings = {"discount": DISCOUNT, "tau": 0.2, "width": 32, "depth": 1}
    agent = make("iql", episodes, **(settings | options))
    return fit(agent, episodes, steps=steps, batch_size=64, learning_rate=1e-2, ema_decay=0.0)


@pytest.mark.parametrize(
    ("terminal", "expectile"),
    [
        (True, 0.9),
        (False, 0.5),
        *(
            pytest.param(*case, marks=pytest.mark.slow)
            for case in ((True, 0.5), (True, 0.98), (False, 0.9), (False, 0.98))
        ),
    ],
)
def test_the_value_of_a_coin_is_known_for_every_expectile(terminal: bool, expectile: float) -> None:
    """`V = 2 tau + gamma p V`, p the probability to continue: 1 with timeouts, 4/5 with terminals.

    With expectile 1/2 it is the return of the behaviour, towards 1 that of the better action.
    """
    agent = learn(coin(terminal=terminal), expectile=expectile, temperature=0.5)
    going = DISCOUNT * (0.8 if terminal else 1.0)
    exact = 2 * expectile / (1 - going)
    with torch.no_grad():
        value = float(agent.value(HERE))
        q = agent.q(HERE.expand(2, 2), torch.tensor([[-1.0], [1.0]]))
    print(f"\nterminal {terminal}, expectile {expectile}: value {value:.3f}, exact {exact:.3f}")
    assert abs(value - exact) < 0.02 * exact
    known = torch.tensor([going * exact, 2 + going * exact]).expand(2, 2)
    torch.testing.assert_close(q, known, rtol=0.02, atol=0.02)


@pytest.mark.parametrize(("features", "tau"), [(None, 0.5), ((0,), 0.9)])
def test_a_value_of_some_features_is_the_expectile_over_the_others(
    features: Any, tau: float
) -> None:
    """Observations are drawn independently in every step; the second feature f pays 1 + f.

    `V(f) = 1 + f + gamma / (1 - gamma)` of all features; without f, `V = 2 tau / (1 - gamma)`.
    """
    whole = coin(terminal=False)
    shown = np.stack([np.zeros(len(whole.rewards)), whole.actions[:, 0]], axis=1)
    rng = np.random.default_rng(0)
    episodes = record(
        shown, rng.uniform(-1, 1, whole.actions.shape), whole.rewards, lengths=[5] * 400
    )
    agent = learn(episodes, expectile=tau, value_features=features, temperature=0.0, steps=500)
    with torch.no_grad():
        low, high = agent.value(torch.tensor([[0.0, -1.0], [0.0, 1.0]])).tolist()
    rest = DISCOUNT / (1 - DISCOUNT)
    known = (rest, 2 + rest) if features is None else (2 * tau / (1 - DISCOUNT),) * 2
    np.testing.assert_allclose((low, high), known, rtol=0.02, atol=0.02)
    assert (low == high) == (features is not None)


def test_the_actor_is_the_weighted_maximum_likelihood() -> None:
    """Actions -1 and 1 with weights `exp(beta A)` have the mean tanh(beta); the rest follows."""
    agent = learn(coin(terminal=False), expectile=0.5, temperature=0.5, steps=500)
    mean = math.tanh(0.5)
    deviation = math.sqrt(1 - mean**2)
    with torch.no_grad():
        learned = float(agent.action(HERE))
        _, log_deviation = agent._policy(HERE)
    print(f"\nmean {learned:.3f}, exact {mean:.3f}; deviation {float(log_deviation.exp()):.3f}")
    assert abs(learned - mean) < 0.04
    assert abs(float(log_deviation.exp()) - deviation) < 0.03


def fixed_point(expectile: float) -> np.ndarray:
    """Return the chain's values: iterate `V = expectile of Q` over two equally likely actions."""
    values = np.zeros(STATES)
    for _ in range(200):
        q = np.sort(chain_q(values), axis=1)
        values = (1 - expectile) * q[:, 0] + expectile * q[:, 1]
    return values


@pytest.mark.parametrize("expectile", [pytest.param(0.5, marks=pytest.mark.slow), 0.95])
def test_the_chain_has_the_values_of_its_fixed_point(expectile: float) -> None:
    agent = learn(chain(), expectile=expectile, steps=500)
    exact = fixed_point(expectile)
    optimal = DISCOUNT ** np.arange(STATES - 1, -1, -1.0)
    with torch.no_grad():
        learned = agent.value(torch.eye(STATES)).numpy()
        q = agent.q(
            torch.eye(STATES)[:, None].expand(-1, 2, -1),
            torch.tensor([[-1.0], [1.0]]).expand(STATES, 2, 1),
        )
    print(f"\nexpectile {expectile}: {learned.round(3)}, exact {exact.round(3)}, best {optimal}")
    np.testing.assert_allclose(learned, exact, atol=0.03)
    for head in q:
        np.testing.assert_allclose(head, chain_q(exact), atol=0.05)
    if expectile > 0.9:  # near the best, and its actor goes there
        np.testing.assert_allclose(exact, optimal, atol=0.12)
        assert (agent.action(torch.eye(STATES)) > 0).all()


def test_scaled_returns_lie_1000_apart_and_values_are_unscaled() -> None:
    episodes = coin(terminal=True, episodes=40)
    agent = IQL.from_episodes(episodes, members=1, normalize_returns=True)
    returns = episodes.rewards.reshape(40, 5).sum(axis=1)
    scale = 1000 / (returns.max() - returns.min())
    assert agent.reward_scale == pytest.approx(scale, rel=1e-5)
    plain = IQL.from_episodes(episodes, members=1)
    x, a = normal(6, 2), normal(6, 1)
    torch.testing.assert_close(agent.q(x, a) * scale, plain.q(x, a))
    torch.testing.assert_close(agent.value(x) * scale, plain.value(x))
    batch = cpu_batch(agent.dataset(episodes), np.arange(64))
    losses = [
        each.losses(batch._replace(reward=batch.reward * factor), torch.Generator())
        for each, factor in ((agent, 1.0), (plain, scale))
    ]
    torch.testing.assert_close(losses[0], losses[1])


def test_gradients_reach_what_they_should() -> None:
    episodes = random_episodes()
    agent = make("iql", episodes, members=2)
    batch = cpu_batch(agent.dataset(episodes), np.arange(16))
    parts = {"value": agent.value_network, "critic": agent.critic, "actor": agent.actor}
    for name in parts:
        agent.zero_grad()
        agent.losses(batch, torch.Generator())[name].backward()
        for other, part in parts.items():
            reached = [p.grad is not None and bool(p.grad.any()) for p in part.parameters()]
            assert all(reached) if other == name else not any(reached)
    assert not any(p.requires_grad for p in agent.target_critic.parameters())


def test_weights_are_bounded() -> None:
    """With advantages of hundreds, the loss is finite and that of weights of 100."""
    episodes = random_episodes()
    agent = make("iql", episodes, temperature=1e6)
    batch = cpu_batch(agent.dataset(episodes), np.arange(200))
    loss = agent.losses(batch, torch.Generator())["actor"]
    density = agent.log_prob(batch.observation[:, 0], batch.action[:, 0])
    density = density + agent.actions.scale.log().sum()
    pair = (batch.observation[:, 0], batch.action[:, 0])
    advantage = agent.q(*pair).amin(dim=0) - agent.value(batch.observation[:, 0])
    torch.testing.assert_close(loss, -(torch.where(advantage > 0, 100.0, 0.0) * density).mean())


def test_bad_settings_are_named() -> None:
    bad: tuple[tuple[dict[str, Any], str], ...] = (
        ({"expectile": 1.0}, r"`expectile` must be a number in \(0, 1\)"),
        ({"expectile": "high"}, r"`expectile` must be a number in .* Got 'high'"),
        ({"temperature": -1.0}, r"`temperature` must be a number in \[0, "),
        ({"discount": 1.0}, r"`discount` must be a number in \(0, 1\)"),
        ({"value_features": [7]}, r"`value_features` must be indices .* Got \[7\]"),
        ({"tau": 0.0}, r"`tau` must be a number in \(0, 1\]"),
    )
    for options, message in bad:
        with pytest.raises(PgdiffError, match=message):
            make("iql", **options)


def test_equal_returns_have_no_scale() -> None:
    episodes = record(np.zeros((6, 1)), np.zeros((6, 1)), [1, 0, 2, 0, 1, 2], lengths=[3, 3])
    with pytest.raises(
        PgdiffError, match=r"`normalize_returns` must be false .* 3.0 for each of 2"
    ):
        IQL.from_episodes(episodes, normalize_returns=True)
