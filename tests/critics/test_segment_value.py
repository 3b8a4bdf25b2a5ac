"""The value of a whole noisy segment: its target, and a return that it learns."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from toys import fit, generator, record, walk

from pgdiff import SegmentValue
from pgdiff.core.validation import PgdiffError
from pgdiff.critics.segment_value import ReturnDataset
from pgdiff.denoisers import TransformerConfig
from pgdiff.training.learner import to_tensors
from pgdiff.trajectory import Segment

TINY = TransformerConfig(width=16, depth=1)


def test_the_target_is_the_discounted_return_of_the_start() -> None:
    episodes = walk(episodes=3, length=25)
    dataset = ReturnDataset(episodes, horizon=4, stride=3, discount=0.9)
    batch = dataset.batch(np.arange(len(dataset)))
    assert len(dataset) == 3 * (25 - 9)
    for window in range(len(dataset)):
        start, end = 25 * (window // 16) + window % 16, 25 * (window // 16 + 1)
        naive = sum(0.9 ** (t - start) * float(episodes.rewards[t]) for t in range(start, end))
        assert batch.returns[window] == pytest.approx(naive, rel=1e-5)
        rows = start + 3 * np.arange(4)
        assert np.array_equal(batch.observations[window], episodes.observations[rows])


def test_the_first_token_is_clean_and_the_loss_is_in_units_of_a_mean_reward() -> None:
    episodes = walk()
    value = SegmentValue.from_episodes(episodes, horizon=4, stride=3, discount=0.9, denoiser=TINY)
    seen: list[tuple[Tensor, Tensor]] = []

    def spy(module: nn.Module, arguments: Any) -> None:
        seen.append(arguments)

    value.network.register_forward_pre_hook(spy)
    batch = value.dataset(episodes).batch(np.arange(40))
    batch = to_tensors(batch, torch.device("cpu"))
    before = torch.random.get_rng_state()
    loss = value.losses(batch, generator(0))["value"]
    assert torch.equal(before, torch.random.get_rng_state())
    ((x, level),) = seen
    x0 = value.normalizer.normalize(batch.observations)
    assert (level[:, 0] == 0).all() and torch.equal(x[:, 0], x0[:, 0])
    assert (level[:, 1:] == level[:, 1:2]).all() and (level[:, 1:] > 0).all()
    sigma = value.noise_schedule.sigma(level[:, 1:])[..., None]
    alpha = value.noise_schedule.alpha(level[:, 1:])[..., None]
    noise = (x[:, 1:] - alpha * x0[:, 1:]) / sigma
    assert abs(float(noise.mean())) < 0.2 and abs(float(noise.std()) - 1) < 0.1
    # A new network returns 0, so the loss is the mean square of the scaled returns.
    torch.testing.assert_close(loss, (0.1 * batch.returns).square().mean())


def test_it_learns_a_linear_return_at_every_level() -> None:
    """Each episode has one reward, visible in its observations; far from the end J equals it."""
    rng = np.random.default_rng(0)
    pay = np.repeat(rng.uniform(-1, 1, 40), 30)
    observations = np.stack([pay, rng.normal(size=1200)], axis=1)
    episodes = record(observations, np.zeros((1200, 1)), 2 * pay + 1, lengths=[30] * 40)
    value = SegmentValue.from_episodes(
        episodes, horizon=4, stride=3, discount=0.5, denoiser=TransformerConfig(width=32, depth=1)
    )
    fit(value, episodes, steps=500, learning_rate=6e-3)
    data = value.dataset(episodes).batch(np.arange(len(value.dataset(episodes)))[::7])
    x0 = value.normalizer.normalize(torch.from_numpy(data.observations))
    exact = 2 * torch.from_numpy(data.observations)[:, 0, 0] + 1
    for noisiness in (0.0, 0.5, 1.0):
        level = torch.full(x0.shape[:2], noisiness)
        level[:, 0] = 0.0
        alpha, sigma = (
            value.noise_schedule.alpha(level)[..., None],
            value.noise_schedule.sigma(level)[..., None],
        )
        x = alpha * x0 + sigma * torch.randn(x0.shape, generator=generator(0))
        segment = Segment(observations=value.normalizer.unnormalize(x), stride=3)
        with torch.no_grad():
            learned = value.objective(segment, level)
        error = (learned - exact).abs().mean().item()
        print(
            f"\nlevel {noisiness}: mean error {error:.3f} of values with spread {exact.std():.2f}"
        )
        assert error < 0.1


@pytest.mark.usefixtures("unchecked")
def test_bad_settings_and_segments_are_named() -> None:
    episodes = walk()
    for name, wrong in (("discount", 1.0), ("discount", 0.0), ("horizon", 1), ("stride", 0)):
        with pytest.raises(PgdiffError, match=f"`{name}` must be"):
            SegmentValue.from_episodes(
                episodes, **({"horizon": 4, "stride": 3, "denoiser": TINY} | {name: wrong})
            )
    value = SegmentValue.from_episodes(episodes, horizon=4, stride=3, denoiser=TINY)
    level = torch.zeros(1, 4)
    for shape, stride, name in (
        ((2, 4, 4), 2, "stride"),
        ((2, 5, 4), 3, "horizon"),
        ((2, 4, 3), 3, "observation"),
    ):
        with pytest.raises(
            PgdiffError, match=f"`{name}` of a segment must equal that of the value"
        ):
            value.objective(Segment(observations=torch.zeros(shape), stride=stride), level)


def test_same_seed_same_weights() -> None:
    episodes = walk()
    before = torch.random.get_rng_state()
    first, again, other = (
        torch.cat(
            [
                p.flatten()
                for p in SegmentValue.from_episodes(
                    episodes, horizon=4, stride=1, denoiser=TINY, seed=seed
                ).parameters()
            ]
        )
        for seed in (0, 0, 1)
    )
    assert torch.equal(first, again) and not torch.equal(first, other)
    assert torch.equal(before, torch.random.get_rng_state())
