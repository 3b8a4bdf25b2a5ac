"""A user-defined codec: one file suffices for training, a prior over it, and guides through it."""

import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import pgdiff
from pgdiff import Conditioning
from pgdiff.data import ObservationCondition
from pgdiff.denoisers import TransformerConfig
from pgdiff.testing import example_episodes
from pgdiff.training.learner import to_tensors

sys.path.insert(0, str(Path(__file__).parent))
from chunk_codec import ChunkCodec

EPISODES = example_episodes(episodes=12, steps=60)


def fit(learner, steps: int):
    trainer = pgdiff.Trainer(
        steps=steps, batch_size=64, learning_rate=3e-3, device="cpu", progress=False
    )
    return trainer.fit(learner, EPISODES)


@pytest.fixture(scope="module")
def codec() -> ChunkCodec:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        made = ChunkCodec.from_episodes(EPISODES, horizon=5, chunk=4, size=6)
    return fit(made, 400).requires_grad_(False).eval()


@pytest.fixture(scope="module")
def prior(codec: ChunkCodec) -> pgdiff.TrajectoryDiffusion:
    with torch.random.fork_rng():
        torch.manual_seed(1)
        made = pgdiff.TrajectoryDiffusion(
            codec=codec,
            denoiser=TransformerConfig(width=32, depth=1, heads=2),
            conditions=Conditioning(conditioners=[ObservationCondition().fit(EPISODES)]),
        )
    return fit(made, 600)


def error(codec: ChunkCodec) -> float:
    """Return the mean square error of the reconstruction, in normalised units."""
    data = codec.dataset(EPISODES)
    batch = data.batch(torch.arange(0, len(data), 5).numpy())
    batch = to_tensors(batch, torch.device("cpu"))
    with torch.no_grad():
        return float(codec.losses(batch, torch.Generator())["reconstruction"])


def test_it_reconstructs(codec: ChunkCodec) -> None:
    fresh = ChunkCodec.from_episodes(EPISODES, horizon=5, chunk=4, size=6)
    assert error(codec) < 0.1 * error(fresh)


def test_a_prior_over_it_samples_like_the_data(prior: pgdiff.TrajectoryDiffusion) -> None:
    samples = prior.sample(256, pgdiff.Sampling(steps=20), seed=0)
    assert samples.x.shape == (256, 5, 6)
    found = samples.segment.observations
    assert found.shape == (256, 20, 4)
    recorded = torch.tensor(EPISODES.observations)
    spread = recorded.std(dim=0)
    assert ((found.mean(dim=(0, 1)) - recorded.mean(dim=0)).abs() < 0.5 * spread).all()
    ratio = found.std(dim=(0, 1)) / spread
    assert ((ratio > 0.5) & (ratio < 1.5)).all()


def test_a_guide_steers_through_the_decoder(prior: pgdiff.TrajectoryDiffusion) -> None:
    def distance(guides: list[pgdiff.guides.Goal]) -> float:
        samples = prior.sample(64, pgdiff.Sampling(steps=20), guides=guides, seed=0)
        last = samples.segment.observations[:, -1, :2]
        return float((last - torch.tensor([0.5, 0.5])).norm(dim=1).mean())

    guide = pgdiff.guides.Goal((0.5, 0.5), width=0.3, scale=0.3)
    assert distance([guide]) < 0.8 * distance([])


def test_it_is_saved_with_the_model(prior: pgdiff.TrajectoryDiffusion, tmp_path: Path) -> None:
    prior.save_pretrained(tmp_path / "model")
    again = pgdiff.TrajectoryDiffusion.from_pretrained(tmp_path / "model", device="cpu")
    one, two = (model.sample(4, seed=1) for model in (prior, again))
    assert torch.equal(one.x, two.x)
    assert torch.equal(one.segment.observations, two.segment.observations)


def test_plans_start_at_the_observation(prior: pgdiff.TrajectoryDiffusion) -> None:
    """The observation is a condition, because no code can be in-painted."""
    planner = pgdiff.Planner(prior, candidates=16, sampling=pgdiff.Sampling(steps=20))
    observations = EPISODES.observations[5:300:60]
    errors = []
    for observation in observations:
        plan = planner.plan(observation, seed=0)
        assert plan.observations.shape == (20, 4)
        errors.append(np.abs(plan.candidates[:, 0] - observation).mean(axis=0))
    spread = np.abs(observations - observations.mean(axis=0)).mean(axis=0)
    assert (np.mean(errors, axis=0)[:2] < 0.3 * spread[:2]).all()


def test_what_it_cannot_do_is_named(prior: pgdiff.TrajectoryDiffusion) -> None:
    with pytest.raises(pgdiff.PgdiffError, match="codec ChunkCodec"):
        prior.inpaint(EPISODES.observations[:1].copy(), goal=EPISODES.observations[:1, :2].copy())
    with pytest.raises(pgdiff.PgdiffError, match=r"`conditions` must contain \['observation'\]"):
        pgdiff.TrajectoryDiffusion(codec=prior.codec, denoiser=prior.denoiser)
