"""A user-defined map hint and a branch on a frozen base: two files suffice for all steps."""

import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import pgdiff
from pgdiff import Condition, Episodes, Sampling, Tokens, TrajectoryDiffusion
from pgdiff.denoisers import TransformerConfig

sys.path.insert(0, str(Path(__file__).parent))
from map_branch import MapBranchConfig
from map_hint import MapHint

SIZE = (8, 8)
SMALL = TransformerConfig(width=32, depth=2, heads=2)


def wind(upper: float, lower: float) -> np.ndarray:
    """Return a map of the wind along the first position: one value above zero, another below."""
    rows = np.where(np.arange(SIZE[0]) < SIZE[0] // 2, lower, upper)
    return np.repeat(rows[:, None], SIZE[1], axis=1).astype(np.float32)


def recording(episodes: int = 300, steps: int = 9) -> Episodes:
    """Record points that drift with the wind at their place; a map for each episode."""
    random = np.random.default_rng(0)
    winds = random.choice([-1.0, 1.0], size=(episodes, 2))
    start = np.stack(
        [random.uniform(-0.2, 0.2, episodes), random.uniform(0.3, 0.9, episodes)], axis=1
    )
    start[:, 1] *= random.choice([-1, 1], episodes)
    speed = 0.1 * np.where(start[:, 1] > 0, winds[:, 0], winds[:, 1])
    steps_on = np.arange(steps)[None, :, None] * np.stack([speed, 0 * speed], axis=1)[:, None]
    observations = (start[:, None] + steps_on).reshape(-1, 2).astype(np.float32)
    maps = np.stack([wind(*pair) for pair in winds]).repeat(steps, axis=0)
    ends = np.zeros((episodes, steps), bool)
    ends[:, -1] = True
    return Episodes(
        observations=observations,
        actions=np.zeros((len(observations), 1), np.float32),
        rewards=np.zeros(len(observations), np.float32),
        terminals=np.zeros(len(observations), bool),
        timeouts=ends.reshape(-1),
        starts=np.arange(0, len(observations), steps),
        ends=np.arange(steps, len(observations) + 1, steps),
        infos={"map": maps},
    )


def fit(model: TrajectoryDiffusion, episodes: Episodes, steps: int) -> TrajectoryDiffusion:
    trainer = pgdiff.Trainer(
        steps=steps, batch_size=128, learning_rate=3e-3, device="cpu", progress=False
    )
    return trainer.fit(model, episodes)


@pytest.fixture(scope="module")
def episodes() -> Episodes:
    return recording()


@pytest.fixture(scope="module")
def base(episodes: Episodes) -> TrajectoryDiffusion:
    model = TrajectoryDiffusion.from_episodes(episodes, Tokens(horizon=8), denoiser=SMALL)
    return fit(model, episodes, 250)


@pytest.fixture(scope="module")
def fresh(base: TrajectoryDiffusion, episodes: Episodes) -> TrajectoryDiffusion:
    """Return the branch on the trained base, before its own training."""
    model = TrajectoryDiffusion.from_episodes(
        episodes,
        Tokens(horizon=8),
        denoiser=MapBranchConfig(base=SMALL),
        conditions=[MapHint(size=SIZE)],
    )
    model.network.base.load_state_dict(base.network.state_dict())
    return model


@pytest.fixture(scope="module")
def trained(fresh: TrajectoryDiffusion, episodes: Episodes, tmp_path_factory):
    folder = tmp_path_factory.mktemp("fresh")
    fresh.save_pretrained(folder)
    return fit(TrajectoryDiffusion.from_pretrained(folder), episodes, 350)


def drift(model: TrajectoryDiffusion, value: np.ndarray | None, height: float) -> np.ndarray:
    """Return the drift along the first position of samples that start at this height."""
    start = model.inpaint(torch.tensor([[0.0, height]]).expand(64, -1))
    condition = None if value is None else Condition(values={"map": torch.tensor(value)[None]})
    samples = model.sample(
        64, Sampling(steps=10), inpainting=start, condition=condition, seed=0
    ).segment.observations
    return (samples[:, -1, 0] - samples[:, 0, 0]).numpy()


def test_an_untrained_branch_changes_nothing(base, fresh) -> None:
    for value in (None, wind(1, -1)):
        np.testing.assert_array_equal(drift(fresh, value, 0.5), drift(base, None, 0.5))


def test_the_base_stays_frozen(base, trained) -> None:
    for name, weight in base.network.state_dict().items():
        assert torch.equal(trained.network.base.state_dict()[name], weight), name


def test_samples_follow_the_map_at_their_position(trained) -> None:
    for upper, lower in ((1, -1), (-1, 1)):
        value = wind(upper, lower)
        assert np.mean(np.sign(drift(trained, value, 0.6)) == upper) > 0.9
        assert np.mean(np.sign(drift(trained, value, -0.6)) == lower) > 0.9


def test_without_the_map_both_directions_occur(trained) -> None:
    right = np.mean(drift(trained, None, 0.6) > 0)
    assert 0.2 < right < 0.8


def test_a_planner_passes_the_map(trained, tmp_path) -> None:
    trained.save_pretrained(tmp_path)
    loaded = TrajectoryDiffusion.from_pretrained(tmp_path)
    for upper in (1.0, -1.0):
        planner = pgdiff.Planner(
            loaded,
            candidates=16,
            sampling=Sampling(steps=10),
            condition={"map": wind(upper, -upper)},
        )
        plan = planner.plan(np.array([0.0, 0.6], np.float32), seed=3)
        ends = plan.candidates[:, -1, 0]
        assert np.mean(np.sign(ends) == upper) > 0.85


def test_a_map_of_the_wrong_shape_is_refused(trained) -> None:
    with pytest.raises(pgdiff.PgdiffError, match=r"`map` must have shape \[1, 8, 8\]"):
        drift(trained, wind(1, 1)[:4], 0.5)
