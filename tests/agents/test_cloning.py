"""Behaviour cloning against the maximum likelihood in closed form."""

import numpy as np
import torch
from toys import fit, record
from worlds import cpu_batch, make, random_episodes

from pgdiff.agents import ActionCritic, Actor

PLACES = 3


def test_it_finds_the_mean_of_each_state_and_the_deviation_of_all() -> None:
    """This holds beyond [-1, 1] too, where the bounds are the data's."""
    rng = np.random.default_rng(0)
    states = rng.integers(PLACES, size=3000)
    means = np.array([[-0.5, 2.0], [0.0, -1.0], [0.6, 0.5]])
    actions = means[states] + rng.uniform(-1, 1, (3000, 2)) * [0.3, 1.5]
    episodes = record(
        np.eye(PLACES)[states], actions, np.zeros(3000), lengths=[1000, 1999, 1], terminal=False
    )
    agent = make("cloning", episodes, width=32, depth=1)
    fit(agent, episodes, steps=400, batch_size=256, learning_rate=2e-2, ema_decay=0.0)
    # The maximum likelihood: the mean of each state, and the deviation from it over all rows.
    mean = np.stack([actions[states == place].mean(axis=0) for place in range(PLACES)])
    deviation = np.sqrt(np.square(actions - mean[states]).mean(axis=0))
    learned = agent.action(torch.eye(PLACES)).detach().numpy()
    _, log_deviation = agent._policy(torch.eye(PLACES))
    found = (log_deviation.exp() * agent.actions.scale).detach().numpy()
    print(
        f"\nmean {learned.round(3).tolist()}, exact {mean.round(3).tolist()}; {found}, {deviation}"
    )
    np.testing.assert_allclose(learned, mean, atol=0.05)
    np.testing.assert_allclose(found, deviation, rtol=0.03)


def test_its_loss_is_iqls_with_weight_one() -> None:
    episodes = random_episodes()
    cloning, iql = make("cloning", episodes), make("iql", episodes, temperature=0.0)
    iql.actor.load_state_dict(cloning.actor.state_dict())
    batch = cpu_batch(iql.dataset(episodes), np.arange(50))
    losses = [agent.losses(batch, torch.Generator())["actor"] for agent in (cloning, iql)]
    torch.testing.assert_close(*losses)


def test_it_learns_from_every_row_and_needs_no_reward() -> None:
    episodes = record(np.arange(9.0)[:, None], np.zeros((9, 1)), np.zeros(9), lengths=[1, 8])
    agent = make("cloning", episodes, members=2)
    source = agent.dataset(episodes)
    assert len(source) == 9
    seen = source.batch(np.arange(9)).observation
    assert np.array_equal(seen[:, 0, 0], np.arange(9)) and seen.shape == (9, 2, 1)
    assert np.array_equal(np.sort(seen[:, 1, 0]), np.arange(9))
    assert not np.array_equal(seen[:, 1, 0], np.arange(9))


def test_it_is_an_actor_and_no_critic() -> None:
    agent = make("cloning")
    assert isinstance(agent, Actor) and not isinstance(agent, ActionCritic)
    assert isinstance(make("iql"), Actor) and isinstance(make("iql"), ActionCritic)
