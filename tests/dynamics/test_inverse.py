"""Inverse dynamics: pairs within episodes, and actions that reach the way-point."""

from typing import Any

import numpy as np
import pytest
import torch
from toys import fit, push, record, walk

from pgdiff import Episodes, InverseDynamics
from pgdiff.core.validation import PgdiffError
from pgdiff.data import StandardNormalizer
from pgdiff.dynamics.inverse import PairDataset

LENGTHS = [7, 1, 2, 12]


def numbered() -> Episodes:
    """Record rows that contain their number; one episode has a single row."""
    rows = np.arange(sum(LENGTHS))
    return record(rows[:, None], -rows[:, None], np.zeros(len(rows)), lengths=LENGTHS)


# ------------------------------------------------------------------------------------------ pairs


def test_pairs_are_all_those_within_reach_and_no_others() -> None:
    for gap in (1, 3, 5):
        dataset = PairDataset(numbered(), gap=gap)
        batch = dataset.batch(np.arange(len(dataset)))
        now, later = batch.observations[:, 0].astype(int), batch.waypoints[:, 0].astype(int)
        ends = np.cumsum(LENGTHS)
        expected = {
            (row, row + d)
            for start, end in zip(ends - LENGTHS, ends, strict=True)
            for row in range(start, end)
            for d in range(1, gap + 1)
            if row + d < end
        }
        assert set(zip(now.tolist(), later.tolist(), strict=True)) == expected
        assert np.array_equal(batch.steps_left, later - now)
        assert np.array_equal(batch.actions[:, 0], -now)


def test_held_out_rows_stay_out() -> None:
    train, held_out = numbered().split(0.25, seed=0)
    for part in (train, held_out):
        dataset = PairDataset(part, gap=4)
        batch = dataset.batch(np.arange(len(dataset)))
        allowed = np.concatenate(
            [np.arange(s, e) for s, e in zip(part.starts, part.ends, strict=True)]
        )
        assert np.isin(batch.observations[:, 0], allowed).all()
        assert np.isin(batch.waypoints[:, 0], allowed).all()


# ------------------------------------------------------------------------------------------ acting


@pytest.mark.parametrize(
    ("gap", "steps", "share"), [(3, 400, 0.4), pytest.param(8, 2000, 0.15, marks=pytest.mark.slow)]
)
def test_the_learned_action_arrives(gap: int, steps: int, share: float) -> None:
    """A point mass is driven for some steps to where the random recorder was that much later."""
    episodes = walk(episodes=300, length=20)
    controller = InverseDynamics.from_episodes(episodes, stride=gap, width=64)
    fit(controller, episodes, steps=steps, batch_size=256)
    fresh = walk(episodes=50, length=gap + 1, seed=1).observations.reshape(50, gap + 1, 4)
    state, goal = fresh[:, 0].copy(), fresh[:, -1]
    coast = state[:, :2] + 0.1 * gap * state[:, 2:]
    for left in range(gap, 0, -1):
        state = push(state, controller.act(state, goal, np.full(50, left)))
    miss, still = (np.linalg.norm(x - goal[:, :2], axis=1).mean() for x in (state[:, :2], coast))
    velocity = np.linalg.norm(state[:, 2:] - goal[:, 2:], axis=1).mean()
    print(f"\nmisses the way-point by {miss:.4f} (coasting: {still:.4f}), velocity {velocity:.4f}")
    assert miss < share * still
    assert velocity < 0.1


def test_actions_stay_within_the_recorded_bounds() -> None:
    episodes = walk()
    controller = InverseDynamics.from_episodes(episodes, stride=3)
    with torch.no_grad():
        controller.network[-1].weight.mul_(1e4)
    observation = np.random.default_rng(0).normal(size=(40, 4))
    action = controller.act(observation, observation[::-1], np.ones(40, np.int64))
    low, high = episodes.actions.min(axis=0), episodes.actions.max(axis=0)
    assert (action >= low).all() and (action <= high).all()
    assert np.isin(action, [low, high]).mean() > 0.5, "some are at their bounds"


def test_numpy_in_numpy_out() -> None:
    controller = InverseDynamics.from_episodes(walk(), stride=3)
    for kind in (np.float32, np.float64):
        observation = np.zeros((2, 4), kind)
        observation.setflags(write=False)
        action = controller.act(observation, observation, np.array([1, 3]))
        assert isinstance(action, np.ndarray) and action.shape == (2, 2)
        assert action.dtype == np.float32
    assert all(p.grad is None for p in controller.parameters())


def test_steps_left_and_the_difference_are_what_the_network_sees() -> None:
    """Features: normalised observation, difference to the way-point, share of the stride."""
    controller = InverseDynamics(
        normalizer=StandardNormalizer(torch.tensor([1.0, 2.0]), torch.tensor([2.0, 4.0])),
        actions=5,
        stride=4,
        low=(-100.0,) * 5,
        high=(100.0,) * 5,
    )
    controller.network = torch.nn.Sequential()
    inputs = torch.tensor([[3.0, 6.0]]), torch.tensor([[5.0, 2.0]]), torch.tensor([3.0])
    assert controller(*inputs).tolist() == [[1.0, 1.0, 1.0, -1.0, 0.75]]


@pytest.mark.usefixtures("unchecked")
def test_bad_settings_are_named() -> None:
    settings: dict[str, Any] = {
        "normalizer": StandardNormalizer(torch.zeros(3), torch.ones(3)),
        "actions": 2,
        "stride": 4,
        "low": (-1.0, -1.0),
        "high": (1.0, 1.0),
    }
    InverseDynamics(**settings)
    for wrong in ({"low": (-1.0,)}, {"high": (1.0, -2.0)}, {"high": (1.0, float("nan"))}):
        with pytest.raises(PgdiffError, match="`low` and `high` must be 2 bounds each"):
            InverseDynamics(**(settings | wrong))
    for name in ("actions", "stride"):
        with pytest.raises(PgdiffError, match=f"`{name}` must be"):
            InverseDynamics(**(settings | {name: 0}))
    with pytest.raises(PgdiffError, match="`gap` must be"):
        PairDataset(numbered(), gap=0)


def test_same_seed_same_weights() -> None:
    episodes = walk()
    before = torch.random.get_rng_state()
    weights = [
        InverseDynamics.from_episodes(episodes, stride=1, seed=seed).network[0].weight
        for seed in (0, 0, 1)
    ]
    assert torch.equal(weights[0], weights[1]) and not torch.equal(weights[0], weights[2])
    assert torch.equal(before, torch.random.get_rng_state())
