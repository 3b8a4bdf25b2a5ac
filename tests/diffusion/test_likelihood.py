"""Log-likelihoods against closed forms: Gaussian, conditional Gaussian, mixture."""

import itertools
import math
from typing import Any

import pytest
import torch
from oracles import DOUBLE, Gaussian, ar1, generator
from torch import Tensor
from torch.distributions import MultivariateNormal

from pgdiff.core.validation import PgdiffError
from pgdiff.diffusion import Inpainting
from pgdiff.diffusion.likelihood import LARGEST_NOISE, LogLikelihood, log_likelihood
from pgdiff.diffusion.schedules import (
    CosineSchedule,
    EDMSchedule,
    FlowSchedule,
    LinearSchedule,
    NoiseSchedule,
    SigmoidSchedule,
    TabulatedSchedule,
)

# Type checks at every call would take most of the time of these thousands of calls.
fast = pytest.mark.usefixtures("unchecked")
TOKENS = 8
THOUSAND = torch.linspace(0, 1, 1001, dtype=DOUBLE)[1:]
SCHEDULES: dict[str, NoiseSchedule] = {
    "cosine": CosineSchedule(),
    "linear": LinearSchedule(),
    "sigmoid": SigmoidSchedule(),
    "flow": FlowSchedule(),
    "edm": EDMSchedule(),
    "tabulated": TabulatedSchedule(
        alphas_cumprod=tuple(LinearSchedule().alpha(THOUSAND).square().tolist())
    ),
}


def gaussian(noise_schedule: NoiseSchedule, features: int, *, mean: float = 0.0) -> Gaussian:
    between = torch.tensor([[1.0, 0.3], [0.3, 0.5]], dtype=DOUBLE)[:features, :features]
    slope = mean * torch.linspace(-1.0, 1.5, features * TOKENS, dtype=DOUBLE)
    return Gaussian(
        slope.reshape(TOKENS, features), torch.kron(ar1(TOKENS), between), noise_schedule
    )


def drawn(data: Gaussian, count: int) -> Tensor:
    noise = torch.randn(count, data.size, generator=generator(0), dtype=DOUBLE)
    x = data.mean.reshape(-1) + noise @ torch.linalg.cholesky(data.covariance).T
    return x.reshape(count, *data.mean.shape)


def density(data: Gaussian, x: Tensor) -> Tensor:
    return MultivariateNormal(data.mean.reshape(-1), data.covariance).log_prob(x.flatten(1))


def density_of_the_flow(data: Gaussian, x: Tensor, *, low: float, high: float) -> Tensor:
    """Return the density of the image of N(0, high^2) under the exact probability flow.

    Along the eigenvectors of the covariance the flow multiplies the distance from the mean by
    `sqrt((variance + low^2) / (variance + high^2))`.
    """
    variance, vectors = torch.linalg.eigh(data.covariance)
    factor = ((variance + low**2) / (variance + high**2)).sqrt()
    off = (x.flatten(1) - data.mean.reshape(-1)) @ vectors
    start = off / factor + data.mean.reshape(-1) @ vectors
    normal = torch.distributions.Normal(0.0, high)
    return (normal.log_prob(start) - factor.log()).sum(dim=1)


def largest_noise(noise_schedule: NoiseSchedule) -> float:
    log_snr = float(noise_schedule.log_snr(torch.ones((), dtype=DOUBLE)))
    return min(LARGEST_NOISE, math.exp(min(-log_snr / 2, 100.0)))


@fast
@pytest.mark.parametrize("features", [1, 2])
@pytest.mark.parametrize("name", SCHEDULES)
def test_it_is_the_gaussians(name: str, features: int) -> None:
    data = gaussian(SCHEDULES[name], features)
    x = drawn(data, 3)
    got = log_likelihood(data.denoise, x, noise_schedule=data.noise_schedule)
    error = float((got.value - density(data, x)).abs().max()) / data.size
    print(f"\n{name}, {features} features: largest error {error:.1e} nats per dimension")
    assert error < 1e-3
    assert got.value.shape == (3,) and (got.standard_error == 0).all()


@fast
def test_off_the_centre_it_is_that_of_the_samples() -> None:
    """Sampling starts from noise of mean 0; its flow is known too, and the agreement is closer."""
    for name in SCHEDULES:
        data = gaussian(SCHEDULES[name], 1, mean=1.0)
        x, high = drawn(data, 3), largest_noise(SCHEDULES[name])
        got = log_likelihood(data.denoise, x, noise_schedule=data.noise_schedule).value
        law = density_of_the_flow(data, x, low=1e-3, high=high)
        errors = [float((got - true).abs().max()) / data.size for true in (law, density(data, x))]
        print(f"\n{name}: {errors[0]:.1e} nats per dimension, and {errors[1]:.1e} from the data's")
        assert errors[0] < 1e-3
        if high == LARGEST_NOISE:
            assert errors[1] < 1e-3


@fast
def test_of_fourth_order_in_the_steps() -> None:
    data = gaussian(SCHEDULES["cosine"], 1)
    x = drawn(data, 2)
    truth = density_of_the_flow(data, x, low=1e-3, high=LARGEST_NOISE)
    errors = []
    for steps in (40, 80, 160):
        value = log_likelihood(
            data.denoise, x, noise_schedule=data.noise_schedule, steps=steps
        ).value
        errors.append(float((value - truth).abs().max()))
    orders = [math.log2(a / b) for a, b in itertools.pairwise(errors)]
    print(f"\nerrors at 40, 80, 160 steps: {errors}; orders {orders}")
    assert all(abs(order - 4) < 0.3 for order in orders)


# -------------------------------------------------------------------------------------- in-painting


def conditional(data: Gaussian, mask: Tensor, values: Tensor, x: Tensor) -> Tensor:
    """Return the log-density of the free values given the rest: joint minus that of the rest."""
    full = torch.where(mask, values, x).reshape(-1)
    given = mask.reshape(-1)
    mean, covariance = data.mean.reshape(-1), data.covariance
    joint = MultivariateNormal(mean, covariance).log_prob(full)
    inner = MultivariateNormal(mean[given], covariance[given][:, given])
    return joint - inner.log_prob(full[given])


@fast
@pytest.mark.parametrize("name", ["cosine", "flow"])
def test_with_known_tokens_it_is_the_conditional_density(name: str) -> None:
    data = gaussian(SCHEDULES[name], 2, mean=0.3)
    mask = torch.zeros(1, TOKENS, 2, dtype=torch.bool)
    mask[:, [0, 5]] = True
    values = torch.full((1, TOKENS, 2), 0.7, dtype=DOUBLE)
    given = mask.reshape(-1)
    gain = torch.linalg.solve(data.covariance[given][:, given], data.covariance[given])
    x = drawn(data, 3).flatten(1)
    x = x + (values.reshape(-1) - x)[:, given] @ gain  # drawn from the conditional law
    x = torch.where(mask, 99.0, x.reshape(3, TOKENS, 2))  # `values` replace the known values
    got = log_likelihood(
        data.denoise, x, noise_schedule=data.noise_schedule, inpainting=Inpainting(mask, values)
    ).value
    truth = torch.stack([conditional(data, mask[0], values[0], row) for row in x])
    error = float((got - truth).abs().max()) / int((~mask).sum())
    print(f"\n{name}, two tokens known: largest error {error:.1e} nats per dimension")
    assert error < 1e-3


@fast
def test_each_row_and_each_feature_may_be_known_by_itself() -> None:
    """Row and feature masks are exact with a denoiser that is conditioned on the known values."""
    noise_schedule = CosineSchedule()
    data = gaussian(noise_schedule, 2, mean=0.3)
    mask = torch.zeros(2, TOKENS, 2, dtype=torch.bool)
    mask[0, 0], mask[0, -1, 0], mask[1, 2:4, 1] = True, True, True
    x = drawn(data, 2)

    def denoise(x: Tensor, level: Tensor) -> Tensor:
        rows = []
        for row, row_mask in enumerate(mask):
            at = level[min(row, len(level) - 1), :, None].expand(-1, 2)
            at = torch.where(row_mask, 0.0, at).reshape(-1)
            spread = Gaussian(data.mean.reshape(-1, 1), data.covariance, noise_schedule)
            rows.append(spread.denoise(x[row].reshape(1, -1, 1), at[None]).reshape(TOKENS, 2))
        return torch.stack(rows)

    got = log_likelihood(
        denoise, x, noise_schedule=noise_schedule, inpainting=Inpainting(mask, x), steps=80
    ).value
    for row in range(2):
        truth = float(conditional(data, mask[row], x[row], x[row]))
        error = abs(float(got[row]) - truth) / int((~mask[row]).sum())
        print(f"\nrow {row}: {float(got[row]):.4f}, truth {truth:.4f}, {error:.1e} per dimension")
        assert error < 1e-3


# --------------------------------------------------------------------------------------- hutchinson


@fast
def test_hutchinson_is_within_its_own_error() -> None:
    data = gaussian(SCHEDULES["flow"], 1)
    x, options = drawn(data, 40), {"noise_schedule": data.noise_schedule, "steps": 20}
    exact = log_likelihood(data.denoise, x, **options).value
    got = log_likelihood(
        data.denoise, x, method="hutchinson", probes=64, generator=generator(1), **options
    )
    z = (got.value - exact) / got.standard_error
    print(f"\nlargest z {float(z.abs().max()):.2f}, mean of z^2 {float(z.square().mean()):.2f}")
    assert (got.standard_error > 0.01).all()
    assert z.abs().max() < 4
    assert 0.5 < z.square().mean() < 1.6  # 40 points: 1.03 with a deviation of 0.24


@fast
def test_the_error_falls_as_the_root_of_the_probes() -> None:
    data = gaussian(SCHEDULES["flow"], 1)
    x, options = drawn(data, 40), {"noise_schedule": data.noise_schedule, "steps": 20}
    exact = log_likelihood(data.denoise, x, **options).value
    reported, actual = [], []
    for probes in (8, 32, 128):
        got = log_likelihood(
            data.denoise, x, method="hutchinson", probes=probes, generator=generator(2), **options
        )
        reported.append(float(got.standard_error.square().mean().sqrt()))
        actual.append(float((got.value - exact).square().mean().sqrt()))
    print(f"\n8, 32, 128 probes: reported {reported}, actual {actual}")
    assert reported[0] / reported[1] == pytest.approx(2, rel=0.15)
    assert reported[1] / reported[2] == pytest.approx(2, rel=0.15)
    assert actual[0] / actual[2] == pytest.approx(4, rel=0.5)


def test_same_generator_same_result() -> None:
    data = gaussian(SCHEDULES["cosine"], 1)
    x = drawn(data, 3)

    def run(seed: int) -> LogLikelihood:
        options: Any = {"noise_schedule": data.noise_schedule, "method": "hutchinson", "steps": 10}
        return log_likelihood(data.denoise, x, generator=generator(seed), probes=4, **options)

    assert torch.equal(run(0).value, run(0).value)
    assert torch.equal(run(0).standard_error, run(0).standard_error)
    assert not torch.equal(run(0).value, run(1).value)


# ------------------------------------------------------------------------------------------ mixture


@fast
@pytest.mark.parametrize("name", ["cosine", "linear", "edm"])
def test_two_modes(name: str) -> None:
    noise_schedule = SCHEDULES[name]
    weight = torch.tensor([0.3, 0.7], dtype=DOUBLE)
    mean = torch.tensor([-1.0, 3 / 7], dtype=DOUBLE)  # together of mean 0
    deviation = torch.tensor([0.2, 0.3], dtype=DOUBLE)

    def parts(x: Tensor, alpha: Tensor | float, sigma: Tensor | float) -> tuple[Tensor, Tensor]:
        variance = (alpha * deviation).square() + torch.as_tensor(sigma).square()
        off = x - alpha * mean
        log_part = weight.log() - 0.5 * (off.square() / variance + (2 * math.pi * variance).log())
        clean = mean + alpha * deviation.square() / variance * off
        return log_part, clean

    def denoise(x: Tensor, level: Tensor) -> Tensor:
        alpha, sigma = (
            noise_schedule.alpha(level)[..., None],
            noise_schedule.sigma(level)[..., None],
        )
        log_part, clean = parts(x, alpha, sigma)
        return (torch.softmax(log_part, dim=-1) * clean).sum(dim=-1, keepdim=True)

    x = torch.linspace(-1.8, 1.6, 35, dtype=DOUBLE)[:, None, None]
    got = log_likelihood(denoise, x, noise_schedule=noise_schedule, steps=150).value
    truth = torch.logsumexp(parts(x, 1.0, 0.0)[0], dim=-1).reshape(-1)
    error = float((got - truth).abs().max())
    print(f"\n{name}: largest error {error:.1e} nats, of log-densities down to {truth.min():.1f}")
    assert error < 1e-3


# -------------------------------------------------------------------------------- at the interface


def test_a_network_in_single_precision_without_gradients() -> None:
    torch.manual_seed(0)
    network = torch.nn.Linear(2, 2)
    x = torch.randn(3, 4, 2, generator=generator(0))

    def denoise(x: Tensor, level: Tensor) -> Tensor:
        assert x.dtype == level.dtype == torch.float32
        return network(torch.tanh(x)) * (1 - level[..., None])

    options: Any = {"noise_schedule": CosineSchedule(), "steps": 10}
    expected = log_likelihood(denoise, x, **options).value
    with torch.no_grad():
        quiet = log_likelihood(denoise, x, **options).value
    with torch.inference_mode():
        inferred = log_likelihood(denoise, x.clone(), **options).value
    assert expected.dtype == DOUBLE and not expected.requires_grad
    assert torch.equal(quiet, expected) and torch.equal(inferred, expected)
    assert all(parameter.grad is None for parameter in network.parameters())


def half(x: Tensor, level: Tensor) -> Tensor:
    return x / 2


BAD: list[tuple[dict[str, Any], str]] = [
    ({"method": "guess"}, "`method` must be one of"),
    ({"method": "hutchinson"}, "`generator` must be given"),
    ({"probes": 1}, "`probes` must be an integer of at least 2"),
    ({"steps": 0}, "`steps` must be"),
    ({"noise_min": 0.0}, "`noise_min` must be"),
    ({"noise_max": 1e-4}, "`noise_max` must be a number in"),
    (
        {"noise_schedule": EDMSchedule(), "noise_max": 81.0},
        "`noise_max` must be at most .* level 1.* 80",
    ),
    ({"x": torch.full((1, 2, 3), math.nan)}, "`x` must be finite"),
    ({"x": torch.zeros(1, 2, 129)}, "'hutchinson' for more than 256 features .* 'exact' for 258"),
    ({"denoise": lambda x, level: x.detach()}, "`denoise` must be differentiable"),
    ({"denoise": lambda x, level: x / 0}, "The log-likelihood must be finite"),
    (
        {"inpainting": Inpainting(torch.ones(1, 2, 2, dtype=torch.bool), torch.zeros(1, 2, 2))},
        r"`inpainting` must have the shape of `x`, \[1, 2, 3\].* Got \[1, 2, 2\]",
    ),
    (
        {"inpainting": Inpainting(torch.ones(1, 2, 3, dtype=torch.bool), torch.zeros(1, 2, 3))},
        "`inpainting` must leave at least one",
    ),
]


@pytest.mark.usefixtures("unchecked")
def test_bad_input_is_named() -> None:
    for wrong, message in BAD:
        settings: dict[str, Any] = {
            "denoise": half,
            "x": torch.zeros(1, 2, 3),
            "noise_schedule": CosineSchedule(),
            "steps": 2,
        } | wrong
        with pytest.raises(PgdiffError, match=message):
            log_likelihood(settings.pop("denoise"), settings.pop("x"), **settings)
