"""Rewards between tokens and a terminal value: values of chains, and laws of the objective."""

import itertools
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from toys import DOUBLE, fit, generator, record, stir, walk

from pgdiff import Episodes, TransitionValue
from pgdiff.core.validation import PgdiffError
from pgdiff.data import LimitsNormalizer
from pgdiff.training.learner import to_tensors
from pgdiff.trajectory import Segment

DISCOUNT = 0.8
NORMALIZER = LimitsNormalizer(torch.tensor([0.5, -1.0, 0.0]), torch.tensor([2.0, 0.5, 3.0]))


def chain(length: int = 14) -> Episodes:
    """Record states 0 to 4, one step up at a time, up to the last; state 4 pays 1 a step.

    The value of state s is `discount^(4 - s) / (1 - discount)`.
    """
    ways = [np.minimum(first + np.arange(length), 4) for first in range(5)]
    states = np.concatenate(ways)
    return record(
        states[:, None], np.zeros((len(states), 1)), states == 4, lengths=[length] * len(ways)
    )


def fork(length: int = 12) -> Episodes:
    """Record a fork: half of the episodes go from 0 to 1, which pays 1 a step, half to -1 (pays 0).

    Of `discount / (1 - discount)` and 0 with even odds the tau-expectile is tau times the former.
    """
    ways = [np.array([0] + [side] * (length - 1)) for side in (1, -1) for _ in range(4)]
    states = np.concatenate(ways)
    return record(
        states[:, None], np.zeros((len(states), 1)), states == 1, lengths=[length] * len(ways)
    )


def learn(episodes: Episodes, *, steps: int, **options: Any) -> TransitionValue:
    value = TransitionValue.from_episodes(
        episodes, discount=DISCOUNT, width=32, depth=1, **({"stride": 1} | options)
    )
    value.tau = 0.2
    return fit(value, episodes, steps=steps, batch_size=32, learning_rate=1e-2)


def random_value(**options: Any) -> TransitionValue:
    settings: dict[str, Any] = {"stride": 3, "discount": 0.95, "width": 16, "depth": 1}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        value = TransitionValue(normalizer=NORMALIZER, **(settings | options))
    return stir(value, size=0.5).double()


def random_segment(*, batch: int = 4, tokens: int = 6) -> Segment:
    x = torch.randn(batch, tokens, 3, generator=generator(1), dtype=DOUBLE)
    return Segment(observations=x, stride=3)


# --------------------------------------------------------------------------------------- learning


@pytest.mark.parametrize("log_space", [False, True])
def test_bootstrapped_values_stay_in_the_range_of_the_rewards(log_space: bool) -> None:
    low, high = (2.0, 12.0) if log_space else (0.2, 0.6)
    value = random_value(log_space=log_space, expectile=0.8, value_range=(low, high))
    stir(value.target_network, seed=5, size=1.0)
    x = torch.randn(40, 2, 3, generator=generator(0), dtype=DOUBLE)
    rewards = torch.rand(40, 2, generator=generator(1), dtype=DOUBLE)
    batch = SimpleNamespace(observations=x, rewards=rewards)
    found = value.losses(batch, generator(0))["value"]
    here, ahead = (
        value._raw(network, value.normalizer.normalize(x[:, token]))
        for token, network in enumerate((value.value_network, value.target_network))
    )
    ahead = ahead.exp() if log_space else ahead
    assert (ahead < low).any() and (ahead > high).any()
    target = 0.05 * rewards[:, 0] + 0.95**3 * ahead.clamp(low, high)
    error = (target.log() if log_space else target) - here
    weight = torch.where(error > 0, 0.8, 0.2)
    torch.testing.assert_close(found, (weight * error.square()).mean())
    shown = value.value(x)
    assert shown.min() >= low and shown.max() <= high


def test_the_range_is_that_of_the_recording() -> None:
    """A value is a mean of rewards; an end, after which all rewards are 0, adds 0 to them."""
    states, rewards = np.arange(8.0)[:, None], np.arange(8.0) + 2
    for terminal, low in ((False, 2.0), (True, 0.0)):
        episodes = record(states, np.zeros((8, 1)), rewards, lengths=[4, 4], terminal=terminal)
        assert TransitionValue.from_episodes(episodes, stride=1).value_range == (low, 9.0)
        first = episodes.select([0])
        assert TransitionValue.from_episodes(first, stride=1).value_range == (low, 5.0)


@pytest.mark.parametrize("stride", [pytest.param(1, marks=pytest.mark.slow), 3])
def test_a_chain_has_its_discounted_value(stride: int) -> None:
    value = learn(chain(), stride=stride, expectile=0.5, steps=400)
    states = torch.arange(5.0)[:, None]
    with torch.no_grad():
        learned = value.value(states)
    exact = DISCOUNT ** (4 - states[:, 0])
    print(f"\nstride {stride}: values {learned.tolist()}, exact {exact.tolist()}")
    torch.testing.assert_close(learned, exact, rtol=0, atol=0.02)

    # With exact rewards, J is the value of the first state.
    tokens = torch.minimum(states + stride * torch.arange(4.0), torch.tensor(4.0))[..., None]
    for td_lambda in (0.0, 0.7, 1.0):
        with torch.no_grad():
            objective = value.objective(
                Segment(observations=tokens, stride=stride), td_lambda=td_lambda
            )
        torch.testing.assert_close(objective, exact, rtol=0, atol=0.03)

    # Rewards are those between the tokens, discounted: the steps at 4 pay. The lambda-return at 0
    # is the reward and the next token's value.
    pairs = torch.stack([states[:, 0], (states[:, 0] + stride).clamp(max=4)], dim=-1)[..., None]
    with torch.no_grad():
        one = value.objective(Segment(observations=pairs, stride=stride), td_lambda=0.0)
        paid = one - DISCOUNT**stride * value.value(pairs[:, 1])
    due = [sum(DISCOUNT**j for j in range(stride) if s + j >= 4) for s in range(5)]
    print(f"rewards {paid.tolist()}, exact {due}")
    torch.testing.assert_close(paid, (1 - DISCOUNT) * torch.tensor(due), rtol=0, atol=0.02)


def test_in_log_space_small_values_are_known_as_well_as_large_ones() -> None:
    """A chain of 12 states: from its far end the value is `0.8^11`, 9 hundredths."""
    ways = [np.minimum(first + np.arange(20), 11) for first in range(12)]
    states = np.concatenate(ways)
    episodes = record(
        states[:, None], np.zeros((len(states), 1)), states == 11, lengths=[20] * len(ways)
    )
    value = learn(episodes, expectile=0.5, steps=500, log_space=True)
    places = torch.arange(12.0)[:, None]
    exact = DISCOUNT ** (11 - places[:, 0])
    with torch.no_grad():
        error = (value.value(places) / exact - 1).abs().max()
    print(f"\nlargest relative error {float(error):.3f}")
    assert error < 0.1


def test_log_space_refuses_negative_rewards() -> None:
    episodes = record(np.zeros((6, 1)), np.zeros((6, 1)), [1, 0, 0, -2.5, 0, 1], lengths=[6])
    with pytest.raises(PgdiffError, match=r"`log_space` must be false .* Got -2.5 in row 3"):
        learn(episodes, steps=1, log_space=True)


def test_a_value_sees_only_its_features() -> None:
    for options in ({}, {"log_space": True}):
        value = random_value(value_features=[0, 2], **options)
        here = torch.randn(5, 3, generator=generator(2), dtype=DOUBLE)
        changed = here.clone()
        changed[:, 1] += 1.0
        assert torch.equal(value.value(here), value.value(changed))
        changed[:, 2] += 1.0
        assert not torch.equal(value.value(here), value.value(changed))
    for wrong in ([], [3], [-1], [True]):
        with pytest.raises(PgdiffError, match="`value_features` must be indices of the 3 features"):
            random_value(value_features=wrong)


@pytest.mark.parametrize(
    ("expectile", "steps", "tolerance"),
    [
        (0.98, 300, 0.05),
        *(pytest.param(e, 2000, 0.02, marks=pytest.mark.slow) for e in (0.5, 0.9, 0.98)),
    ],
)
def test_at_a_fork_the_value_goes_to_the_better_way(
    expectile: float, steps: int, tolerance: float
) -> None:
    value = learn(fork(), expectile=expectile, steps=steps)
    with torch.no_grad():
        left, middle, right = value.value(torch.tensor([[-1.0], [0.0], [1.0]])).tolist()
    print(
        f"\nexpectile {expectile}: value at the fork {middle:.3f}, exact "
        f"{expectile * DISCOUNT:.3f}, best way {DISCOUNT}"
    )
    assert abs(left) < tolerance and abs(right - 1) < 0.02
    assert abs(middle - expectile * DISCOUNT) < 0.03


def test_the_slow_network_follows() -> None:
    value = stir(TransitionValue(normalizer=NORMALIZER, stride=1, tau=0.25))
    slow = [p.clone() for p in value.target_network.parameters()]
    fast = [p.clone() for p in value.value_network.parameters()]
    assert not any(p.requires_grad for p in value.target_network.parameters())
    value.after_step()
    for now, before, ahead in zip(value.target_network.parameters(), slow, fast, strict=True):
        torch.testing.assert_close(now, 0.75 * before + 0.25 * ahead)
    for now, before in zip(value.value_network.parameters(), fast, strict=True):
        assert torch.equal(now, before)


def test_no_gradient_flows_through_the_target() -> None:
    episodes = walk()
    value = TransitionValue.from_episodes(episodes, stride=2)
    batch = value.dataset(episodes).batch(np.arange(16))
    batch = to_tensors(batch, torch.device("cpu"))
    losses = value.losses(batch, generator(0))
    assert sorted(losses) == ["reward", "value"]
    losses["value"].backward()
    assert all(p.grad is None for p in value.target_network.parameters())
    assert all(p.grad is None for p in value.reward_network.parameters())
    assert all(p.grad is not None for p in value.value_network.parameters())


# ---------------------------------------------------------------------------------------- objective


def parts(value: TransitionValue, segment: Segment) -> tuple[Tensor, Tensor]:
    """Return rewards between tokens and values of tokens, one network call for each."""
    x = NORMALIZER.normalize(segment.observations)
    unit = (1 - value.discount) * value.stride
    rewards = [
        unit * value.reward_network(torch.cat([x[:, k], x[:, k + 1]], dim=-1))[:, 0]
        for k in range(x.shape[1] - 1)
    ]
    values = [value.value_network(x[:, k])[:, 0] for k in range(x.shape[1])]
    return torch.stack(rewards, dim=1), torch.stack(values, dim=1)


def test_the_objective_is_j_of_a_naive_loop() -> None:
    value, segment = random_value(), random_segment()
    rewards, values = parts(value, segment)
    total = torch.zeros(4, dtype=DOUBLE)
    for k in range(5):
        total = total + 0.95 ** (3 * k) * rewards[:, k]
    total = total + 0.95**15 * values[:, 5]
    torch.testing.assert_close(value.objective(segment), total, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(value.value(segment.observations), values)


def test_the_objective_is_the_lambda_return_of_a_backward_recursion() -> None:
    """Sutton & Barto 2018, eq. 12.20: `G_k = r_k + g ((1 - l) V_k+1 + l G_k+1)`."""
    step = 0.95**3
    for td_lambda, tokens in itertools.product((0.0, 0.3, 0.7, 1.0), (2, 6)):
        value, segment = random_value(), random_segment(tokens=tokens)
        rewards, values = parts(value, segment)
        total = values[:, -1]
        for k in reversed(range(tokens - 1)):
            total = rewards[:, k] + step * ((1 - td_lambda) * values[:, k + 1] + td_lambda * total)
        objective = value.objective(segment, td_lambda=td_lambda)
        torch.testing.assert_close(objective, total, rtol=1e-12, atol=1e-12)
        if td_lambda == 0.0:
            one_step = rewards[:, 0] + step * values[:, 1]
            torch.testing.assert_close(objective, one_step, rtol=1e-12, atol=1e-12)


def test_with_td_lambda_below_one_every_token_depends_on_its_own_value() -> None:
    value = random_value()
    for parameter in value.reward_network[-1].parameters():  # no reward: only the value part
        parameter.data.zero_()

    def pushes(td_lambda: float) -> list[float]:
        x = random_segment().observations.requires_grad_(True)
        objective = value.objective(Segment(observations=x, stride=3), td_lambda=td_lambda)
        (gradient,) = torch.autograd.grad(objective.sum(), x)
        return gradient.norm(dim=(0, 2)).tolist()

    for td_lambda in (1.0, 0.7, 0.0):
        print(f"\ntrace {td_lambda}: gradient of the value part by token {pushes(td_lambda)}")
    assert pushes(1.0)[:5] == [0.0] * 5 and pushes(1.0)[5] > 0
    assert pushes(0.7)[0] == 0.0 and min(pushes(0.7)[1:]) > 0
    assert [push > 0 for push in pushes(0.0)] == [False, True, False, False, False, False]

    whole = random_value()
    x = random_segment().observations.requires_grad_(True)
    objective = whole.objective(Segment(observations=x, stride=3), td_lambda=0.7)
    (gradient,) = torch.autograd.grad(objective.sum(), x)
    assert (gradient.norm(dim=(0, 2)) > 0).all()


# ------------------------------------------------------------------------------------ bad settings


@pytest.mark.usefixtures("unchecked")
def test_bad_settings_are_named() -> None:
    bad: dict[str, tuple[Any, ...]] = {
        "discount": (0.0, 1.0, 1.5, float("nan")),
        "expectile": (0.0, 1.0),
        "tau": (0.0, 1.1),
        "stride": (0,),
    }
    for name, values in bad.items():
        for wrong in values:
            with pytest.raises(PgdiffError, match=f"`{name}` must be"):
                TransitionValue(normalizer=NORMALIZER, **({"stride": 1} | {name: wrong}))


def test_bad_segments_are_named() -> None:
    value, segment = random_value(), random_segment()
    for td_lambda in (-0.1, 1.1, float("nan")):
        with pytest.raises(PgdiffError, match="`td_lambda` must be a number in"):
            value.objective(segment, td_lambda=td_lambda)
    with pytest.raises(PgdiffError, match=r"`stride` of a segment must equal .*, 3. Got 2"):
        value.objective(Segment(observations=segment.observations, stride=2))
    with pytest.raises(PgdiffError, match=r"`observation` of a segment must equal .*, 3. Got 2"):
        value.objective(Segment(observations=segment.observations[..., :2], stride=3))


def test_same_seed_same_weights() -> None:
    episodes = walk()
    before = torch.random.get_rng_state()
    first, again, other = (
        TransitionValue.from_episodes(episodes, stride=1, seed=seed).value(torch.ones(4))
        for seed in (0, 0, 1)
    )
    assert torch.equal(first, again) and not torch.equal(first, other)
    assert torch.equal(before, torch.random.get_rng_state())


@pytest.mark.parametrize("stride", [pytest.param(1, marks=pytest.mark.slow), 2])
def test_no_state_has_a_value_after_a_terminal(stride: int) -> None:
    """States 0 to 3 pay 1 each and the task ends after 3: `V(s) = sum of discount^j, j < 4 - s`.

    With a timeout instead of the terminal, the recording contains no end.
    """
    ways = [np.arange(first, 4) for first in (0, 0, 1, 2, 3)]
    states = np.concatenate(ways)
    ends = np.zeros(len(states), dtype=bool)
    ends[np.cumsum([len(way) for way in ways]) - 1] = True
    episodes = Episodes.from_arrays(
        observations=states[:, None],
        actions=np.zeros((len(states), 1)),
        rewards=np.ones(len(states)),
        terminals=ends,
    )
    value = learn(episodes, stride=stride, expectile=0.5, steps=300)
    with torch.no_grad():
        found = value.value(torch.arange(4.0)[:, None]) / (1 - DISCOUNT)
    exact = torch.tensor([sum(DISCOUNT**j for j in range(4 - state)) for state in range(4)])
    print(f"\nstride {stride}: {found.tolist()} for {exact.tolist()}")
    assert torch.allclose(found, exact, atol=0.03)
