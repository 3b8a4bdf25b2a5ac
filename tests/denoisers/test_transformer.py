import math

import pytest
import torch
from torch import Tensor

from pgdiff.denoisers import Transformer, TransformerConfig
from pgdiff.denoisers.transformer import sinusoids
from pgdiff.diffusion import CosineSchedule, X0Prediction, diffusion_loss
from pgdiff.registry import from_config, to_config
from pgdiff.validation import PgdiffError

SMALL = TransformerConfig(width=32, depth=2, heads=4)


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def awake(network: Transformer, seed: int = 0) -> Transformer:
    """Draw every weight anew, so that nothing is zero any more."""
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.copy_(0.2 * torch.randn(parameter.shape, generator=generator(seed)))
            seed += 1
    return network.requires_grad_(False)


def inputs(batch: int = 3, tokens: int = 7, features: int = 5) -> tuple[Tensor, Tensor]:
    x = torch.randn(batch, tokens, features, generator=generator(1))
    return x, torch.rand(batch, tokens, generator=generator(2))


def test_a_new_network_gives_zero() -> None:
    x, level = inputs()
    assert (SMALL.build(features=5)(x, level) == 0).all()


@pytest.mark.parametrize("tokens", [1, 2, 7, 64])
@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("outputs", [None, 1, 9])
def test_any_number_of_tokens(tokens: int, batch: int, outputs: int | None) -> None:
    x, level = inputs(batch, tokens)
    out = awake(SMALL.build(features=5, outputs=outputs))(x, level)
    assert out.shape == (batch, tokens, outputs or 5)
    assert torch.isfinite(out).all()


def test_batch_rows_are_apart_and_in_order() -> None:
    network, (x, level) = awake(SMALL.build(features=5)).double(), inputs()
    x, level = x.double(), level.double()
    out, order = network(x, level), [2, 0, 1]
    torch.testing.assert_close(network(x[order], level[order]), out[order], rtol=0, atol=1e-12)
    torch.testing.assert_close(network(x[1:2], level[1:2]), out[1:2], rtol=0, atol=1e-12)


def test_tokens_know_their_place_and_hear_each_other() -> None:
    network, (x, level) = awake(SMALL.build(features=5)), inputs()
    level = level[:, :1].expand(-1, 7)
    out = network(x, level)
    assert (network(x.flip(1), level).flip(1) - out).abs().amax(dim=(0, 2)).min() > 1e-3
    moved = x.clone()
    moved[:, 3] += 1.0
    assert (network(moved, level) - out).abs().amax(dim=(0, 2)).min() > 1e-4


def test_one_row_of_levels_stands_for_all() -> None:
    network, (x, level) = awake(SMALL.build(features=5)), inputs()
    together = network(x, level[:1].expand(3, -1))
    difference = (network(x, level[:1]) - together).abs().max()
    print(f"\nlevels [1, T] against [B, T]: {float(difference):.1e} of {float(together.std()):.2f}")
    assert difference < 1e-6 * together.abs().max()


@pytest.mark.parametrize("token", [0, 3, 6])
def test_each_tokens_level_matters_most_to_itself(token: int) -> None:
    """With attention silenced a level reaches its own token alone."""
    network, (x, level) = awake(SMALL.build(features=5)), inputs()
    other = level.clone()
    other[:, token] = 1 - other[:, token] / 2
    change = (network(x, other) - network(x, level)).abs().amax(dim=(0, 2))
    assert (change > 1e-5).all()  # through attention, everywhere
    with torch.no_grad():
        for block in network.blocks:
            block.attention_out.weight.zero_()
    change = (network(x, other) - network(x, level)).abs().amax(dim=(0, 2))
    assert change[token] > 1e-2
    assert change[torch.arange(7) != token].max() == 0


def test_small_differences_of_level_are_told_apart() -> None:
    network, (x, _) = awake(SMALL.build(features=5)).double(), inputs()
    for level in (0.0, 1e-3, 0.5, 0.999):
        one = network(x.double(), torch.full((1, 7), level, dtype=torch.float64))
        two = network(x.double(), torch.full((1, 7), level + 1e-3, dtype=torch.float64))
        assert (one - two).abs().max() > 1e-3


def test_sinusoids() -> None:
    position = torch.tensor([0.0, 1.0, 2.5])
    got = sinusoids(position, 6, longest=100.0)
    rates = [1.0, 100 ** (-1 / 3), 100 ** (-2 / 3)]
    expected = [
        [math.sin(p * r) for r in rates] + [math.cos(p * r) for r in rates]
        for p in position.tolist()
    ]
    torch.testing.assert_close(got, torch.tensor(expected))


def test_float64() -> None:
    network, (x, level) = awake(SMALL.build(features=5)), inputs()
    single = network(x, level)
    double = network.double()(x.double(), level.double())
    assert double.dtype == torch.float64
    torch.testing.assert_close(single.double(), double, rtol=1e-4, atol=1e-4)


def test_gradient_reaches_every_weight_after_two_steps() -> None:
    """The first step wakes the output, the second the gates; then everything learns."""
    torch.manual_seed(0)
    network, (x, level) = SMALL.build(features=5), inputs()
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-3)
    asleep = []
    for _ in range(3):
        optimizer.zero_grad()
        (network(x, level) - x.flip(1)).square().mean().backward()
        asleep.append([n for n, p in network.named_parameters() if not p.grad.abs().sum() > 0])
        optimizer.step()
    assert len(asleep[0]) > len(asleep[1]) > 0
    assert asleep[2] == []
    assert all(torch.isfinite(p.grad).all() for p in network.parameters())


def test_learns_four_sequences_by_heart() -> None:
    """Loss against that of the exact denoiser of those four, which is the least there is."""
    torch.manual_seed(0)
    network = TransformerConfig(width=64, depth=2, heads=4).build(features=4)
    schedule, source = CosineSchedule(), generator(0)
    data = torch.randn(4, 8, 4, generator=source)
    x0 = data.repeat(16, 1, 1)
    settings = {
        "schedule": schedule,
        "prediction": X0Prediction(),
        "known": torch.zeros(64, 8, 4, dtype=torch.bool),
    }

    def exact(x: Tensor, level: Tensor) -> Tensor:
        alpha, sigma = schedule.alpha(level)[:, :1, None], schedule.sigma(level)[:, :1, None]
        distance = (x[:, None] - alpha[:, None] * data).square().sum(dim=(2, 3))
        share = torch.softmax(-distance / (2 * sigma[:, 0].square()), dim=1)
        return torch.einsum("bk,ktd->btd", share, data)

    optimizer = torch.optim.Adam(network.parameters(), lr=2e-3)
    losses, least = [], []
    for _ in range(400):
        level = torch.rand(64, 1, generator=source).clamp(min=1e-3).expand(-1, 8)
        epsilon = torch.randn(x0.shape, generator=source)
        loss = diffusion_loss(network, x0, level, epsilon, **settings)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
        least.append(float(diffusion_loss(exact, x0, level, epsilon, **settings)))
    first, last, best = losses[0], sum(losses[-50:]) / 50, sum(least[-50:]) / 50
    print(f"\nloss {first:.3f} -> {last:.4f}; the exact denoiser has {best:.4f}")
    assert first > 0.8
    assert last < best + 0.07


def test_config_round_trip() -> None:
    assert from_config("denoiser", to_config(SMALL)) == SMALL
    assert sum(p.numel() for p in TransformerConfig().build(features=4).parameters()) < 1_500_000


def test_bad_settings_are_named() -> None:
    for name in ("width", "depth", "heads"):
        for value in (0, -4):
            with pytest.raises(PgdiffError, match=f"`{name}`"):
                TransformerConfig(**{name: value})
    for width, heads in ((30, 4), (36, 4), (6, 2)):
        with pytest.raises(PgdiffError, match=rf"twice the {heads} heads. Got {width}"):
            TransformerConfig(width=width, heads=heads)
