from itertools import product

import pytest
import torch
from torch import Tensor
from toys import joint, spec

from pgdiff.core.registry import from_config, to_config
from pgdiff.core.validation import PgdiffError
from pgdiff.denoisers import DenoiserConfig, ResidualMLP, ResidualMLPConfig
from pgdiff.diffusion import CosineSchedule, X0Prediction, diffusion_loss

SMALL = ResidualMLPConfig(width=32, depth=2, embedding=16)


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def inputs(batch: int = 3, tokens: int = 7, features: int = 5) -> tuple[Tensor, Tensor]:
    x = torch.randn(batch, tokens, features, generator=generator(1))
    return x, torch.rand(batch, tokens, generator=generator(2))


def built(config: ResidualMLPConfig = SMALL, **sizes: int) -> ResidualMLP:
    torch.manual_seed(0)
    return config.build(spec(**{"features": 5, **sizes})).requires_grad_(False)


def parameters(config: ResidualMLPConfig, features: int) -> int:
    return sum(p.numel() for p in config.build(spec(features)).parameters())


def test_number_of_parameters() -> None:
    """SynthER's has about 25.5 million at width 2048, where a transition has some 24 features."""
    published = parameters(ResidualMLPConfig(width=2048), features=24)
    print(f"\nwidth 2048: {published:,} parameters")
    assert abs(published / 25.5e6 - 1) < 0.03
    assert parameters(ResidualMLPConfig(), features=40) <= 1_000_000


def test_shapes() -> None:
    for tokens, outputs in product([1, 7], [None, 1, 9]):
        x, level = inputs(tokens=tokens)
        out = built(outputs=outputs)(x, level)
        assert out.shape == (3, tokens, outputs or 5)
        assert torch.isfinite(out).all()


def test_tokens_are_independent_and_know_no_place() -> None:
    network, (x, level) = built().double(), inputs()
    x, level = x.double(), level.double()
    out = network(x, level)
    one_by_one = torch.cat([network(x[:, [t]], level[:, [t]]) for t in range(7)], dim=1)
    torch.testing.assert_close(one_by_one, out, rtol=0, atol=1e-12)
    torch.testing.assert_close(network(x.flip(1), level.flip(1)).flip(1), out, rtol=0, atol=1e-12)
    moved, other = x.clone(), level.clone()
    moved[:, 3] += 1.0
    other[:, 3] = 1 - other[:, 3] / 2
    for changed in (network(moved, level), network(x, other)):
        change = (changed - out).abs().amax(dim=(0, 2))
        assert change[3] > 1e-3
        assert change[torch.arange(7) != 3].max() < 1e-12


def test_batch_rows_are_apart_and_in_order() -> None:
    network, (x, level) = built(condition=2).double(), inputs()
    condition = torch.randn(3, 2, generator=generator(3)).double()
    x, level = x.double(), level.double()
    out, order = network(x, level, joint(condition)), [2, 0, 1]
    moved = network(x[order], level[order], joint(condition[order]))
    torch.testing.assert_close(moved, out[order], rtol=0, atol=1e-12)


def test_one_row_of_levels_stands_for_all() -> None:
    network, (x, level) = built(), inputs()
    together = network(x, level[:1].expand(3, -1))
    torch.testing.assert_close(network(x, level[:1]), together, rtol=0, atol=1e-6)


def test_condition() -> None:
    network, (x, level) = built(condition=2), inputs()
    condition = torch.randn(3, 2, generator=generator(3))
    change = (network(x, level, joint(condition + 1.0)) - network(x, level, joint(condition))).abs()
    assert change.amax(dim=2).min() > 1e-4  # at every token of every row
    extra = set(network.state_dict()) - set(built().state_dict())
    assert extra and all(name.startswith("embed.condition_in.") for name in extra)
    with pytest.raises(PgdiffError, match="`condition` must be given"):
        network(x, level)
    with pytest.raises(PgdiffError, match="`condition` must be None"):
        built()(x, level, joint(condition))
    with pytest.raises(PgdiffError, match="`condition` must have shape"):
        network(x, level, joint(condition[:, :1]))
    with pytest.raises(PgdiffError, match="`condition`"):
        SMALL.build(spec(5, condition=-1))


def test_gradient_reaches_every_parameter() -> None:
    torch.manual_seed(0)
    network, (x, level) = SMALL.build(spec(5, condition=2)), inputs()
    condition = torch.randn(3, 2, generator=generator(3))
    (network(x, level, joint(condition)) - x.flip(2)).square().mean().backward()
    for name, parameter in network.named_parameters():
        assert torch.isfinite(parameter.grad).all(), name
        assert parameter.grad.abs().sum() > 0, name


def test_saved_and_loaded_it_is_the_same() -> None:
    assert isinstance(SMALL, DenoiserConfig)
    network, (x, level) = built(), inputs()
    config = from_config("denoiser", to_config(SMALL))
    assert config == SMALL
    again = config.build(spec(5))
    again.load_state_dict(network.state_dict())
    assert (again(x, level) == network(x, level)).all()


def test_learns_a_gaussian_transition() -> None:
    """Compare the loss with that of the exact denoiser of a Gaussian, which is the minimum."""
    torch.manual_seed(0)
    network = ResidualMLPConfig(width=64, depth=3, embedding=32).build(spec(4))
    noise_schedule, source = CosineSchedule(), generator(0)
    mix = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.8, 0.6], [-0.6, 0.8]])  # s and s' = R s
    covariance = mix @ mix.T + 0.01 * torch.eye(4)
    factor = torch.linalg.cholesky(covariance)
    settings = {
        "noise_schedule": noise_schedule,
        "prediction": X0Prediction(),
        "given": torch.zeros(256, 1, 4, dtype=torch.bool),
    }

    def exact(x: Tensor, level: Tensor) -> Tensor:
        alpha, sigma = (
            noise_schedule.alpha(level)[..., None],
            noise_schedule.sigma(level)[..., None],
        )
        spread = alpha.square() * covariance + sigma.square() * torch.eye(4)
        return alpha * torch.linalg.solve(spread, x.mT).mT @ covariance

    optimizer = torch.optim.Adam(network.parameters(), lr=2e-3)
    losses, least = [], []
    for _ in range(600):
        x0 = torch.randn(256, 1, 4, generator=source) @ factor.T
        level = torch.rand(256, 1, generator=source).clamp(min=1e-3)
        epsilon = torch.randn(x0.shape, generator=source)
        loss = diffusion_loss(network, x0, level, epsilon, **settings)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
        least.append(float(diffusion_loss(exact, x0, level, epsilon, **settings)))
    first, last, best = losses[0], sum(losses[-50:]) / 50, sum(least[-50:]) / 50
    print(f"\nloss {first:.3f} -> {last:.4f}; the exact denoiser has {best:.4f}")
    assert last < best + 0.05 * first


def test_bad_settings_are_named() -> None:
    for name in ("width", "depth", "embedding", "level_scale"):
        with pytest.raises(PgdiffError, match=f"`{name}`"):
            ResidualMLPConfig(**{name: -4.0 if name == "level_scale" else -4})
    with pytest.raises(PgdiffError, match="`embedding` must be even"):
        ResidualMLPConfig(embedding=9)
