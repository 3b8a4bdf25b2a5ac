from itertools import product
from typing import Any

import pytest
import torch
from diffusers import EDMEulerScheduler
from hypothesis import given, settings
from hypothesis import strategies as st
from oracles import DOUBLE, generator
from torch import Tensor

from pgdiff.core.registry import from_config, registered, to_config
from pgdiff.core.validation import PgdiffError
from pgdiff.diffusion import (
    CosineSchedule,
    EDMPrediction,
    EDMSchedule,
    EpsilonPrediction,
    FlowPrediction,
    FlowSchedule,
    LinearSchedule,
    SigmoidSchedule,
    TabulatedSchedule,
    VPrediction,
    X0Prediction,
)
from pgdiff.diffusion.predictions import clean_estimate

SCHEDULES = {
    "cosine": CosineSchedule(),
    "linear": LinearSchedule(),
    "sigmoid": SigmoidSchedule(),
    "flow": FlowSchedule(),
    "edm": EDMSchedule(),
    "table": TabulatedSchedule(alphas_cumprod=(0.99, 0.5, 0.1, 1e-4)),
    "table to zero": TabulatedSchedule(alphas_cumprod=(0.9, 0.5, 0.0)),
}
FITS = {
    X0Prediction(): set(SCHEDULES),
    EpsilonPrediction(): {"linear", "edm", "table"},
    VPrediction(): {"cosine", "linear", "sigmoid", "table", "table to zero"},
    FlowPrediction(): {"flow"},
    EDMPrediction(): set(SCHEDULES),
    EDMPrediction(sigma_data=1.3): set(SCHEDULES),
}
PAIRS = [(prediction, name) for prediction in FITS for name in SCHEDULES]
FITTING = [(prediction, name) for prediction, name in PAIRS if name in FITS[prediction]]


def at(name: str, level: Tensor) -> tuple[Tensor, Tensor]:
    return SCHEDULES[name].alpha(level), SCHEDULES[name].sigma(level)


def test_every_registered_part_is_tested() -> None:
    assert {type(prediction) for prediction in FITS} == set(registered("prediction").values())
    assert {type(part) for part in SCHEDULES.values()} == set(registered("noise_schedule").values())


def test_a_schedule_fits_or_is_refused_by_name() -> None:
    for prediction, name in PAIRS:
        noise_schedule = SCHEDULES[name]
        if name in FITS[prediction]:
            prediction.check(noise_schedule)
            continue
        kind = to_config(prediction)["name"]
        with pytest.raises(PgdiffError, match=f"`prediction` must not be '{kind}' with") as error:
            prediction.check(noise_schedule)
        assert repr(noise_schedule) in str(error.value)


# ------------------------------------------------------------------------------------ algebra


@settings(max_examples=25, deadline=None, derandomize=True)
@given(seed=st.integers(0, 2**31), top=st.floats(0.0, 1.0))
def test_the_exact_output_gives_back_the_clean_value(seed: int, top: float) -> None:
    for prediction, name in FITTING:
        source = generator(seed)
        x0, epsilon = torch.randn(2, 3, 5, 2, generator=source, dtype=DOUBLE)
        alpha, sigma = at(name, top * torch.rand(3, 5, 1, generator=source, dtype=DOUBLE))
        x = alpha * x0 + sigma * epsilon
        back = prediction.to_x0(prediction.target(x0, epsilon, alpha, sigma), x, alpha, sigma)
        # Rounding errors of x, which is as large as sigma, are multiplied by 1 / alpha at most.
        size = float((1 + sigma).max() / alpha.min())
        amplified = size if isinstance(prediction, EpsilonPrediction) else float((1 + sigma).max())
        torch.testing.assert_close(back, x0, rtol=1e-12, atol=1e-14 * amplified)


def test_at_both_ends_all_is_finite_and_exact() -> None:
    for (prediction, name), dtype in product(FITTING, [torch.float32, DOUBLE]):
        x0 = torch.full((1, 1, 1), 0.75, dtype=dtype)
        epsilon = torch.full((1, 1, 1), -0.5, dtype=dtype)
        for level in (0.0, 1.0):
            alpha, sigma = at(name, torch.full((1, 1, 1), level, dtype=dtype))
            x = alpha * x0 + sigma * epsilon
            target = prediction.target(x0, epsilon, alpha, sigma)
            scaled, gain = prediction.scale_input(x, alpha, sigma), prediction.gain(alpha, sigma)
            assert all(torch.isfinite(part).all() for part in (target, scaled, gain))
            assert target.dtype == scaled.dtype == gain.dtype == dtype
            back = prediction.to_x0(target, x, alpha, sigma)
            torch.testing.assert_close(
                back, x0, rtol=1e-4 if dtype == torch.float32 else 1e-12, atol=0
            )
            if level == 0 and not isinstance(prediction, X0Prediction):
                assert gain == 0  # for any network output, a clean token is its own estimate
                torch.testing.assert_close(prediction.to_x0(target + 9, x, alpha, sigma), x0)


def test_gain_is_how_far_the_estimate_moves() -> None:
    for prediction, name in FITTING:
        source = generator(2)
        x, output = torch.randn(2, 3, 7, 2, generator=source, dtype=DOUBLE)
        alpha, sigma = at(name, torch.linspace(0, 1, 7, dtype=DOUBLE)[None, :, None])
        up, down = (prediction.to_x0(output + h, x, alpha, sigma) for h in (0.5, -0.5))
        gain = prediction.gain(alpha, sigma)
        assert gain.shape == alpha.shape
        # The estimate is affine in the output, so a difference of any size is the derivative.
        torch.testing.assert_close(
            (up - down).abs(), gain.expand_as(x), rtol=1e-10, atol=1e-12 / float(alpha.max())
        )


def check_one_denoiser_in_every_language(prediction: Any, name: str) -> None:
    """Since the target is affine, a network that returns it for an estimate gives this estimate."""
    x, x0_hat = torch.randn(2, 3, 6, 2, generator=generator(1), dtype=DOUBLE)
    level = torch.linspace(0.05, 0.95, 6, dtype=DOUBLE)[None]
    alpha, sigma = at(name, level[..., None])
    epsilon_hat = (x - alpha * x0_hat) / sigma
    inputs: list[Tensor] = []

    def network(scaled: Tensor, level: Tensor) -> Tensor:
        inputs.append(scaled)
        return prediction.target(x0_hat, epsilon_hat, alpha, sigma)

    got = clean_estimate(network, x, level, noise_schedule=SCHEDULES[name], prediction=prediction)
    torch.testing.assert_close(got, x0_hat, rtol=1e-9, atol=1e-9)
    assert torch.equal(inputs[0], prediction.scale_input(x, alpha, sigma))
    if not isinstance(prediction, EDMPrediction):
        assert torch.equal(inputs[0], x)


def test_one_denoiser_in_every_language() -> None:
    for prediction, name in FITTING:
        check_one_denoiser_in_every_language(prediction, name)


def test_targets_are_the_papers() -> None:
    x0, epsilon = torch.randn(2, 2, 5, 3, generator=generator(4), dtype=DOUBLE)
    level = torch.linspace(0.1, 0.9, 5, dtype=DOUBLE)[None, :, None]
    alpha, sigma = at("cosine", level)
    ends = (x0, epsilon, alpha, sigma)
    assert torch.equal(X0Prediction().target(*ends), x0)
    assert torch.equal(EpsilonPrediction().target(*ends), epsilon)
    # v is dx/d(angle) and u is dx/d(level), by central differences.
    angle, step = torch.atan2(sigma, alpha), 1e-6
    turned = [torch.cos(a) * x0 + torch.sin(a) * epsilon for a in (angle - step, angle + step)]
    v = (turned[1] - turned[0]) / (2 * step)
    torch.testing.assert_close(VPrediction().target(*ends), v, rtol=0, atol=1e-8)
    moved = [(1 - k) * x0 + k * epsilon for k in (level - step, level + step)]
    u = (moved[1] - moved[0]) / (2 * step)
    flow = FlowPrediction().target(x0, epsilon, *at("flow", level))
    torch.testing.assert_close(flow, u, rtol=0, atol=1e-8)


# ---------------------------------------------------------------------------------------- EDM


def test_edm_is_that_of_diffusers() -> None:
    """Its `precondition_inputs` and `precondition_outputs` keep float64."""
    for sigma_data in [0.5, 1.0, 1.3]:
        scheduler = EDMEulerScheduler(sigma_data=sigma_data)
        prediction = EDMPrediction(sigma_data=sigma_data)
        x, output = torch.randn(2, 4, 50, 3, generator=generator(0), dtype=DOUBLE)
        sigma = torch.logspace(-4, 2, 50, dtype=DOUBLE)[None, :, None]
        alpha = torch.ones_like(sigma)
        pairs = [
            (prediction.scale_input(x, alpha, sigma), scheduler.precondition_inputs(x, sigma)),
            (
                prediction.to_x0(output, x, alpha, sigma),
                scheduler.precondition_outputs(x, output, sigma),
            ),
        ]
        error = max(float((got - expected).abs().max()) for got, expected in pairs)
        print(f"\nEDM with sigma_data {sigma_data}: error against diffusers {error:.1e}")
        assert error < 1e-12


def test_edm_at_any_alpha_is_karras_of_the_unscaled_sample() -> None:
    for name in SCHEDULES:
        prediction = EDMPrediction(sigma_data=0.7)
        x, output, x0, epsilon = torch.randn(4, 3, 9, 2, generator=generator(5), dtype=DOUBLE)
        alpha, sigma = at(name, torch.linspace(0.01, 0.99, 9, dtype=DOUBLE)[None, :, None])
        one, ratio = torch.ones_like(alpha), sigma / alpha
        for got, expected in [
            (
                prediction.scale_input(x, alpha, sigma),
                prediction.scale_input(x / alpha, one, ratio),
            ),
            (
                prediction.to_x0(output, x, alpha, sigma),
                prediction.to_x0(output, x / alpha, one, ratio),
            ),
            (
                prediction.target(x0, epsilon, alpha, sigma),
                prediction.target(x0, epsilon, one, ratio),
            ),
            (prediction.gain(alpha, sigma), prediction.gain(one, ratio)),
        ]:
            torch.testing.assert_close(got, expected, rtol=1e-10, atol=1e-10)


def test_edm_inputs_and_targets_have_variance_one() -> None:
    """The target is also uncorrelated with the input: the remainder is not linear in it."""
    for name in SCHEDULES:
        spread = 0.6
        prediction = EDMPrediction(sigma_data=spread)
        alpha, sigma = at(name, torch.linspace(0, 1, 101, dtype=DOUBLE)[None, :, None])
        # All three are linear in x0 / spread and epsilon: uncorrelated, of variance one.
        unit = torch.eye(2, dtype=DOUBLE)[:, :, None, None].expand(2, 2, 101, 1)
        x0, epsilon = spread * unit[0], unit[1]  # batch rows: factor of x0, factor of epsilon
        seen = prediction.scale_input(alpha * x0 + sigma * epsilon, alpha, sigma)
        target = prediction.target(x0, epsilon, alpha, sigma)
        one = torch.ones(101, 1, dtype=DOUBLE)
        torch.testing.assert_close(seen.square().sum(dim=0), one, rtol=1e-12, atol=0)
        torch.testing.assert_close(target.square().sum(dim=0), one, rtol=1e-12, atol=0)
        torch.testing.assert_close((seen * target).sum(dim=0), 0 * one, rtol=0, atol=1e-12)


def test_edm_of_unit_data_under_preserved_variance_is_minus_v() -> None:
    x0, epsilon = torch.randn(2, 2, 5, 3, generator=generator(6), dtype=DOUBLE)
    alpha, sigma = at("sigmoid", torch.linspace(0, 1, 5, dtype=DOUBLE)[None, :, None])
    v = VPrediction().target(x0, epsilon, alpha, sigma)
    edm = EDMPrediction(sigma_data=1.0)
    torch.testing.assert_close(edm.target(x0, epsilon, alpha, sigma), -v, rtol=1e-12, atol=1e-14)
    torch.testing.assert_close(edm.gain(alpha, sigma), sigma, rtol=1e-12, atol=0)


def test_bad_settings_are_named() -> None:
    for sigma_data in (0.0, -1.0, float("nan")):
        with pytest.raises(PgdiffError, match="`sigma_data`"):
            EDMPrediction(sigma_data=sigma_data)


def test_config_round_trip() -> None:
    for prediction in FITS:
        assert from_config("prediction", to_config(prediction)) == prediction


def test_small_fields_have_a_deviation_of_their_own() -> None:
    """Each feature is preconditioned as if alone; fields of equal size change nothing."""
    prediction = EDMPrediction(sigma_data=0.5)
    assert prediction.of_features(torch.ones(2)) is prediction
    scaled = prediction.of_features(torch.tensor([1.0, 0.1]))
    x0, epsilon, x, output = torch.randn(4, 3, 5, 2, generator=generator(6), dtype=DOUBLE)
    alpha, sigma = at("cosine", torch.linspace(0, 1, 5, dtype=DOUBLE)[None, :, None])
    for feature, data in enumerate((0.5, 0.05)):
        alone, where = EDMPrediction(sigma_data=data), slice(feature, feature + 1)
        for name, parts in (
            ("target", (x0, epsilon)),
            ("to_x0", (output, x)),
            ("scale_input", (x,)),
        ):
            found = getattr(scaled, name)(*parts, alpha, sigma)[..., where]
            expected = getattr(alone, name)(*(part[..., where] for part in parts), alpha, sigma)
            torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-7)
        gain = scaled.gain(alpha, sigma)[..., where]
        torch.testing.assert_close(gain, alone.gain(alpha, sigma), rtol=1e-6, atol=1e-9)
    for prediction in (X0Prediction(), VPrediction()):  # whose formulas have no deviation
        assert prediction.of_features(torch.tensor([1.0, 0.1])) is prediction
