"""An ensemble of one-step models: learned changes, differences of members, and roll-outs."""

from typing import Any

import numpy as np
import pytest
import torch
from toys import fit, push, walk

from pgdiff import Episodes, PgdiffError, load_learner
from pgdiff.dynamics import DynamicsEnsemble


class StepSizes:
    """A constant push; records its inputs."""

    def __init__(self, action: tuple[float, ...] = (0.5, -0.5)) -> None:
        self.action = np.float32(action)
        self.seen: list[np.ndarray] = []

    def predict(self, observation: Any, **_: Any) -> tuple[np.ndarray, None]:
        self.seen.append(observation)
        return np.tile(self.action, (len(observation), 1)), None


@pytest.fixture(scope="module")
def learned() -> DynamicsEnsemble:
    episodes = walk(episodes=40)
    ensemble = DynamicsEnsemble.from_episodes(episodes, members=3, width=64, depth=2)
    trained: DynamicsEnsemble = fit(
        ensemble, episodes, steps=200, batch_size=128, learning_rate=1e-2
    )
    return trained


def test_it_learns_the_change_and_how_sure_it_is(learned: DynamicsEnsemble) -> None:
    """The point mass is deterministic: means agree, and deviations are small."""
    held_out = walk(episodes=4, seed=5)
    now = torch.as_tensor(np.array(held_out.observations)).expand(3, -1, -1)
    action = torch.as_tensor(np.array(held_out.actions)).expand(3, -1, -1)
    with torch.no_grad():
        mean, log_variance, ended = learned(now, action)
    wanted = push(held_out.observations, held_out.actions) - held_out.observations
    found = learned.changes.unnormalize(mean)[..., :-1].numpy()
    scale = learned.changes.scale[:-1].numpy()
    error = np.sqrt((((found - wanted) / scale) ** 2).mean(axis=(1, 2)))
    predicted = float((0.5 * log_variance[..., :-1]).exp().mean())
    print(f"\none-step error {error}, predicted deviation {predicted:.3f} of the changes'")
    assert (error < 0.15).all()
    assert predicted < 0.3
    assert (torch.sigmoid(ended) < 0.05).all()
    assert not torch.allclose(mean[0], mean[1], atol=1e-4)


def test_a_roll_out_follows_the_dynamics(learned: DynamicsEnsemble) -> None:
    starts = walk(seed=7).observations[::80].copy()
    policy = StepSizes()
    episodes = learned.rollout(policy, starts, steps=8, seed=0)
    assert len(episodes) == len(starts)
    assert (episodes.lengths == 8).all()
    state = starts
    scale = learned.changes.scale[:-1].numpy()
    for _ in range(8):
        state = push(state, policy.action)
    assert episodes.next_observations is not None
    last = episodes.next_observations[episodes.ends - 1]
    # Eight steps of errors of a tenth of one step's change.
    assert np.abs((last - state) / scale).max() < 8 * 0.5
    # The next observation of a row is the observation of the next, and the policy's input.
    inside = np.setdiff1d(np.arange(episodes.steps), episodes.ends - 1)
    assert np.array_equal(episodes.next_observations[inside], episodes.observations[inside + 1])
    assert np.array_equal(policy.seen[1], episodes.observations[episodes.starts + 1])


def test_the_same_seed_twice(learned: DynamicsEnsemble) -> None:
    starts = walk(seed=7).observations[:20].copy()
    one, again, other = (
        learned.rollout(StepSizes(), starts, steps=4, seed=seed).observations for seed in (0, 0, 1)
    )
    assert np.array_equal(one, again)
    assert not np.array_equal(one, other)


def test_what_a_policy_draws_is_seeded(learned: DynamicsEnsemble) -> None:
    class Draws(StepSizes):
        def predict(self, observation: Any, **_: Any) -> tuple[np.ndarray, None]:
            return torch.randn(len(observation), 2).clamp(-1, 1).numpy(), None

    starts = walk(seed=7).observations[:20].copy()
    before = torch.get_rng_state()
    one, again = (learned.rollout(Draws(), starts, steps=4, seed=0).actions for _ in range(2))
    assert np.array_equal(one, again)
    assert torch.equal(before, torch.get_rng_state())


def test_observations_keep_to_bounds(learned: DynamicsEnsemble) -> None:
    starts = walk(seed=7).observations[:20].copy()
    low, high = starts.min(axis=0), starts.max(axis=0)
    made = learned.rollout(StepSizes(), starts, steps=30, seed=0, bounds=(low, high))
    free = learned.rollout(StepSizes(), starts, steps=30, seed=0)
    assert made.next_observations is not None
    assert ((made.next_observations >= low) & (made.next_observations <= high)).all()
    assert not ((free.observations >= low) & (free.observations <= high)).all()


def test_trajectories_end_where_it_says(learned: DynamicsEnsemble) -> None:
    """An ensemble that learned to end beyond x = 0 ends there at once."""
    source = np.random.default_rng(0)
    places = source.uniform(-1, 1, (2000, 1)).astype(np.float32)
    over = places[:, 0] > 0
    episodes = Episodes.from_arrays(
        observations=places,
        actions=source.uniform(-1, 1, (2000, 1)),
        rewards=places[:, 0],
        next_observations=places,
        terminals=over,
        timeouts=~over,
    )
    ensemble = fit(
        DynamicsEnsemble.from_episodes(episodes, members=2, width=32, depth=2),
        episodes,
        steps=200,
        batch_size=128,
        learning_rate=1e-2,
    )
    starts = np.float32([[-0.6], [0.6]])
    made = ensemble.rollout(StepSizes((0.5,)), starts, steps=5, seed=0)
    assert made.lengths.tolist() == [5, 1]
    assert made.terminals.tolist() == [False] * 5 + [True]
    assert made.timeouts.tolist() == [False] * 4 + [True, False]


def test_it_is_read_back(learned: DynamicsEnsemble, tmp_path: Any) -> None:
    learned.save_pretrained(tmp_path / "ensemble")
    read: Any = load_learner(tmp_path / "ensemble", device="cpu")
    starts = walk().observations[:3].copy()
    first, second = (m.rollout(StepSizes(), starts, steps=3).rewards for m in (learned, read))
    assert np.array_equal(first, second)


def test_wrong_settings_are_named(learned: DynamicsEnsemble) -> None:
    with pytest.raises(PgdiffError, match="`members` must be"):
        DynamicsEnsemble.from_episodes(walk(), members=0)
    with pytest.raises(PgdiffError, match="`steps` must be"):
        learned.rollout(StepSizes(), walk().observations[:3].copy(), steps=0)
    settings: dict[str, Any] = {
        name: getattr(learned, name) for name in ("normalizer", "changes", "low", "high")
    }
    with pytest.raises(PgdiffError, match="`low` and `high` must be 3 bounds"):
        DynamicsEnsemble(**settings, actions=3)
    with pytest.raises(PgdiffError, match="`normalizer` must have"):
        DynamicsEnsemble(**(settings | {"normalizer": learned.changes}), actions=2)
