import json
from itertools import product
from typing import Any

import pytest
import torch
from diffusers import DDPMScheduler
from diffusers.training_utils import compute_snr
from oracles import DOUBLE, generator
from torch import Tensor

from pgdiff.core.registry import from_config, registered, to_config
from pgdiff.core.validation import PgdiffError
from pgdiff.diffusion import (
    CleanWeight,
    CosineSchedule,
    EDMPrediction,
    EDMSchedule,
    EDMWeight,
    EpsilonPrediction,
    FlowPrediction,
    FlowSchedule,
    FusedSnrWeight,
    LinearSchedule,
    MinSnrWeight,
    TabulatedSchedule,
    UniformWeight,
    VPrediction,
    X0Prediction,
    diffusion_loss,
)
from pgdiff.diffusion.loss import LossWeight
from pgdiff.diffusion.schedules import factors

WEIGHTS = [UniformWeight(), CleanWeight(), MinSnrWeight(), EDMWeight(), FusedSnrWeight()]
FITTING = [
    (X0Prediction(), CosineSchedule()),
    (X0Prediction(), EDMSchedule()),
    (EpsilonPrediction(), LinearSchedule()),
    (EpsilonPrediction(), EDMSchedule()),
    (VPrediction(), CosineSchedule()),
    (VPrediction(), LinearSchedule()),
    (FlowPrediction(), FlowSchedule()),
    (EDMPrediction(), CosineSchedule()),
    (EDMPrediction(), FlowSchedule()),
    (EDMPrediction(), EDMSchedule()),
]


def weigh(loss_weight: Any, prediction: Any, noise_schedule: Any, level: Tensor) -> Tensor:
    alpha, sigma = factors(noise_schedule, level)
    return loss_weight.weight(alpha, sigma, prediction.gain(alpha, sigma))


def test_every_registered_weight_is_tested() -> None:
    assert {type(part) for part in WEIGHTS} == set(registered("loss_weight").values())
    assert all(isinstance(part, LossWeight) for part in WEIGHTS)


def test_weights_are_finite_at_every_level() -> None:
    for loss_weight, (prediction, noise_schedule), dtype in product(
        WEIGHTS, FITTING, [torch.float32, DOUBLE]
    ):
        level = torch.cat(
            [torch.tensor([0.0, 1e-12, 1e-6]), torch.linspace(0, 1, 60), torch.ones(1)]
        )
        for order in (level, level.flip(0)):
            weight = weigh(
                loss_weight, prediction, noise_schedule, order.to(dtype)[None].repeat(2, 1)
            )
            assert weight.shape == (2, 64, 1) and weight.dtype == dtype
            assert torch.isfinite(weight).all() and (weight >= 0).all()
            assert torch.equal(weight[0], weight[1])
            assert (weight[:, 10:60] > 0).all()  # no level in the middle is left out


def check_with_the_clean_weight_every_prediction_has_one_loss(
    prediction: Any, noise_schedule: Any
) -> None:
    """It is the mean squared error of x0_hat, for any meaning of the output."""
    x0, epsilon, wrong = torch.randn(3, 4, 6, 2, generator=generator(7), dtype=DOUBLE)
    level = torch.linspace(0.05, 0.95, 24, dtype=DOUBLE).reshape(4, 6)
    alpha, sigma = factors(noise_schedule, level)
    loss = diffusion_loss(
        lambda x, _: wrong,
        x0,
        level,
        epsilon,
        noise_schedule=noise_schedule,
        prediction=prediction,
        given=torch.zeros(x0.shape, dtype=torch.bool),
        loss_weight=CleanWeight(),
    )
    x0_hat = prediction.to_x0(wrong, alpha * x0 + sigma * epsilon, alpha, sigma)
    assert float(loss) == pytest.approx(float((x0_hat - x0).square().mean()), rel=1e-9)


def test_with_the_clean_weight_every_prediction_has_one_loss() -> None:
    for prediction, noise_schedule in FITTING:
        check_with_the_clean_weight_every_prediction_has_one_loss(prediction, noise_schedule)


# -------------------------------------------------------------------------------- min-SNR, EDM


def test_min_snr_is_that_of_diffusers() -> None:
    """`compute_snr` casts to float32: its training scripts divide by SNR, or by SNR + 1 for v."""
    for limit, name in product([5.0, 1.0], ["linear", "squaredcos_cap_v2"]):
        scheduler = DDPMScheduler(beta_schedule=name)
        timestep = torch.randint(0, 1000, (6, 9), generator=generator(0))
        snr = compute_snr(scheduler, timestep)
        clipped = snr.clamp(max=limit)
        noise_schedule = TabulatedSchedule(alphas_cumprod=tuple(scheduler.alphas_cumprod.tolist()))
        level = (timestep.double() + 1) / 1000
        expected = {
            X0Prediction(): clipped,
            EpsilonPrediction(): clipped / snr,
            VPrediction(): clipped / (snr + 1),
        }
        for prediction, theirs in expected.items():
            ours = weigh(MinSnrWeight(limit=limit), prediction, noise_schedule, level)[..., 0]
            error = float((ours / theirs.double() - 1).abs().max())
            print(f"\nmin-SNR, {name}, {prediction}: largest relative error {error:.1e}")
            assert error < 1e-6


@pytest.mark.parametrize("sigma_data", [0.5, 1.0])
def test_edm_weight_and_edm_prediction_are_even(sigma_data: float) -> None:
    loss_weight, prediction = EDMWeight(sigma_data=sigma_data), EDMPrediction(sigma_data=sigma_data)
    for noise_schedule in (EDMSchedule(), CosineSchedule(), FlowSchedule()):
        # From the noise-to-signal ratio at which the weight stops growing to pure noise.
        lowest = -2 * torch.tensor(0.002, dtype=DOUBLE).log()
        level = torch.linspace(float(noise_schedule.level_at(lowest)) + 1e-9, 1, 200, dtype=DOUBLE)
        weight = weigh(loss_weight, prediction, noise_schedule, level[None])
        torch.testing.assert_close(weight, torch.ones_like(weight), rtol=1e-9, atol=0)


def test_edm_weight_is_karras() -> None:
    """Table 1: (sigma^2 + sigma_data^2) / (sigma * sigma_data)^2 on the denoiser's error."""
    sigma = torch.tensor([0.002, 0.1, 0.5, 3.0, 80.0], dtype=DOUBLE)[None, :, None]
    one = torch.ones_like(sigma)
    expected = (sigma**2 + 0.25) / (sigma * 0.5) ** 2
    torch.testing.assert_close(EDMWeight().weight(one, sigma, one), expected, rtol=1e-12, atol=0)
    scaled = EDMWeight().weight(0.3 * one, 0.3 * sigma, one)  # a function of sigma / alpha alone
    torch.testing.assert_close(scaled, expected, rtol=1e-12, atol=0)
    clean = EDMWeight().weight(one, sigma * 0, one)
    torch.testing.assert_close(clean, 250_000 * one, rtol=1e-4, atol=0)


# ------------------------------------------------------------------------------------- fused SNR


def with_snr(snr: list[float]) -> tuple[Tensor, Tensor]:
    """Return alpha and sigma `[1, tokens, 1]` of a variance-preserving schedule at these ratios."""
    ratio = torch.tensor(snr, dtype=DOUBLE)[None, :, None]
    return (ratio / (1 + ratio)).sqrt(), (1 / (1 + ratio)).sqrt()


def test_fused_snr_by_hand() -> None:
    """With limit 5 and decay 0.8, the result equals numbers that are worked out here."""
    alpha, sigma = with_snr([5.0, 1.0, 20.0, 0.0, 2.5])
    # S    = min(SNR, 5) / 5             = 1    0.2    1      0       0.5
    # past = 0.8 past + 0.2 S, before: 0   0.2    0.2   0.36    0.288   (0.3304 after the last)
    # S'   = 1 - (1 - S)(1 - past before): 1, 1 - 0.8 * 0.8, 1, 1 - 1 * 0.64, 1 - 0.5 * 0.712
    fused = torch.tensor([1.0, 0.36, 1.0, 0.36, 0.644], dtype=DOUBLE)[None, :, None]
    one = torch.ones_like(alpha)
    loss_weight = FusedSnrWeight(limit=5.0, decay=0.8)
    torch.testing.assert_close(loss_weight.weight(alpha, sigma, one), 5 * fused, rtol=1e-12, atol=0)
    # v's gain is sigma, sigma^2 = 1 / (1 + SNR).
    for_v = 5 * fused / (1 + torch.tensor([5.0, 1.0, 20.0, 0.0, 2.5], dtype=DOUBLE)[:, None])
    torch.testing.assert_close(loss_weight.weight(alpha, sigma, sigma), for_v, rtol=1e-12, atol=0)


def published_code(snr: list[float], limit: float, decay: float) -> list[float]:
    """Return Diffusion Forcing's weights in code: starts at S_0, and decays the past once more."""
    share = [min(ratio, limit) / limit for ratio in snr]
    past, fused = share[0], [share[0]]
    for one in share[1:]:
        fused.append(1 - (1 - one) * (1 - decay * past))
        past = decay * past + (1 - decay) * one
    return [limit * one for one in fused]


def paper(snr: list[float], limit: float, decay: float) -> list[float]:
    """Return the weights of appendix B.1, token by token."""
    past, fused = 0.0, []
    for ratio in snr:
        one = min(ratio, limit) / limit
        fused.append(1 - (1 - one) * (1 - past))
        past = decay * past + (1 - decay) * one
    return [limit * one for one in fused]


def test_fused_snr_is_the_papers_and_not_the_codes() -> None:
    for limit, decay in [(5.0, 0.9), (3.0, 0.0), (1.0, 0.5), (5.0, 0.99)]:
        snr = (10 * torch.rand(40, generator=generator(1), dtype=DOUBLE) ** 2).tolist()
        alpha, sigma = with_snr(snr)
        got = FusedSnrWeight(limit=limit, decay=decay).weight(alpha, sigma, torch.ones_like(alpha))
        expected = torch.tensor(paper(snr, limit, decay), dtype=DOUBLE)
        error = float((got[0, :, 0] - expected).abs().max())
        other = torch.tensor(published_code(snr, limit, decay), dtype=DOUBLE)
        apart = float((got[0, :, 0] - other).abs().max())
        print(f"\nfused SNR, {limit}, {decay}: error {error:.1e}, from the code {apart:.2f}")
        assert error < 1e-12 and apart > 1e-2


def test_fused_snr_depends_only_on_the_past_and_min_snr_is_its_limit() -> None:
    level = torch.rand(3, 12, generator=generator(2), dtype=DOUBLE).clamp(min=0.4)
    level[:, 7] = 0.9
    other = level.clone()
    other[:, 7] = 0.0
    part = (X0Prediction(), CosineSchedule())
    before, after = (weigh(FusedSnrWeight(), *part, given) for given in (level, other))
    torch.testing.assert_close(after[:, :7], before[:, :7], rtol=1e-12, atol=0)
    assert (after[:, 7:] >= before[:, 7:]).all() and (after[:, 8] > before[:, 8]).all()
    alone = weigh(FusedSnrWeight(), *part, level[:, :1])
    torch.testing.assert_close(alone, weigh(MinSnrWeight(), *part, level[:, :1]))
    assert (weigh(FusedSnrWeight(), *part, level) >= weigh(MinSnrWeight(), *part, level)).all()


# ------------------------------------------------------------------------------------- learning


def second_moments(mean: float, spread: float, tokens: int) -> tuple[Tensor, Tensor]:
    """Return four points with the first and second moments of a Gaussian x0 and epsilon.

    A quadratic loss depends on no others, so its mean over these points is the exact expectation.
    """
    signs = torch.tensor([[1, 1], [1, -1], [-1, 1], [-1, -1]], dtype=DOUBLE)
    points = signs[:, :, None].expand(4, 2, tokens)
    return mean + spread * points[:, 0, :, None], points[:, 1, :, None]


def fit(
    loss_weight: Any, prediction: Any, noise_schedule: Any, level: Tensor, *, shared: bool
) -> Tensor:
    """Return weights and biases `[2, tokens or 1]` of the affine network of least loss."""
    mean, spread, tokens = 0.7, 0.6, len(level)
    x0, epsilon = second_moments(mean, spread, tokens)
    size = 1 if shared else tokens

    def loss(parameters: Tensor) -> Tensor:
        slope, bias = parameters.reshape(2, size, 1)
        return diffusion_loss(
            lambda x, _: slope * x + bias,
            x0,
            level.expand(4, -1),
            epsilon,
            noise_schedule=noise_schedule,
            prediction=prediction,
            given=torch.zeros(4, tokens, 1, dtype=torch.bool),
            loss_weight=loss_weight,
        )

    # The loss is quadratic, so Newton's first step from 0 is its minimum.
    zero = torch.zeros(2 * size, dtype=DOUBLE)
    slope = torch.func.grad(loss)(zero)
    curvature = torch.func.jacrev(torch.func.grad(loss))(zero)
    scale = curvature.diag().rsqrt()
    weights = scale * torch.linalg.solve(scale[:, None] * curvature * scale, -scale * slope)
    return weights.reshape(2, size)


def test_the_best_affine_network_is_the_posterior_mean() -> None:
    """It is that of a Gaussian in closed form, for every prediction and every weight."""
    for loss_weight, (prediction, noise_schedule) in product(WEIGHTS, FITTING):
        mean, spread = 0.7, 0.6
        level = torch.linspace(0.05, 0.95, 7, dtype=DOUBLE)
        slope, bias = fit(loss_weight, prediction, noise_schedule, level, shared=False)
        alpha, sigma = factors(noise_schedule, level[None])
        x = torch.tensor([-1.0, 0.0, 2.0], dtype=DOUBLE)[:, None, None].expand(3, 7, 1)
        output = slope[:, None] * prediction.scale_input(x, alpha, sigma) + bias[:, None]
        got = prediction.to_x0(output, x, alpha, sigma)
        gain = alpha * spread**2 / (alpha**2 * spread**2 + sigma**2)
        expected = mean + gain * (x - alpha * mean)
        error = float((got - expected).abs().max())
        print(f"\n{loss_weight}, {prediction}, {noise_schedule}: error of E[x0 | x] {error:.1e}")
        assert error < 1e-8


def test_weights_decide_where_one_network_must_serve_all_levels() -> None:
    level = torch.linspace(0.05, 0.95, 7, dtype=DOUBLE)
    part = (X0Prediction(), CosineSchedule())
    fits = [fit(loss_weight, *part, level, shared=True) for loss_weight in WEIGHTS]
    # Of an output that is x0_hat itself, uniform and clean are one.
    torch.testing.assert_close(fits[0], fits[1])
    for i, one in enumerate(fits[1:], 1):
        assert all((one - other).abs().max() > 1e-2 for other in fits[1:i])
    # Weighted least squares with the weight of the formula agrees.
    alpha, sigma = factors(CosineSchedule(), level[None])
    snr = ((alpha / sigma) ** 2).clamp(max=5.0).sqrt()
    x0, epsilon = second_moments(0.7, 0.6, 7)
    x = alpha * x0 + sigma * epsilon
    design = torch.stack([(snr * x).reshape(-1), snr.expand_as(x).reshape(-1)], dim=1)
    expected = torch.linalg.lstsq(design, (snr * x0).reshape(-1, 1)).solution
    torch.testing.assert_close(fits[2], expected, rtol=1e-9, atol=1e-9)


# ------------------------------------------------------------------------------------- settings


def test_bad_settings_are_named() -> None:
    for limit in (0.0, -5.0, float("inf")):
        for kind in (MinSnrWeight, FusedSnrWeight):
            with pytest.raises(PgdiffError, match="`limit`"):
                kind(limit=limit)
    for decay in (-0.1, 1.0):
        with pytest.raises(PgdiffError, match="`decay`"):
            FusedSnrWeight(decay=decay)
    with pytest.raises(PgdiffError, match="`sigma_data`"):
        EDMWeight(sigma_data=0.0)
    with pytest.raises(PgdiffError, match="`sigma_min`"):
        EDMWeight(sigma_min=0.0)


def test_config_round_trip() -> None:
    for loss_weight in WEIGHTS:
        config = json.loads(json.dumps(to_config(loss_weight)))
        assert from_config("loss_weight", config) == loss_weight
