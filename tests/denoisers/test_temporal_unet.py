from itertools import product

import pytest
import torch
from diffusers import UNet1DModel
from torch import Tensor, nn
from toys import joint, spec

from pgdiff.core.registry import from_config, to_config
from pgdiff.core.validation import PgdiffError
from pgdiff.denoisers import DenoiserConfig, TemporalUnet, TemporalUnetConfig
from pgdiff.diffusion import CosineSchedule, X0Prediction, diffusion_loss
from pgdiff.nn.embeddings import sinusoids
from pgdiff.nn.unet_blocks import ConvBlock, ResidualBlock, pool

SMALL = TemporalUnetConfig(width=8, mults=(1, 2, 4), groups=4)
PARTS = {
    "time_mlp.linear_1": "embed.level_in.0",
    "time_mlp.linear_2": "embed.level_in.2",
    "out_block.final_conv1d_1": "token_out.0.0",
    "out_block.final_conv1d_gn": "token_out.0.1",
    "out_block.final_conv1d_2": "token_out.1",
    "down_blocks": "down",
    "up_blocks": "up",
    "mid_block": "middle",
    "resnets.0": "first",
    "resnets.1": "second",
    "conv_in.conv1d": "first.0",
    "conv_in.group_norm": "first.1",
    "conv_out.conv1d": "second.0",
    "conv_out.group_norm": "second.1",
    "time_emb": "level_in.1",
    "residual_conv": "shortcut",
}


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def inputs(batch: int = 3, tokens: int = 16, features: int = 6) -> tuple[Tensor, Tensor]:
    x = torch.randn(batch, tokens, features, generator=generator(1))
    return x, torch.rand(batch, tokens, generator=generator(2))


def built(config: TemporalUnetConfig = SMALL, **sizes: int) -> TemporalUnet:
    """Return a network with random weights, so that norms and biases are tested as well."""
    torch.manual_seed(0)
    network = config.build(spec(**{"features": 6, **sizes}))
    return perturbed(network).requires_grad_(False)


def perturbed(network: nn.Module) -> nn.Module:
    with torch.no_grad():
        for seed, parameter in enumerate(network.parameters()):
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator(seed)))
    return network


def reference() -> UNet1DModel:
    """Return diffusers' temporal U-Net at the settings of Diffuser's maze2d models."""
    torch.manual_seed(1)
    network = UNet1DModel(
        in_channels=6,
        out_channels=6,
        extra_in_channels=0,
        block_out_channels=(32, 128, 256),
        down_block_types=("DownResnetBlock1D",) * 3,
        up_block_types=("UpResnetBlock1D",) * 2,
        mid_block_type="MidResTemporalBlock1D",
        out_block_type="OutConv1DBlock",
        act_fn="mish",
        time_embedding_type="positional",
        use_timestep_embedding=True,
        flip_sin_to_cos=False,
        freq_shift=1,
    )
    return perturbed(network).requires_grad_(False).eval()


def our_name(name: str) -> str:
    for place, ours in (("downsample.conv", "shorten"), ("upsample.conv", "lengthen")):
        if place in name:
            _, index, *_, kind = name.split(".")
            return f"{ours}.{index}.{kind}"
    for theirs, ours in PARTS.items():
        name = name.replace(theirs, ours)
    return name


def transplanted(other: UNet1DModel) -> TemporalUnet:
    network = TemporalUnetConfig().build(spec(6))
    network.load_state_dict({our_name(name): value for name, value in other.state_dict().items()})
    return network.requires_grad_(False)


def test_diffusers_settings_give_its_number_of_parameters() -> None:
    """They are 3,682,118: observation and action of maze2d together have 6 features."""
    counts = [
        sum(p.numel() for p in network.parameters())
        for network in (TemporalUnetConfig().build(spec(6)), reference())
    ]
    assert counts == [3_682_118, 3_682_118]


@pytest.mark.parametrize("horizon", [4, 16, 128])
def test_equals_the_reference_given_its_weights(horizon: int) -> None:
    other = reference()
    network, (x, _) = transplanted(other), inputs(tokens=horizon)
    worst = 0.0
    for steps in ([0, 0, 0], [1, 17, 250], [500, 999, 1000]):
        step = torch.tensor(steps)
        theirs = other(x.mT, step).sample.mT
        ours = network(x, (step / 1000)[:, None].expand(-1, horizon))
        worst = max(worst, float((ours - theirs).abs().max()))
        assert theirs.std() > 0.1
    print(f"\nhorizon {horizon}: largest error {worst:.1e} of outputs about {theirs.std():.2f}")
    assert worst < 1e-5


def test_one_row_of_levels_stands_for_all() -> None:
    network, (x, level) = built(), inputs()
    together = network(x, level[:1].expand(3, -1))
    torch.testing.assert_close(network(x, level[:1]), together, rtol=0, atol=1e-6)


def test_batch_rows_are_apart_and_in_order() -> None:
    network, (x, level) = built(condition=2).double(), inputs()
    condition = torch.randn(3, 2, generator=generator(3)).double()
    x, level = x.double(), level.double()
    out, order = network(x, level, joint(condition)), [2, 0, 1]
    moved = network(x[order], level[order], joint(condition[order]))
    torch.testing.assert_close(moved, out[order], rtol=0, atol=1e-12)
    one = network(x[1:2], level[1:2], joint(condition[1:2]))
    torch.testing.assert_close(one, out[1:2], rtol=0, atol=1e-12)


def test_levels_are_pooled_to_every_resolution() -> None:
    """The blocks of a resolution with n tokens get the mean over 16 / n tokens."""
    network, (x, level) = built(), inputs()
    received = []
    hooks = [
        module.register_forward_hook(lambda module, at, out: received.append(at))
        for module in network.modules()
        if isinstance(module, ResidualBlock)
    ]
    network(x, level)
    for hook in hooks:
        hook.remove()
    finest = network.embed(level)
    tokens = [h.shape[-1] for h, _ in received]
    assert tokens == [16, 16, 8, 8, 4, 4, 4, 4, 4, 4, 8, 8]
    for count, (_, embedding) in zip(tokens, received, strict=True):
        mean = finest.reshape(3, count, -1, 8).mean(dim=2)
        torch.testing.assert_close(embedding, mean, rtol=0, atol=1e-6)


def test_equal_levels_survive_pooling_exactly() -> None:
    embedding = torch.randn(3, 1, 8, generator=generator(0)).expand(-1, 16, -1)
    assert (pool(pool(embedding)) == embedding[:, :4]).all()


@pytest.mark.parametrize("token", [0, 6, 15])
def test_a_tokens_level_acts_at_its_own_place(token: int) -> None:
    """With one resolution, filters of one token and no norm, tokens do not mix."""
    config = TemporalUnetConfig(width=8, mults=(1,), groups=4, kernel=1)
    network, (x, level) = built(config), inputs()
    for module in network.modules():
        if isinstance(module, ConvBlock):
            module[1] = nn.Identity()
    other = level.clone()
    other[:, token] = 1 - other[:, token] / 2
    change = (network(x, other) - network(x, level)).abs().amax(dim=(0, 2))
    assert change[token] > 1e-3
    assert change[torch.arange(16) != token].max() == 0


def test_is_not_causal_and_the_last_token_reaches_the_first() -> None:
    network, (x, level) = built(), inputs(tokens=64)
    out = network(x, level)
    moved, other = x.clone(), level.clone()
    moved[:, -1] += 1.0
    other[:, -1] = 1 - other[:, -1] / 2
    for changed in (network(moved, level), network(x, other)):
        change = (changed - out).abs().amax(dim=(0, 2))
        assert (change > 1e-6).all()
        assert change[-1] > change[0]


def test_condition() -> None:
    network, (x, level) = built(condition=2), inputs()
    condition = torch.randn(3, 2, generator=generator(3))
    out, added = network(x, level, joint(condition)), network(x, level, joint(condition + 1.0))
    assert out.shape == x.shape
    assert (added - out).abs().amax(dim=(1, 2)).min() > 1e-3
    extra = set(network.state_dict()) - set(built().state_dict())
    assert extra and all(name.startswith("embed.condition_in.") for name in extra)
    with pytest.raises(PgdiffError, match="`condition` must be given"):
        network(x, level)
    with pytest.raises(PgdiffError, match="`condition` must be None"):
        built()(x, level, joint(condition))
    with pytest.raises(PgdiffError, match="`condition` must have shape"):
        network(x, level, joint(condition[:, :1]))
    with pytest.raises(PgdiffError, match="`condition`"):
        SMALL.build(spec(6, condition=-1))


def test_a_condition_adds_to_every_tokens_level() -> None:
    network, (_, level) = built(condition=2), inputs()
    condition = torch.randn(3, 2, generator=generator(3))
    added = network.embed(level[:1], condition) - network.embed(level[:1], 0 * condition)
    torch.testing.assert_close(added, added[:, :1].expand(-1, 16, -1), rtol=0, atol=1e-6)
    assert added.abs().amax(dim=(1, 2)).min() > 1e-3


def test_shapes() -> None:
    for outputs, mults in product([None, 1, 9], [(1,), (2, 1), (1, 2, 1, 2)]):
        config = TemporalUnetConfig(width=8, mults=mults, groups=4, kernel=3)
        x, level = inputs(batch=1, tokens=2 ** (len(mults) - 1))
        out = config.build(spec(6, outputs=outputs))(x, level)
        assert out.shape == (1, x.shape[1], outputs or 6)
        assert torch.isfinite(out).all()


def test_a_number_of_tokens_that_does_not_fit_is_refused() -> None:
    for tokens in [1, 2, 6, 18]:
        x, level = inputs(tokens=tokens)
        with pytest.raises(PgdiffError, match=rf"multiple of 4 .* Got {tokens}\."):
            built()(x, level)
        with pytest.raises(PgdiffError, match=rf"multiple of 4 .* Got {tokens}\."):
            SMALL.check_tokens(tokens)
        SMALL.check_tokens(4 * tokens)


def test_float64() -> None:
    network, (x, level) = built(), inputs()
    single = network(x, level)
    double = network.double()(x.double(), level.double())
    assert double.dtype == torch.float64
    torch.testing.assert_close(single.double(), double, rtol=1e-4, atol=1e-4)


def test_gradient_reaches_every_parameter() -> None:
    torch.manual_seed(0)
    network, (x, level) = SMALL.build(spec(6, condition=2)), inputs()
    condition = torch.randn(3, 2, generator=generator(3))
    (network(x, level, joint(condition)) - x.flip(1)).square().mean().backward()
    for name, parameter in network.named_parameters():
        assert torch.isfinite(parameter.grad).all(), name
        assert parameter.grad.abs().sum() > 0, name


def test_saved_and_loaded_it_is_the_same() -> None:
    assert isinstance(SMALL, DenoiserConfig)
    network, (x, level) = built(), inputs()
    config = from_config("denoiser", to_config(SMALL))
    assert config == SMALL
    again = config.build(spec(6))
    again.load_state_dict(network.state_dict())
    assert (again(x, level) == network(x, level)).all()


def test_overfits_32_segments() -> None:
    """Compare the loss with that of the exact denoiser of those 32, which is the minimum."""
    torch.manual_seed(0)
    network = TemporalUnetConfig(width=16, mults=(1, 2, 4)).build(spec(2))
    noise_schedule, source = CosineSchedule(), generator(0)
    phase = 6.28 * torch.rand(32, 1, 2, generator=source)
    x0 = torch.sin(phase + torch.linspace(0.0, 3.0, 16)[:, None])
    settings = {
        "noise_schedule": noise_schedule,
        "prediction": X0Prediction(),
        "given": torch.zeros(32, 16, 2, dtype=torch.bool),
    }

    def exact(x: Tensor, level: Tensor) -> Tensor:
        alpha, sigma = (
            noise_schedule.alpha(level)[:, :1, None],
            noise_schedule.sigma(level)[:, :1, None],
        )
        distance = (x[:, None] - alpha[:, None] * x0).square().sum(dim=(2, 3))
        share = torch.softmax(-distance / (2 * sigma[:, 0].square()), dim=1)
        return torch.einsum("bk,ktd->btd", share, x0)

    optimizer = torch.optim.Adam(network.parameters(), lr=2e-3)
    losses, least = [], []
    for _ in range(200):
        level = torch.rand(32, 1, generator=source).clamp(min=1e-3).expand(-1, 16)
        epsilon = torch.randn(x0.shape, generator=source)
        loss = diffusion_loss(network, x0, level, epsilon, **settings)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
        least.append(float(diffusion_loss(exact, x0, level, epsilon, **settings)))
    first, last, best = losses[0], sum(losses[-50:]) / 50, sum(least[-50:]) / 50
    print(f"\nloss {first:.3f} -> {last:.4f}; the exact denoiser has {best:.4f}")
    assert last < best + 0.1 * first


def test_rates_end_at_the_longest_wave_with_a_shift_of_one() -> None:
    angle = sinusoids(torch.tensor([1.0], dtype=torch.float64), 8, longest=100.0, shift=1)
    rate = angle[0, :4].asin()
    expected = torch.tensor([1.0, 100 ** (-1 / 3), 100 ** (-2 / 3), 0.01], dtype=torch.float64)
    torch.testing.assert_close(rate, expected)


def test_bad_settings_are_named() -> None:
    for name in ("width", "kernel", "groups", "level_scale"):
        with pytest.raises(PgdiffError, match=f"`{name}`"):
            TemporalUnetConfig(**{name: -4.0 if name == "level_scale" else -4})
    for settings, message in (
        ({"width": 9, "groups": 3}, "`width` must be even. Got 9"),
        ({"kernel": 4}, "`kernel` must be odd. Got 4"),
        ({"mults": ()}, "`mults` must be a tuple of at least one"),
        ({"mults": (1, 0)}, r"`mults\[1\]`"),
        ({"width": 12, "mults": (2, 1)}, r"12 channels of `mults\[1\]`. Got 8"),
    ):
        with pytest.raises(PgdiffError, match=message):
            TemporalUnetConfig(**settings)
