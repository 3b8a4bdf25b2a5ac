"""Fitted Q evaluation against exact values of policies."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from toys import finite_differences, fit
from worlds import DISCOUNT, STATES, chain, chain_q, coin, make, normal, random_episodes

from pgdiff.agents import FittedQ
from pgdiff.core.pretrained import load_learner
from pgdiff.core.validation import PgdiffError


class Table:
    """A policy of the chain: an action for each state, or None for a random one of both."""

    def __init__(self, *actions: float | None) -> None:
        self.actions = actions

    def predict(self, observation: np.ndarray, deterministic: bool = True) -> tuple[Any, None]:
        drawn = torch.randint(2, (len(observation),)).numpy() * 2.0 - 1.0
        fixed = np.array([0.0 if action is None else action for action in self.actions])
        chosen = fixed[observation.argmax(axis=1)]
        return np.where(chosen == 0, drawn, chosen)[:, None], None


POLICIES = [
    Table(1, 1, 1, 1),
    Table(-1, 1, -1, 1),
    Table(None, None, None, None),
    Table(1, 1, 1, 1),
]


def exact(policy: Table) -> np.ndarray:
    """Return the values of a policy in the chain, by iterating its Bellman equation."""
    up = np.array([0.5 if a is None else (1 + a) / 2 for a in policy.actions])
    values = np.zeros(STATES)
    for _ in range(200):
        q = chain_q(values)
        values = (1 - up) * q[:, 0] + up * q[:, 1]
    return values


def learn(policies: Any, episodes: Any, *, steps: int = 500, **options: Any) -> FittedQ:
    settings = {"discount": DISCOUNT, "tau": 0.2, "width": 32, "depth": 1}
    fitted = FittedQ.from_episodes(episodes, policies=policies, **(settings | options))
    return fit(fitted, episodes, steps=steps, batch_size=64, learning_rate=1e-2, ema_decay=0.0)


@pytest.fixture(scope="module")
def evaluated() -> FittedQ:
    return learn(POLICIES, chain())


def test_policies_of_the_chain_have_their_exact_values(evaluated: FittedQ) -> None:
    """The behaviour is random; each policy's value follows from its own Bellman equation."""
    starts = np.eye(STATES)
    values = np.stack([exact(policy) for policy in POLICIES])
    for state in range(STATES):
        found = evaluated.estimates(starts[state : state + 1])
        if state:
            known = [0, 1, 3]  # the drawn action is one sample of two
            np.testing.assert_allclose(found[known], values[known, state], atol=0.03)
    mean = evaluated.estimates(np.repeat(starts, 500, axis=0))
    print(f"\nmean values {mean.round(3)}, exact {values.mean(axis=1).round(3)}")
    np.testing.assert_allclose(mean, values.mean(axis=1), atol=0.03)
    q = evaluated.q(torch.eye(STATES), torch.ones(STATES, 1)).detach().numpy()
    for number, expected in enumerate(values):
        np.testing.assert_allclose(q[number], chain_q(expected)[:, 1], atol=0.05)


def test_equal_policies_have_equal_values(evaluated: FittedQ) -> None:
    found = evaluated.estimates(np.eye(STATES))
    assert found[0] == pytest.approx(found[3], abs=1e-6)
    assert found[0] > found[2] > 0


@pytest.mark.parametrize(
    ("steps", "tolerance"), [(400, 0.03), pytest.param(700, 0.02, marks=pytest.mark.slow)]
)
@pytest.mark.parametrize("terminal", [True, False])
def test_terminals_end_and_timeouts_do_not(terminal: bool, steps: int, tolerance: float) -> None:
    """In the only state of `coin`, the value of action a is `1 + a` per step."""

    class Constant:
        def __init__(self, action: float) -> None:
            self.action = action

        def predict(self, observation: Any, deterministic: bool = True) -> tuple[Any, None]:
            return np.full((len(observation), 1), self.action), None

    fitted = learn([Constant(-1.0), Constant(1.0)], coin(terminal=terminal), steps=steps)
    found = fitted.estimates(np.zeros((3, 2)))
    going = DISCOUNT * (0.8 if terminal else 1.0)
    print(f"\nterminal {terminal}: {found}, exact {[0.0, 2 / (1 - going)]}")
    np.testing.assert_allclose(found, [0.0, 2 / (1 - going)], atol=tolerance * 2 / (1 - going))


def test_drawn_actions_follow_from_the_seed() -> None:
    episodes = chain(copies=40)
    before = torch.random.get_rng_state()
    batches = [
        FittedQ.from_episodes(episodes, policies=[POLICIES[2]], seed=seed)
        .dataset(episodes)
        .batch(np.arange(200))
        .next_action
        for seed in (0, 0, 1)
    ]
    assert np.array_equal(batches[0], batches[1]) and not np.array_equal(batches[0], batches[2])
    assert torch.equal(before, torch.random.get_rng_state())

    episodes = random_episodes()
    agent = make("iql", episodes)
    drawn = [
        FittedQ.from_episodes(episodes, policies=[agent], deterministic=False, seed=seed)
        .dataset(episodes)
        .batch(np.arange(200))
        .next_action
        for seed in (0, 0, 1)
    ]
    assert np.array_equal(drawn[0], drawn[1]) and not np.array_equal(drawn[0], drawn[2])


def test_policies_are_called_once(monkeypatch: pytest.MonkeyPatch) -> None:
    episodes, policy, calls = chain(copies=40), Table(1, 1, 1, 1), []
    predict = policy.predict
    monkeypatch.setattr(policy, "predict", lambda *a, **k: calls.append(1) or predict(*a, **k))
    learn([policy], episodes, steps=3, width=8)
    fitted = FittedQ.from_episodes(episodes, policies=[policy])
    for part in (episodes, *episodes.split(0.3, seed=0)):
        fitted.dataset(part)
    assert len(calls) == 2


def test_a_saved_one_gives_the_same_estimates(evaluated: FittedQ, tmp_path: Path) -> None:
    evaluated.save_pretrained(tmp_path / "q")
    again = load_learner(tmp_path / "q", device="cpu")
    assert isinstance(again, FittedQ) and again.unit == evaluated.unit
    starts = np.eye(STATES)
    found = again.estimates(starts, policies=POLICIES)
    assert np.array_equal(found, evaluated.estimates(starts))
    for call in (lambda: again.estimates(starts), lambda: again.dataset(chain(copies=1))):
        with pytest.raises(PgdiffError, match=r"`policies` must be given, because the folder"):
            call()
    with pytest.raises(PgdiffError, match=r"`policies` must be 4 policies\. Got 1"):
        again.estimates(starts, policies=POLICIES[:1])


def test_a_folder_stands_for_all_its_members(tmp_path: Path) -> None:
    episodes = random_episodes()
    agent = make("td3_bc", episodes, members=3)
    agent.save_pretrained(tmp_path / "agent")
    of_folder = FittedQ.from_episodes(episodes, policies=[tmp_path / "agent"])
    of_members = FittedQ.from_episodes(episodes, policies=[agent.member(i) for i in range(3)])
    actions = [
        fitted.dataset(episodes).batch(np.arange(50)).next_action
        for fitted in (of_folder, of_members)
    ]
    assert np.array_equal(*actions) and actions[0].shape == (50, 1, 3, 2)
    of_members.save_pretrained(tmp_path / "q")
    with pytest.raises(PgdiffError, match=r"must hold an agent\. Got a FittedQ"):
        FittedQ.from_episodes(episodes, policies=[str(tmp_path / "q")])


def test_many_observations_are_taken_in_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    episodes = random_episodes()
    agent = make("cloning", episodes, members=2)
    fitted = FittedQ.from_episodes(episodes, policies=[agent, agent.member(1)])
    whole = fitted.estimates(episodes.observations)
    monkeypatch.setattr("pgdiff.agents.fitted_q._BLOCK_ROWS", 7)
    monkeypatch.setattr("pgdiff.agents.fitted_q_policies._BLOCK_ROWS", 3)
    np.testing.assert_allclose(fitted.estimates(episodes.observations), whole, rtol=1e-5)


def test_gradients_of_q_are_finite_differences() -> None:
    episodes = random_episodes()
    fitted = FittedQ.from_episodes(episodes, policies=[make("iql", episodes)] * 2, width=16)
    fitted.double()
    x, action = (normal(4, size, dtype=torch.float64) for size in (3, 2))
    given = action.clone().requires_grad_(True)
    (gradient,) = torch.autograd.grad(fitted.q(x, given).sum(), given)
    with torch.no_grad():
        differences = finite_differences(lambda a: fitted.q(x, a), action, step=1e-6)
    assert (gradient - differences).abs().max() < 1e-6 * gradient.abs().max()


class Wrong:
    def __init__(self, actions: Any) -> None:
        self.actions = actions

    def predict(self, observation: Any, deterministic: bool = True) -> tuple[Any, None]:
        return np.broadcast_to(self.actions, (len(observation), np.size(self.actions))), None


def test_bad_policies_are_named() -> None:
    episodes = random_episodes()
    bad: tuple[tuple[Any, str], ...] = (
        ([], r"`policies` must be a list of agents, or of folders .* Got \[\]"),
        ("agent", r"`policies` must be a list of agents"),
        (None, r"`policies` must be a list of agents"),
        ([3], r"`policies` must have `predict`\. Got a int"),
        (["nowhere"], r"does not exist"),
        ([Wrong([0.0])], r"Policy 0 of `policies` must return finite actions .* shape \[300, 1\]"),
        ([Wrong([0.0, np.nan])], r"Policy 0 of `policies` .* with NaN or Inf"),
    )
    for policies, message in bad:
        with pytest.raises(PgdiffError, match=message):
            FittedQ.from_episodes(episodes, policies=policies).dataset(episodes)


def test_bad_observations_are_named(evaluated: FittedQ) -> None:
    for wrong, message in (
        (np.zeros((0, STATES)), r"`observations` must have the shape \[rows, observation\]"),
        (np.zeros(STATES), r"`observations` must have the shape \[rows, observation\]"),
        (np.zeros((2, 3)), r"`observations` must have the shape \[..., 4\]"),
    ):
        with pytest.raises(PgdiffError, match=message):
            evaluated.estimates(wrong)
