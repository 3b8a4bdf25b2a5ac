"""TD3 with behaviour cloning: known optima, and the delayed actor."""

from typing import Any

import numpy as np
import pytest
import torch
from toys import fit, record
from worlds import DISCOUNT, STATES, chain, cpu_batch, make, normal, random_episodes

from pgdiff.core.validation import PgdiffError
from pgdiff.training import Trainer


def bandit(*, rows: int = 2000, seed: int = 0) -> Any:
    """Return episodes of one step; action a, uniform in [-1, 1], pays `1 - (a - 1/2)^2`."""
    actions = np.linspace(-1, 1, rows)
    actions = np.random.default_rng(seed).permutation(actions)
    rewards = 1 - (actions - 0.5) ** 2
    return record(np.zeros((rows, 2)), actions[:, None], rewards, lengths=[1] * rows, terminal=True)


def best(alpha: float) -> float:
    """Return where `alpha Q(a) / |Q(a)| - a^2` has slope 0 for a fixed factor: by iteration."""
    action = 0.0
    for _ in range(100):
        balance = alpha / abs(1 - (action - 0.5) ** 2)
        action = 0.5 * balance / (1 + balance)
    return action


@pytest.mark.parametrize("alpha", [0.0, pytest.param(2.5, marks=pytest.mark.slow), 10.0])
def test_on_a_bandit_the_actor_goes_to_the_known_optimum(alpha: float) -> None:
    """With alpha 0 it clones, and the mean action is 0; with a large one it takes the best."""
    episodes = bandit()
    agent = make("td3_bc", episodes, alpha=alpha, width=64, depth=1, tau=0.02)
    settings: dict[str, Any] = {"batch_size": 128, "learning_rate": 1e-2, "ema_decay": 0.0}
    fit(agent, episodes, steps=600, **settings)
    learned = agent.action(torch.zeros(2)).item()
    print(f"\nalpha {alpha}: action {learned:.3f}, exact {best(alpha):.3f}")
    assert abs(learned - best(alpha)) < 0.04
    q = agent.q(torch.zeros(5, 2), torch.linspace(-0.8, 0.8, 5)[:, None])
    exact = 1 - (torch.linspace(-0.8, 0.8, 5) - 0.5) ** 2
    torch.testing.assert_close(q, exact.expand(2, 5), rtol=0, atol=0.06)


def test_in_the_chain_it_goes_up_with_the_right_value() -> None:
    episodes = chain()
    agent = make(
        "td3_bc",
        episodes,
        alpha=50.0,
        policy_noise=0.0,
        discount=DISCOUNT,
        tau=0.2,
        width=32,
        depth=1,
    )
    fit(agent, episodes, steps=500, batch_size=64, learning_rate=1e-2, ema_decay=0.0)
    states = torch.eye(STATES)
    assert (agent.action(states) > 0.8).all()
    optimal = DISCOUNT ** torch.arange(STATES - 1, -1, -1.0)
    q = agent.q(states, torch.ones(STATES, 1)).detach()
    print(f"\nworth of going up {q.mean(0)}, exact {optimal}")
    torch.testing.assert_close(q, optimal.expand(2, -1), rtol=0, atol=0.06)


def state_of(agent: Any, optimizer: torch.optim.Optimizer) -> list[torch.Tensor]:
    values = []
    for parameter in agent.actor.parameters():
        values += [parameter.detach().clone()]
        values += [value.clone() for value in optimizer.state.get(parameter, {}).values()]
    return values


def test_between_its_turns_the_actor_stays_as_it_is() -> None:
    """Gradients are None then, so that Adam moves neither weights nor moments."""
    episodes = random_episodes()
    for delay in (1, 2, 3):
        agent = make("td3_bc", episodes, members=2, policy_delay=delay)
        parameters = [p for p in agent.parameters() if p.requires_grad]
        optimizer = torch.optim.AdamW(parameters, lr=1e-2, fused=True)
        source = agent.dataset(episodes)
        for step in range(1, 7):
            batch = cpu_batch(source, np.arange(8) + 8 * step)
            losses = agent.losses(batch, torch.Generator().manual_seed(step))
            turn = step % delay == 0
            assert sorted(losses) == (["actor", "critic"] if turn else ["critic"])
            before = state_of(agent, optimizer)
            slow = [
                p.clone()
                for p in (*agent.target_actor.parameters(), *agent.target_critic.parameters())
            ]
            optimizer.zero_grad()
            sum(losses.values()).backward()
            assert all((p.grad is not None) == turn for p in agent.actor.parameters())
            assert all(p.grad is not None for p in agent.critic.parameters())
            optimizer.step()
            agent.after_step()
            after = state_of(agent, optimizer)
            same = len(before) == len(after) and all(map(torch.equal, before, after))
            assert same == (not turn)
            now = [*agent.target_actor.parameters(), *agent.target_critic.parameters()]
            assert all(map(torch.equal, now, slow)) == (not turn)
        assert int(agent.updates) == 6


def test_the_actors_loss_leaves_the_critic_alone() -> None:
    episodes = random_episodes()
    agent = make("td3_bc", episodes, policy_delay=1)
    batch = cpu_batch(agent.dataset(episodes), np.arange(16))
    agent.losses(batch, torch.Generator())["actor"].backward()
    assert all(p.grad is None or not p.grad.any() for p in agent.critic.parameters())
    assert all(p.grad is not None and p.grad.any() for p in agent.actor.parameters())


def test_the_noise_is_the_generators_and_bounded() -> None:
    episodes = random_episodes()
    agent = make("td3_bc", episodes)
    batch = cpu_batch(agent.dataset(episodes), np.arange(64))

    def loss(seed: int, **changes: float) -> float:
        for name, value in changes.items():
            setattr(agent, name, value)
        return agent.losses(batch, torch.Generator().manual_seed(seed))["critic"].item()

    assert loss(0) == loss(0) != loss(1)
    assert loss(0, noise_clip=0.0) == loss(1)
    assert loss(0, noise_clip=0.5, policy_noise=0.0) == loss(1)


def test_a_held_out_loss_is_reported_at_every_turn() -> None:
    episodes = random_episodes()
    trainer = Trainer(
        steps=3, batch_size=4, validation=0.2, validate_every=1, device="cpu", progress=False
    )
    trainer.fit(make("td3_bc", episodes), episodes)
    assert all("eval/actor_loss" in record for record in trainer.history)


def test_its_density_is_a_gaussian_of_its_deviation() -> None:
    agent = make("td3_bc", deviation=0.5, action_low=[-2.0, 0.0], action_high=[4.0, 1.0])
    scale = torch.tensor([3.0, 0.5])
    x, action = normal(5, 3), normal(5, 2) * 10
    with torch.no_grad():
        law = torch.distributions.Normal(agent.action(x), 0.5 * scale)
        torch.testing.assert_close(agent.log_prob(x, action), law.log_prob(action).sum(-1))


def test_bad_settings_are_named() -> None:
    bad: tuple[tuple[dict[str, Any], str], ...] = (
        ({"alpha": -1.0}, r"`alpha` must be a number in \[0, "),
        ({"policy_noise": -0.1}, r"`policy_noise` must be"),
        ({"noise_clip": float("inf")}, r"`noise_clip` must be"),
        ({"policy_delay": 0}, r"`policy_delay` must be an integer of at least 1"),
        ({"deviation": 0.0}, r"`deviation` must be a number in \(0"),
    )
    for options, message in bad:
        with pytest.raises(PgdiffError, match=message):
            make("td3_bc", **options)
