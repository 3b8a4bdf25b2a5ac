import math
from collections.abc import Mapping
from itertools import product
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from toys import joint, spec

from pgdiff import TrajectoryDiffusion
from pgdiff.core.registry import from_config, to_config
from pgdiff.core.validation import PgdiffError
from pgdiff.denoisers import Transformer, TransformerConfig
from pgdiff.diffusion import CosineSchedule, X0Prediction, diffusion_loss
from pgdiff.nn.embeddings import sinusoids

SMALL = TransformerConfig(width=32, depth=2, heads=4)
CAUSAL = TransformerConfig(width=32, depth=2, heads=4, attention="causal")
WINDOW = TransformerConfig(width=32, depth=2, heads=4, attention="window", window=3)
FORMAT1 = Path(__file__).parents[1] / "checkpoints" / "format1" / "model"


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def awake(network: Transformer, seed: int = 0) -> Transformer:
    """Draw every weight at random, so that none is zero any more."""
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
    assert (SMALL.build(spec(5))(x, level) == 0).all()


def test_any_number_of_tokens() -> None:
    for tokens, batch, outputs in product([1, 2, 7, 64], [1, 3], [None, 1, 9]):
        x, level = inputs(batch, tokens)
        out = awake(SMALL.build(spec(5, outputs=outputs)))(x, level)
        assert out.shape == (batch, tokens, outputs or 5)
        assert torch.isfinite(out).all()


def test_batch_rows_are_apart_and_in_order() -> None:
    network, (x, level) = awake(SMALL.build(spec(5))).double(), inputs()
    x, level = x.double(), level.double()
    out, order = network(x, level), [2, 0, 1]
    torch.testing.assert_close(network(x[order], level[order]), out[order], rtol=0, atol=1e-12)
    torch.testing.assert_close(network(x[1:2], level[1:2]), out[1:2], rtol=0, atol=1e-12)


def test_tokens_know_their_position_and_affect_each_other() -> None:
    network, (x, level) = awake(SMALL.build(spec(5))), inputs()
    level = level[:, :1].expand(-1, 7)
    out = network(x, level)
    assert (network(x.flip(1), level).flip(1) - out).abs().amax(dim=(0, 2)).min() > 1e-3
    moved = x.clone()
    moved[:, 3] += 1.0
    assert (network(moved, level) - out).abs().amax(dim=(0, 2)).min() > 1e-4


def test_one_row_of_levels_stands_for_all() -> None:
    network, (x, level) = awake(SMALL.build(spec(5))), inputs()
    together = network(x, level[:1].expand(3, -1))
    difference = (network(x, level[:1]) - together).abs().max()
    print(f"\nlevels [1, T] against [B, T]: {float(difference):.1e} of {float(together.std()):.2f}")
    assert difference < 1e-6 * together.abs().max()


@pytest.mark.parametrize("token", [0, 3, 6])
def test_each_tokens_level_matters_most_to_itself(token: int) -> None:
    """Without attention a level reaches only its own token."""
    network, (x, level) = awake(SMALL.build(spec(5))), inputs()
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


def test_small_differences_of_level_are_distinguished() -> None:
    network, (x, _) = awake(SMALL.build(spec(5))).double(), inputs()
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
    network, (x, level) = awake(SMALL.build(spec(5))), inputs()
    single = network(x, level)
    double = network.double()(x.double(), level.double())
    assert double.dtype == torch.float64
    torch.testing.assert_close(single.double(), double, rtol=1e-4, atol=1e-4)


def test_gradient_reaches_every_weight_after_two_steps() -> None:
    """The first step moves the output layer, the second the gates; then everything learns."""
    torch.manual_seed(0)
    network, (x, level) = SMALL.build(spec(5)), inputs()
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


def test_overfits_four_sequences() -> None:
    """Compare the loss with that of the exact denoiser of those four, which is the minimum."""
    torch.manual_seed(0)
    network = TransformerConfig(width=64, depth=2, heads=4).build(spec(4))
    noise_schedule, source = CosineSchedule(), generator(0)
    data = torch.randn(4, 8, 4, generator=source)
    x0 = data.repeat(16, 1, 1)
    settings = {
        "noise_schedule": noise_schedule,
        "prediction": X0Prediction(),
        "given": torch.zeros(64, 8, 4, dtype=torch.bool),
    }

    def exact(x: Tensor, level: Tensor) -> Tensor:
        alpha, sigma = (
            noise_schedule.alpha(level)[:, :1, None],
            noise_schedule.sigma(level)[:, :1, None],
        )
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


def plain(weights: Mapping[str, Tensor], x: Tensor, level: Tensor, *, heads: int) -> Tensor:
    """Return the output for one sequence, by sums over tokens, in the precision of the weights."""

    def linear(name: str, y: Tensor) -> Tensor:
        return y @ weights[f"{name}.weight"].T + weights[f"{name}.bias"]

    def waves(place: float, width: int) -> Tensor:
        angle = [place * 10_000 ** (-2 * k / width) for k in range(width // 2)]
        both = [math.sin(a) for a in angle] + [math.cos(a) for a in angle]
        return torch.tensor(both, dtype=x.dtype)

    def silu(y: Tensor) -> Tensor:
        return y * torch.sigmoid(y)

    def normal(y: Tensor) -> Tensor:
        return (y - y.mean()) / (y.var(unbiased=False) + 1e-5).sqrt()

    def gelu(y: Tensor) -> Tensor:
        return y / 2 * (1 + torch.tanh(math.sqrt(2 / math.pi) * (y + 0.044715 * y**3)))

    width, depth = weights["token_in.weight"].shape[0], 0
    h = [linear("token_in", token) + waves(t, width) for t, token in enumerate(x)]
    c = [
        silu(linear("level_in.2", silu(linear("level_in.0", waves(1000 * float(a), width)))))
        for a in level
    ]
    while f"blocks.{depth}.qkv.weight" in weights:
        name, size = f"blocks.{depth}.", width // heads
        six = [linear(name + "modulation", a).split(width) for a in c]
        qkv = [
            linear(name + "qkv", normal(a) * (1 + s[1]) + s[0]).reshape(3, heads, size)
            for a, s in zip(h, six, strict=True)
        ]
        for t, (a, s) in enumerate(zip(list(h), six, strict=True)):
            parts = []
            for head in range(heads):
                score = [float(qkv[t][0, head] @ other[1, head]) / size**0.5 for other in qkv]
                share = [math.exp(value - max(score)) for value in score]
                mix = sum(w * other[2, head] for w, other in zip(share, qkv, strict=True))
                parts.append(mix / sum(share))
            a = a + s[2] * linear(name + "attention_out", torch.cat(parts))
            inner = gelu(linear(name + "feedforward.0", normal(a) * (1 + s[4]) + s[3]))
            h[t] = a + s[5] * linear(name + "feedforward.2", inner)
        depth += 1
    out = []
    for a, b in zip(h, c, strict=True):
        shift, scale = linear("modulation_out", b).split(width)
        out.append(linear("token_out", normal(a) * (1 + scale) + shift))
    return torch.stack(out)


def test_weights_of_format_1_mean_what_they_meant() -> None:
    """Compare with sums written out, from the weights in the file."""
    network = TrajectoryDiffusion.from_pretrained(FORMAT1, device="cpu").network
    stored = load_file(FORMAT1 / "model.safetensors")
    weights = {
        name.removeprefix("network."): value.double()
        for name, value in stored.items()
        if name.startswith("network.")
    }
    assert set(weights) == set(network.state_dict())
    features, largest = weights["token_in.weight"].shape[1], 0.0
    x, level = inputs(features=features)
    with torch.no_grad():
        got = network(x, level)
    for row in range(3):
        expected = plain(weights, x[row].double(), level[row], heads=2)
        largest = max(largest, float((got[row] - expected).abs().max()))
    print(f"\nformat 1: largest error {largest:.1e} of {float(got.std()):.2f}")
    assert largest < 1e-5


# ------------------------------------------------------------------------------------- condition


def test_a_network_without_a_condition_has_no_weights_for_it() -> None:
    torch.manual_seed(0)
    without = SMALL.build(spec(5)).state_dict()
    torch.manual_seed(0)
    with_it = SMALL.build(spec(5, condition=3)).state_dict()
    extra = {name for name in with_it if name not in without}
    assert extra == {f"condition_in.{n}.{kind}" for n in (0, 2) for kind in ("weight", "bias")}
    assert all(torch.equal(with_it[name], value) for name, value in without.items())


def test_condition_reaches_every_token_of_its_row() -> None:
    for config, levels in product([SMALL, CAUSAL, WINDOW], [1, 3]):
        network, (x, level) = awake(config.build(spec(5, condition=3))), inputs()
        level = level[:levels]
        condition = torch.randn(3, 3, generator=generator(3))
        out = network(x, level, joint(condition))
        other = condition.clone()
        other[1] += 1.0
        change = (network(x, level, joint(other)) - out).abs().amax(dim=2)
        assert change[1].min() > 1e-3 and not change[[0, 2]].any()
        for row in range(3):
            one = slice(row, row + 1)
            alone = network(x[one], level[one] if levels > 1 else level, joint(condition[one]))
            torch.testing.assert_close(alone, out[one], rtol=0, atol=1e-5)
        same = network(x, level, joint(condition[:1].expand(3, -1)))
        torch.testing.assert_close(network(x, level, joint(condition[:1])), same, rtol=0, atol=1e-5)


def test_condition_acts_differently_at_every_level() -> None:
    """It is added before the nonlinearity, so that its effect depends on the level."""
    network, (x, _) = awake(SMALL.build(spec(5, condition=1))), inputs()
    modulation = []
    for level in (0.1, 0.9):
        for value in (0.0, 1.0):
            layer = network.blocks[0].modulation
            caught: list[Tensor] = []
            hook = layer.register_forward_hook(lambda *given, to=caught: to.append(given[2]))
            network(x, torch.full((1, 7), level), joint(torch.full((1, 1), value)))
            hook.remove()
            modulation += caught
    low, high = modulation[1] - modulation[0], modulation[3] - modulation[2]
    assert (low - high).abs().max() > 1e-2


def test_condition_must_be_that_of_the_network(unchecked: None) -> None:
    x, level = inputs()
    with_it, without = SMALL.build(spec(5, condition=3)), SMALL.build(spec(5))
    with pytest.raises(PgdiffError, match="`condition` must be given"):
        with_it(x, level)
    with pytest.raises(PgdiffError, match="`condition` must be None"):
        without(x, level, joint(torch.zeros(3, 3)))
    for shape in ((3, 2), (1, 4)):
        with pytest.raises(PgdiffError, match=r"`condition` must have shape \[batch, 3\]. Got"):
            with_it(x, level, joint(torch.zeros(shape)))
    for value in (-1, 1.5, True):
        with pytest.raises(PgdiffError, match="`condition` must be an integer of at least 1"):
            SMALL.build(spec(5, condition=value))


# -------------------------------------------------------------------------------------- settings


@pytest.mark.parametrize("config", [SMALL, CAUSAL, WINDOW], ids=lambda c: c.attention)
def test_config_round_trip(config: TransformerConfig) -> None:
    assert from_config("denoiser", to_config(config)) == config


def test_an_old_description_is_that_of_full_attention() -> None:
    old = {"name": "transformer", "width": 32, "depth": 2, "heads": 4}
    assert from_config("denoiser", old) == SMALL
    assert (SMALL.attention, SMALL.window, SMALL.hide_noise) == ("full", None, False)


def test_the_default_is_small() -> None:
    assert sum(p.numel() for p in TransformerConfig().build(spec(4)).parameters()) < 1_500_000


def test_bad_settings_are_named(unchecked: None) -> None:
    for name in ("width", "depth", "heads"):
        for value in (0, -4):
            with pytest.raises(PgdiffError, match=f"`{name}`"):
                TransformerConfig(**{name: value})
    for width, heads in ((30, 4), (36, 4), (6, 2)):
        with pytest.raises(PgdiffError, match=rf"twice the {heads} heads. Got {width}"):
            TransformerConfig(width=width, heads=heads)
    with pytest.raises(PgdiffError, match=r"`attention` must be one of .* Did you mean 'causal'"):
        TransformerConfig(attention="casual")
    with pytest.raises(PgdiffError, match="`window` must be given with attention 'window'"):
        TransformerConfig(attention="window")
    for attention in ("full", "causal"):
        with pytest.raises(PgdiffError, match=f"`window` must be None with .* '{attention}'"):
            TransformerConfig(attention=attention, window=4)
    for window in (0, -1, 2.5, True):
        with pytest.raises(PgdiffError, match="`window` must be an integer of at least 1"):
            TransformerConfig(attention="window", window=window)
    with pytest.raises(PgdiffError, match=r"`hide_noise` must be true or false. Got 1"):
        TransformerConfig(hide_noise=1)
