"""The value of a goal: closed forms and value iteration on a ring, and laws of the objective."""

import itertools
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from toys import DOUBLE, finite_differences, fit, generator, record, stir, walk

from pgdiff import Episodes
from pgdiff.core.pretrained import load_learner
from pgdiff.core.validation import PgdiffError
from pgdiff.critics import GoalValue
from pgdiff.data import LimitsNormalizer
from pgdiff.data.hindsight import HindsightBatch
from pgdiff.trajectory import Segment

DISCOUNT = 0.8
POINTS = 12
TOLERANCE = 0.6  # a neighbour on the ring is 0.52 away, the next one 1.0
NORMALIZER = LimitsNormalizer(torch.tensor([0.5, -1.0, 0.0]), torch.tensor([2.0, 0.5, 3.0]))


def ring(numbers: Any) -> np.ndarray:
    """Return points on the unit circle, by number."""
    angle = 2 * np.pi * np.asarray(numbers) / POINTS
    return np.stack([np.cos(angle), np.sin(angle)], axis=-1).astype(np.float32)


def rounds(length: int = 25) -> Episodes:
    """Record a way round the ring from each point in one direction, a point a step."""
    numbers = np.concatenate([first + np.arange(length) for first in range(POINTS)])
    rows = len(numbers)
    return record(ring(numbers), np.zeros((rows, 1)), np.zeros(rows), lengths=[length] * POINTS)


def steps_both_ways() -> Episodes:
    """Record one step either way from each point, each as an episode.

    Points are one-hot, so that the networks are as good as tables: the expectile treats errors as
    luck, and the oracle has no errors.
    """
    numbers = np.array([[s, s + way] for s in range(POINTS) for way in (1, -1)]).ravel()
    rows = len(numbers)
    seen = np.eye(POINTS)[numbers % POINTS]
    return record(seen, np.zeros((rows, 1)), np.zeros(rows), lengths=[2] * (rows // 2))


def reached(goal: int) -> np.ndarray:
    """Return a mask of the points at a goal: the goal and its neighbours."""
    return np.linalg.norm(ring(np.arange(POINTS)) - ring(goal), axis=1) <= TOLERANCE


def learn(episodes: Episodes, *, steps: int, **options: Any) -> GoalValue:
    settings = {"stride": 1, "tolerance": TOLERANCE, "width": 64, "depth": 2, "tau": 0.2}
    value = GoalValue.from_episodes(episodes, discount=DISCOUNT, **(settings | options))
    return fit(value, episodes, steps=steps, batch_size=128, learning_rate=1e-2)


def every_pair() -> tuple[np.ndarray, np.ndarray]:
    """Return all points with all points as goals."""
    points, goals = np.meshgrid(np.arange(POINTS), np.arange(POINTS), indexing="ij")
    return points.ravel(), goals.ravel()


def random_value(**options: Any) -> GoalValue:
    settings: dict[str, Any] = {"stride": 3, "discount": 0.95, "width": 16, "depth": 1}
    value = GoalValue(normalizer=NORMALIZER, **(settings | options))
    return stir(value, size=0.5).double()


def random_segment(*, batch: int = 4, tokens: int = 6, goals: int | None = None) -> Segment:
    x = torch.randn(batch, tokens, 3, generator=generator(1), dtype=DOUBLE)
    goal = torch.randn(goals or batch, 2, generator=generator(2), dtype=DOUBLE)
    return Segment(observations=x, stride=3, condition={"goal": goal})


# --------------------------------------------------------------------------------------- learning


@pytest.mark.parametrize(
    ("stride", "steps", "tolerance"),
    [(3, 500, 0.03), *(pytest.param(s, 1500, 0.02, marks=pytest.mark.slow) for s in (1, 3))],
)
def test_on_a_ring_with_one_way_round_values_and_rewards_are_exact(
    stride: int, steps: int, tolerance: float
) -> None:
    """With goals of all three kinds no choice is left, and V counts the visits."""
    value = learn(rounds(), stride=stride, expectile=0.5, steps=steps)
    points, goals = every_pair()
    visits = np.stack([reached(goal)[(points + np.arange(400)[:, None]) % POINTS]
                       for goal in range(POINTS)])  # goal, step, pair  # fmt: skip
    visits = visits[goals, :, np.arange(len(goals))]
    weights = (1 - DISCOUNT) * DISCOUNT ** np.arange(400)
    exact = torch.from_numpy(visits @ weights).float()
    with torch.no_grad():
        learned = value.value(torch.from_numpy(ring(points)), torch.from_numpy(ring(goals)))
    error = (learned - exact).abs()
    print(
        f"\nstride {stride}: values {exact.min():.3f} to {exact.max():.3f}, error {error.max():.3f}"
    )
    assert error.max() < 0.1 and error.mean() < tolerance

    # The lambda-return at 0 is the reward and the next token's value.
    pair = np.stack([ring(points), ring(points + stride)], axis=1)
    segment = Segment(
        observations=torch.from_numpy(pair),
        stride=stride,
        condition={"goal": torch.from_numpy(ring(goals))},
    )
    with torch.no_grad():
        one = value.objective(segment, td_lambda=0.0)
        ahead = value.value(segment.observations[:, 1], segment.goal)
    exact = torch.from_numpy(visits[:, :stride] @ weights[:stride]).float()
    off = (one - DISCOUNT**stride * ahead - exact).abs()
    print(f"rewards up to {exact.max():.3f}, error {off.max():.3f}")
    assert off.max() < 0.06 * stride and off.mean() < 0.02 * stride


@pytest.mark.parametrize("expectile", [pytest.param(0.5, marks=pytest.mark.slow), 0.9])
def test_with_two_ways_the_value_is_that_of_expectile_value_iteration(expectile: float) -> None:
    """The expectile of two equally frequent ways is `tau max + (1 - tau) min`."""
    exact = np.zeros((POINTS, POINTS))  # point, goal
    for _ in range(200):
        up, down = np.roll(exact, -1, axis=0), np.roll(exact, 1, axis=0)
        best, worst = np.maximum(up, down), np.minimum(up, down)
        now = (1 - DISCOUNT) * np.eye(POINTS)
        exact = now + DISCOUNT * (expectile * best + (1 - expectile) * worst)
    # Only random goals: a future goal lies on the way that was taken.
    value = learn(
        steps_both_ways(),
        expectile=expectile,
        goal_features=range(POINTS),
        future=0.0,
        near=0.0,
        steps=400,
    )
    every = torch.eye(POINTS)
    with torch.no_grad():
        learned = value.value(every[:, None].expand(-1, POINTS, -1), every)
    error = (learned - torch.from_numpy(exact)).abs()
    print(
        f"\nexpectile {expectile}: values {exact.min():.3f} to {exact.max():.3f}, "
        f"error {error.max():.3f}, mean {error.mean():.3f}"
    )
    assert error.max() < 0.03 and error.mean() < 0.01


@pytest.mark.parametrize("log_space", [False, True])
def test_the_losses_are_those_of_a_naive_computation(log_space: bool) -> None:
    value = random_value(expectile=0.8, log_space=log_space)
    stir(value.target_network, seed=5, size=1.0)
    x = torch.randn(40, 2, 3, generator=generator(0), dtype=DOUBLE)
    goals = torch.randn(40, 2, generator=generator(1), dtype=DOUBLE)
    rewards = torch.rand(40, generator=generator(2), dtype=DOUBLE)
    losses = value.losses(HindsightBatch(x, goals, rewards), generator(0))  # type: ignore[arg-type]

    def estimates(network: Any, token: int) -> Tensor:
        seen = value.normalizer.normalize(x[:, token])
        return value._value(network, seen, value._normalized_goal(goals))

    ahead = estimates(value.target_network, 1)
    assert (ahead > 1).any() and ((ahead > 0) & (ahead < 1)).any()
    assert log_space or (ahead < 0).any()
    target = 0.05 * rewards + 0.95**3 * ahead.clamp(0, 1)
    estimate = estimates(value.value_network, 0)
    assert torch.equal(value.value(x[:, 0], goals), estimate.clamp(0, 1))
    error = target.log() - estimate.log() if log_space else target - estimate
    weight = torch.tensor([0.8 if e > 0 else 0.2 for e in error], dtype=DOUBLE)
    torch.testing.assert_close(losses["value"], (weight * error**2).mean())
    segment = Segment(observations=x, stride=3, condition={"goal": goals})
    predicted = value.objective(segment, td_lambda=0.0) - 0.95**3 * estimates(
        value.value_network, 1
    )
    unit = 0.05 * 3
    torch.testing.assert_close(
        losses["reward"], ((predicted - 0.05 * rewards) / unit).pow(2).mean()
    )

    losses["value"].backward()
    assert all(p.grad is None for p in value.target_network.parameters())
    assert all(p.grad is None for p in value.reward_network.parameters())
    assert all(p.grad is not None for p in value.value_network.parameters())


def test_the_value_sees_the_features_that_it_is_given_alone() -> None:
    value = random_value(value_features=(1, 0))
    x, goal = torch.randn(5, 3, generator=generator(0), dtype=DOUBLE), torch.ones(2, dtype=DOUBLE)
    moved = x + torch.tensor([0.0, 0.0, 1.0], dtype=DOUBLE)

    def raw(value: GoalValue, seen: Tensor) -> Tensor:
        goals = value._normalized_goal(goal).expand(len(seen), -1)
        return value._raw(value.value_network, value.normalizer.normalize(seen), goals)

    assert torch.equal(raw(value, x), raw(value, moved))
    assert not torch.equal(raw(value, x), raw(value, x + 1))
    whole = random_value()
    assert not torch.equal(raw(whole, x), raw(whole, moved))


def test_the_slow_network_follows() -> None:
    value = random_value(tau=0.25)
    slow = [p.clone() for p in value.target_network.parameters()]
    value.after_step()
    fast = value.value_network.parameters()
    for now, before, ahead in zip(value.target_network.parameters(), slow, fast, strict=True):
        assert not now.requires_grad
        torch.testing.assert_close(now, 0.75 * before + 0.25 * ahead)


# ---------------------------------------------------------------------------------------- objective


def parts(value: GoalValue, segment: Segment, goal: Tensor) -> tuple[Tensor, Tensor]:
    """Return rewards between tokens and values of tokens, from the documented network inputs."""
    x = NORMALIZER.normalize(segment.observations)
    g = (goal - NORMALIZER.center[[2, 0]]) / NORMALIZER.scale[[2, 0]]
    ways = [g - x[:, k, [2, 0]] for k in range(x.shape[1])]
    near = []
    for k in range(x.shape[1]):
        apart = (goal - segment.observations[:, k, [2, 0]]) / value.tolerance
        near.append(apart / (1 + apart.norm(dim=-1, keepdim=True) ** 2).sqrt())
    rewards, values = [], []
    for k in range(x.shape[1]):
        values.append(value.value_network(torch.cat([x[:, k], g, ways[k]], dim=-1))[:, 0])
        if k + 1 < x.shape[1]:
            apart = torch.cat([ways[k], ways[k + 1], near[k], near[k + 1]], dim=-1)
            both = torch.cat([x[:, k], x[:, k + 1], g, apart], dim=-1)
            rewards.append(0.05 * 3 * value.reward_network(both)[:, 0])
    return torch.stack(rewards, dim=1), torch.stack(values, dim=1)


def test_the_objective_is_the_lambda_return_of_a_backward_recursion() -> None:
    for td_lambda, tokens in itertools.product((0.0, 0.7, 1.0), (2, 6)):
        value, segment = random_value(goal_features=(2, 0)), random_segment(tokens=tokens)
        assert segment.goal is not None
        rewards, values = parts(value, segment, segment.goal)
        total = values[:, -1]
        for k in reversed(range(tokens - 1)):
            ahead = (1 - td_lambda) * values[:, k + 1] + td_lambda * total
            total = rewards[:, k] + 0.95**3 * ahead
        torch.testing.assert_close(
            value.objective(segment, td_lambda=td_lambda), total, rtol=1e-12, atol=1e-12
        )
        shown = value.value(segment.observations, segment.goal[:, None])
        torch.testing.assert_close(shown, values.clamp(0, 1))


def test_one_goal_is_that_of_every_trajectory() -> None:
    value, segment = random_value(), random_segment(goals=1)
    assert segment.goal is not None
    goals = segment.goal.expand(4, -1)
    repeated = Segment(observations=segment.observations, stride=3, condition={"goal": goals})
    torch.testing.assert_close(value.objective(segment), value.objective(repeated))
    torch.testing.assert_close(
        value.value(segment.observations, segment.goal[0]),
        value.value(segment.observations, segment.goal.expand(4, 6, -1)),
    )


def test_the_gradient_is_that_of_finite_differences() -> None:
    value, segment = random_value(), random_segment(batch=2)
    for td_lambda in (0.7, 1.0):
        x = segment.observations.clone().requires_grad_(True)

        def objective(tokens: Tensor, td_lambda: float = td_lambda) -> Tensor:
            moved = Segment(observations=tokens, stride=3, condition=segment.condition)
            return value.objective(moved, td_lambda=td_lambda)

        (gradient,) = torch.autograd.grad(objective(x).sum(), x)
        with torch.no_grad():
            expected = finite_differences(objective, x.detach())
        torch.testing.assert_close(gradient, expected, rtol=1e-6, atol=1e-8)
        assert (gradient.norm(dim=(0, 2)) > 0).all()


# ------------------------------------------------------------------------- settings, saving, seeds


@pytest.mark.usefixtures("unchecked")
def test_bad_settings_are_named() -> None:
    bad: dict[str, tuple[Any, ...]] = {
        "discount": (1.0,),
        "expectile": (0.0,),
        "tau": (1.1,),
        "stride": (0,),
        "tolerance": (0.0, -1.0),
        "goal_features": ((0, 3), ()),
        "future": (1.1,),
        "near": (0.9,),
        "value_features": ((3,),),
        "width": (0,),
    }
    for name, values in bad.items():
        for wrong in values:
            with pytest.raises(PgdiffError, match=f"`{name}`.* must"):
                GoalValue(normalizer=NORMALIZER, **({"stride": 1} | {name: wrong}))


@pytest.mark.usefixtures("unchecked")
def test_bad_segments_and_goals_are_named() -> None:
    value, segment = random_value(), random_segment()
    x, goal = segment.observations, segment.goal
    for wrong, message in (
        (Segment(observations=x, stride=3), "`goal` of a segment must be set for a GoalValue"),
        (
            Segment(observations=x, stride=3, condition={"goal": x[:, 0]}),
            r"`goal` must be 2 numbers, .*4, 3",
        ),
        (
            Segment(observations=x, stride=2, condition={"goal": goal}),
            "`stride` of a segment must equal .*3. Got 2",
        ),
        (
            Segment(observations=x[..., :2], stride=3, condition={"goal": goal}),
            "`observation` of a segment",
        ),
    ):
        with pytest.raises(PgdiffError, match=message):
            value.objective(wrong)
    with pytest.raises(PgdiffError, match="`td_lambda` must be a number in"):
        value.objective(segment, td_lambda=1.1)
    with pytest.raises(PgdiffError, match="`goal` must be 2 numbers, for the features"):
        value.value(x, torch.zeros(3))


def test_what_is_saved_comes_back(tmp_path: Any) -> None:
    value = random_value(
        goal_features=(2, 0),
        tolerance=0.25,
        future=0.1,
        near=0.5,
        log_space=True,
        value_features=(0, 1),
    ).float()
    stir(value.value_network, seed=3)  # so that the target network differs
    value.save_pretrained(tmp_path / "saved")
    loaded = load_learner(tmp_path / "saved", device="cpu")
    assert isinstance(loaded, GoalValue) and loaded.goal_features == (2, 0)
    assert (loaded.tolerance, loaded.future, loaded.near) == (0.25, 0.1, 0.5)
    assert loaded.log_space and loaded.value_features == (0, 1)
    x, goal = torch.randn(5, 3, generator=generator(0)), torch.ones(2)
    assert torch.equal(loaded.value(x, goal), value.value(x, goal))
    for name, weights in value.state_dict().items():
        assert torch.equal(weights, loaded.state_dict()[name])


def test_same_seed_same_weights_before_and_after_training() -> None:
    episodes = walk()
    before = torch.random.get_rng_state()

    def weights(*, seed: int, steps: int) -> Tensor:
        value = GoalValue.from_episodes(episodes, stride=2, width=16, depth=1, seed=seed)
        if steps:
            fit(value, episodes, steps=steps, seed=3)
        return torch.cat([p.flatten() for p in value.parameters()])

    for steps in (0, 20):
        first, again, other = (weights(seed=seed, steps=steps) for seed in (0, 0, 1))
        assert torch.equal(first, again) and not torch.equal(first, other)
    assert torch.equal(before, torch.random.get_rng_state())


def test_terminals_are_warned_of() -> None:
    episodes = record(
        np.zeros((20, 2)), np.zeros((20, 1)), np.zeros(20), lengths=[20], terminal=True
    )
    value = GoalValue.from_episodes(episodes, stride=1)
    with pytest.warns(UserWarning, match="terminals, which GoalValue ignores"):
        value.dataset(episodes)


# ---------------------------------------------------------------------------------- latent distance


@torch.no_grad()
def test_a_latent_distance_is_one() -> None:
    """It is zero to itself, symmetric, and no longer than any detour."""
    settings: dict[str, Any] = {"log_space": True, "value_features": (0, 1), "latent": 8}
    value = stir(GoalValue(normalizer=NORMALIZER, stride=1, width=16, **settings)).double()
    a, b, c = torch.randn((3, 50, 2), generator=generator(5), dtype=DOUBLE)

    def length(state: Tensor, goal: Tensor) -> Tensor:
        return -value.value_network(state, goal)

    assert float(length(a, a).max()) < 1e-3
    torch.testing.assert_close(length(a, b), length(b, a))
    assert (length(a, c) <= length(a, b) + length(b, c) + 1e-9).all()
    observation = torch.cat([a, torch.zeros(50, 1)], dim=1)
    goal = value.normalizer.unnormalize(torch.cat([b, b[:, :1]], dim=1))[:, :2]
    expected = length(value.normalizer.normalize(observation)[:, :2], b)
    torch.testing.assert_close(value.value(observation, goal).log(), -expected)


def test_on_a_ring_the_latent_distance_grows_with_the_way() -> None:
    """Both ways round a ring the value falls with the distance, up to the opposite point."""
    both = np.concatenate(
        [first + way * np.arange(25) for first in range(POINTS) for way in (1, -1)]
    )
    rows = len(both)
    episodes = record(ring(both), np.zeros((rows, 1)), np.zeros(rows), lengths=[25] * (2 * POINTS))
    options: dict[str, Any] = {"log_space": True, "value_features": (0, 1), "latent": 16}
    value = learn(episodes, steps=250, **options)
    points = torch.from_numpy(ring(np.arange(POINTS)))
    with torch.no_grad():
        found = value.value(points, points[:1]).log().numpy()
    steps = np.minimum(np.arange(POINTS), POINTS - np.arange(POINTS))
    correlation = float(np.corrcoef(found, -steps)[0, 1])
    print(f"\nlog V {found.round(2).tolist()}, correlation with the way {correlation:.3f}")
    assert correlation > 0.95


def test_a_latent_distance_sees_the_position_alone() -> None:
    value = GoalValue(normalizer=NORMALIZER, stride=1, log_space=True, latent=8)
    assert value.value_features == value.goal_features == (0, 1)


def test_a_latent_distance_is_of_positions_in_log_space() -> None:
    settings = {"log_space": True, "value_features": (0, 1), "latent": 8}
    for wrong in ({"log_space": False}, {"value_features": (0,)}):
        with pytest.raises(PgdiffError, match="`latent` must be None unless log_space=True and"):
            GoalValue(normalizer=NORMALIZER, stride=1, **(settings | wrong))
