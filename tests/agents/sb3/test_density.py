"""Densities and values of agents: against Stable-Baselines3's, and their gradients."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.distributions import Normal, TanhTransform, TransformedDistribution
from zips import ODD, Drift, make_model, observations

from pgdiff.agents import Agent, VecNormalizeStatistics
from pgdiff.core.validation import PgdiffError

SMOOTH: dict[str, Any] = {"net_arch": [16, 8], "activation_fn": nn.Tanh}
LOW, HIGH = (torch.tensor(bound, dtype=torch.float64) for bound in ODD)
SQUASHED = ["SAC", "TQC"]
TWINS = ["SAC", "TQC", "TD3", "DDPG"]
STATISTICS = (torch.tensor([0.3, -0.2, 0.1]), torch.tensor([0.5, 2.0, 1.5]))


def make_agent(name: str, *, double: bool = True, normalized: bool = False) -> Agent:
    model = make_model(name, policy_kwargs=SMOOTH)
    statistics = VecNormalizeStatistics(*STATISTICS) if normalized else None
    agent = Agent.of(model, vec_normalize=statistics)
    return agent.double() if double else agent


def raw(scaled: Any) -> Tensor:
    """Return the raw actions of scaled actions."""
    scaled = torch.as_tensor(scaled, dtype=torch.float64)
    return LOW + 0.5 * (scaled + 1) * (HIGH - LOW)


def draw(*shape: int, seed: int = 0, size: float = 1.0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return size * torch.randn(*shape, generator=generator, dtype=torch.float64)


def slope_error(function: Callable[[Tensor], Tensor], at: Tensor, *, step: float) -> float:
    """Return the largest relative error of the rows' gradients, against central differences."""
    point = at.clone().requires_grad_()
    exact = torch.autograd.grad(function(point).sum(), point)[0]
    columns = []
    with torch.no_grad():
        for column in range(at.shape[1]):
            shift = torch.zeros_like(at)
            shift[:, column] = step
            ahead, behind = at + shift, at - shift
            width = ahead[:, column] - behind[:, column]
            difference = function(ahead) - function(behind)
            columns.append(difference.reshape(-1, len(at)).sum(dim=0) / width)
    measured = torch.stack(columns, dim=1)
    return float(((exact - measured).norm(dim=1) / exact.norm(dim=1)).max())


# -------------------------------------------------------------------------------------- gradients

# Scaled actions: within the limit, at the space's bounds (beyond the limit, by 1e-6), and outside.
PLACES = {"inside": 0.7, "bounds": 1.0, "outside": 1.8}


@pytest.mark.parametrize("name", [*TWINS, "PPO", "A2C"])
def test_gradients_of_the_density(name: str) -> None:
    for normalized in (False, True):
        agent = make_agent(name, normalized=normalized)
        for place in PLACES:
            check_gradients_of_the_density(agent, place)


def check_gradients_of_the_density(agent: Agent, place: str) -> None:
    observation = draw(32, 3)
    signs = torch.where(draw(32, 2, seed=1) > 0, 1.0, -1.0)
    sizes = 0.5 + 0.5 * draw(32, 2, seed=2).sigmoid() if place == "inside" else torch.ones(32, 2)
    action = raw(PLACES[place] * sizes * signs)
    # The second derivative is large near the bounds, so that steps must be small there.
    step = 1e-7 if place == "bounds" else 1e-5
    errors = (
        slope_error(lambda a: agent.log_prob(observation, a), action, step=step),
        slope_error(lambda o: agent.log_prob(o, action), observation, step=1e-5),
        slope_error(lambda o: agent.log_prob(o, action, deviation=0.3), observation, step=1e-5),
    )
    print(f"\n{agent.algorithm} {place}: relative errors {errors}")
    assert max(errors) < 1e-6


@pytest.mark.parametrize("name", SQUASHED)
def test_the_slope_is_continuous_at_the_limit(name: str) -> None:
    agent = make_agent(name)
    observation = draw(16, 3)
    action = raw(0.9 * torch.ones(16, 2))
    error = slope_error(lambda a: agent.log_prob(observation, a, limit=0.9), action, step=1e-7)
    assert error < 1e-6
    # Beyond it the density is linear: a step twice as far changes it twice as much.
    near, far = (agent.log_prob(observation, raw(s * torch.ones(16, 2)), limit=0.9) for s in (2, 3))
    at = agent.log_prob(observation, raw(torch.ones(16, 2)), limit=0.9)
    torch.testing.assert_close(far - at, 2 * (near - at))


@pytest.mark.parametrize("name", TWINS)
def test_gradients_of_q(name: str) -> None:
    agent = make_agent(name)
    observation, action = draw(32, 3), raw(draw(32, 2, seed=1))
    heads = agent.q(observation, action)
    assert heads.shape == ({"DDPG": 1}.get(name, 2), 32)
    errors = (
        slope_error(lambda a: agent.q(observation, a), action, step=1e-5),
        slope_error(lambda o: agent.q(o, action), observation, step=1e-5),
    )
    print(f"\n{name}: relative errors of q {errors}")
    assert max(errors) < 1e-6


@pytest.mark.parametrize("name", ["PPO", "A2C"])
def test_gradients_of_the_value(name: str) -> None:
    agent = make_agent(name, normalized=True)
    error = slope_error(agent.value, draw(32, 3), step=1e-5)
    print(f"\n{name}: relative error of the value {error}")
    assert error < 1e-6


@pytest.mark.parametrize("name", TWINS)
def test_gradients_of_the_action(name: str) -> None:
    agent = make_agent(name)
    assert slope_error(lambda o: agent.action(o).T, draw(32, 3), step=1e-5) < 1e-6


# ------------------------------------------------------------------------------------------ values


@pytest.mark.parametrize("name", SQUASHED)
def test_a_squashed_density_is_stable_baselines3s_own(name: str) -> None:
    agent = make_agent(name, double=False)
    policy = agent.policy
    seen = torch.as_tensor(observations(500))
    rng = np.random.default_rng(0)
    scaled = rng.uniform(-1, 1, (500, 2))
    scaled[:100] = np.sign(scaled[:100]) * (1 - 10 ** rng.uniform(-5.9, -1, (100, 2)))
    action = raw(scaled).float()
    scaled_action = torch.as_tensor(policy.scale_action(action.numpy()))
    assert (scaled_action.abs() <= 1 - 1e-6).all()
    with torch.no_grad():
        mean, log_std, _ = policy.actor.get_action_dist_params(seen)
        expected = policy.actor.action_dist.proba_distribution(mean, log_std).log_prob(
            scaled_action
        )
        assert torch.equal(agent.log_prob(seen, action), expected)
        # Another source: PyTorch's own transform, which has no constant in the logarithm.
        law = TransformedDistribution(
            Normal(mean.double(), log_std.double().exp()), TanhTransform(cache_size=1)
        )
        inner = scaled_action.abs().amax(dim=1) < 0.9
        other = law.log_prob(scaled_action.double()).sum(dim=1)
        mine = agent.double().log_prob(seen.double(), action.double())
    torch.testing.assert_close(mine[inner], other[inner], rtol=1e-4, atol=1e-4)
    assert inner.sum() > 100


def test_a_diagonal_density_is_stable_baselines3s_own() -> None:
    agent = make_agent("PPO", double=False)
    seen = torch.as_tensor(observations(500))
    action = raw(draw(500, 2, size=2.0)).float()
    with torch.no_grad():
        values, expected, _ = agent.policy.evaluate_actions(seen, action)
        assert torch.equal(agent.log_prob(seen, action), expected)
        assert torch.equal(agent.value(seen), values[:, 0])


def test_the_deviation_of_a_squashed_actor_is_capped() -> None:
    agent = make_agent("SAC", double=False)
    seen = torch.as_tensor(observations(50))
    action = raw(torch.zeros(50, 2)).float()
    for bias in (50.0, -50.0):
        with torch.no_grad():
            agent.policy.actor.log_std.bias.fill_(bias)
            mean, log_std, _ = agent.policy.actor.get_action_dist_params(seen)
            scaled_action = torch.as_tensor(agent.policy.scale_action(action.numpy()))
            law = agent.policy.actor.action_dist.proba_distribution(mean, log_std)
            assert torch.equal(agent.log_prob(seen, action), law.log_prob(scaled_action))


@pytest.mark.parametrize("name", ["TD3", "SAC", "PPO"])
def test_a_spread_about_the_action(name: str) -> None:
    agent = make_agent(name)
    observation, action = draw(40, 3), raw(draw(40, 2, seed=1))
    unit = 0.5 * (HIGH - LOW) if name != "PPO" else torch.ones(2, dtype=torch.float64)
    mode = agent.action(observation).detach()
    for deviation in (0.2, 1.0):
        spread = Normal(mode / unit, deviation).log_prob(action / unit).sum(dim=1)
        mine = agent.log_prob(observation, action, deviation=deviation).detach()
        torch.testing.assert_close(mine, spread)
    if name == "TD3":  # its only density; that of policy-guided diffusion
        torch.testing.assert_close(agent.log_prob(observation, action).detach(), spread)


@pytest.mark.parametrize("deviation", [None, 0.5])
def test_a_density_integrates_to_one(deviation: float | None) -> None:
    """The density of one scaled action, the other fixed, integrates to 1: the two terms add up."""
    model = make_model("SAC", Drift(low=[-2.0], high=[3.0]), policy_kwargs=SMOOTH)
    with torch.no_grad():
        model.policy.actor.log_std.bias.fill_(-2.0)  # otherwise much lies beyond the limit
    agent = Agent.of(model).double()
    scaled = torch.linspace(-0.99999, 0.99999, 200_001, dtype=torch.float64)
    if deviation is not None:
        scaled = 8 * scaled
    action = (-2.0 + 2.5 * (scaled + 1))[:, None]
    with torch.no_grad():
        for observation in draw(5, 3):
            density = agent.log_prob(
                observation.expand(len(scaled), 3), action, deviation=deviation
            )
            assert float(torch.trapezoid(density.exp(), scaled)) == pytest.approx(1.0, abs=1e-3)


@pytest.mark.parametrize("name", [*TWINS, "PPO"])
def test_it_is_finite_everywhere(name: str) -> None:
    for dtype in (torch.float32, torch.float64):
        check_finite_everywhere(make_agent(name).to(dtype), dtype)


def check_finite_everywhere(agent: Agent, dtype: torch.dtype) -> None:
    scaled = torch.tensor([0.0, 1 - 1e-6, 1 - 1e-9, 1.0, 1 + 1e-9, 1.1, 30.0, 1e6], dtype=dtype)
    action = raw(torch.cat([-scaled, scaled])[:, None].expand(-1, 2)).to(dtype).requires_grad_()
    observation = draw(16, 3).to(dtype).requires_grad_()
    density = agent.log_prob(observation, action)
    assert density.dtype == dtype
    assert density.isfinite().all()
    for slope in torch.autograd.grad(density.sum(), (observation, action)):
        assert slope.isfinite().all()


@pytest.mark.parametrize("name", ["SAC", "TD3", "PPO"])
def test_any_batch_shape(name: str) -> None:
    agent = make_agent(name)
    observation, action = draw(4, 5, 3), raw(draw(4, 5, 2, seed=1))
    methods: list[Callable[[Tensor, Tensor], Tensor]] = [
        agent.log_prob,
        lambda o, a: agent.log_prob(o, a, deviation=0.1),
        lambda o, a: agent.action(o),
        (lambda o, a: agent.value(o))
        if name == "PPO"
        else lambda o, a: agent.q(o, a).movedim(0, -1),
    ]
    for method in methods:
        whole = method(observation, action)
        assert whole.shape[:2] == (4, 5)
        torch.testing.assert_close(method(observation[2, 3], action[2, 3]), whole[2, 3])
        torch.testing.assert_close(method(observation[1], action[1]), whole[1])
        assert method(observation[:0], action[:0]).shape[:2] == (0, 5)


# ------------------------------------------------------------------------------------------ errors

SEEN = torch.zeros(6, 3)
DONE = torch.zeros(6, 2)


BAD: list[tuple[str, Callable[[Agent], Any], str]] = [
    ("PPO", lambda a: a.q(SEEN, DONE), r"PPO agents have no Q-function.*`value\(\)`"),
    ("A2C", lambda a: a.q(SEEN, DONE), r"A2C agents have no Q-function.*`value\(\)`"),
    ("SAC", lambda a: a.value(SEEN), r"SAC agents have no value function.*`q\(\)`"),
    ("SAC", lambda a: a.action(torch.zeros(6, 4)), r"`observation`.*\(\*batch, 3\).*\(6, 4\)"),
    ("SAC", lambda a: a.q(SEEN, DONE[:5]), r"`action` must be of shape \(6, 2\).*\(5, 2\)"),
    ("TD3", lambda a: a.log_prob(SEEN, SEEN), r"`action` must be of shape \(6, 2\).*\(6, 3\)"),
    ("TD3", lambda a: a.log_prob(SEEN.long(), DONE), r"`observation` must be a tensor of fl"),
    ("TD3", lambda a: a.log_prob(SEEN, DONE.numpy()), r"`action` must be a tensor.*ndarray"),
    ("SAC", lambda a: a.log_prob(SEEN, DONE, limit=1.0), r"`limit` must be.*Got 1\.0"),
    ("SAC", lambda a: a.log_prob(SEEN, DONE, limit=1 - 1e-9), r"`limit` must be a number"),
    ("SAC", lambda a: a.log_prob(SEEN, DONE, deviation=0.0), r"`deviation` must be.*Got 0\.0"),
    ("SAC", lambda a: a.predict(np.zeros((2, 2, 3))), r"`observation`.*\(2, 2, 3\)"),
    ("SAC", lambda a: a.predict(np.zeros(4)), r"`observation` must be of shape \(3,\)"),
    ("SAC", lambda a: a.double().predict(np.zeros(3)), r"single precision.*torch\.float64"),
]


def test_bad_input() -> None:
    for name, ask, message in BAD:
        agent = make_agent(name, double=False)
        with pytest.raises(PgdiffError, match=message):
            ask(agent)


def test_gsde_has_no_density() -> None:
    for name in ("SAC", "PPO"):
        agent = Agent.of(make_model(name, use_sde=True))
        with pytest.raises(PgdiffError, match=r"gSDE.*Pass `deviation=`"):
            agent.log_prob(SEEN, DONE)
        assert agent.log_prob(SEEN, DONE, deviation=1.0).shape == (6,)
