from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from oracles import DOUBLE, SCHEDULES, generator
from torch import Tensor

from pgdiff.diffusion import EpsilonPrediction, VPrediction, X0Prediction, diffusion_loss
from pgdiff.diffusion.loss import sequence_levels

PREDICTIONS = [X0Prediction(), EpsilonPrediction(), VPrediction()]
each = pytest.mark.parametrize("prediction", PREDICTIONS, ids=repr)


def batch(seed: int = 0) -> dict[str, Any]:
    source = generator(seed)
    x0, epsilon = torch.randn(2, 4, 6, 3, generator=source, dtype=DOUBLE)
    level = torch.rand(4, 6, generator=source, dtype=DOUBLE)
    known = torch.rand(4, 6, 3, generator=source) < 0.4
    known[:, 0] = True
    return {"x0": x0, "level": level, "epsilon": epsilon, "known": known}


@each
@pytest.mark.parametrize("name", ["cosine", "linear"])
def test_the_network_sees_known_features_clean_and_the_rest_noisy(
    prediction: Any, name: str
) -> None:
    given, schedule, seen = batch(), SCHEDULES[name], []

    def spy(x: Tensor, level: Tensor) -> Tensor:
        seen.append((x, level))
        return torch.zeros_like(x)

    diffusion_loss(spy, **given, schedule=schedule, prediction=prediction)
    ((x, level),) = seen
    known, whole = given["known"], given["known"].all(dim=-1)
    assert torch.equal(x[known], given["x0"][known])
    assert (level[whole] == 0).all() and torch.equal(level[~whole], given["level"][~whole])
    alpha, sigma = schedule.alpha(given["level"]), schedule.sigma(given["level"])
    noisy = alpha[..., None] * given["x0"] + sigma[..., None] * given["epsilon"]
    torch.testing.assert_close(x[~known], noisy[~known], rtol=1e-14, atol=0)


@each
def test_it_is_the_mean_over_what_is_neither_known_nor_padding(prediction: Any) -> None:
    given, schedule = batch(), SCHEDULES["linear"]
    valid = torch.ones(4, 6, dtype=torch.bool)
    valid[1, 3:] = valid[2, 5:] = False
    wrong = torch.randn(4, 6, 3, generator=generator(9), dtype=DOUBLE)

    def loss(extra: Tensor) -> float:
        return float(
            diffusion_loss(
                lambda x, level: wrong + extra,
                **given,
                schedule=schedule,
                prediction=prediction,
                valid=valid,
            )
        )

    counted = ~given["known"] & valid[..., None]
    alpha = schedule.alpha(given["level"])[..., None]
    sigma = schedule.sigma(given["level"])[..., None]
    targets = {
        "X0Prediction": given["x0"],
        "EpsilonPrediction": given["epsilon"],
        "VPrediction": alpha * given["epsilon"] - sigma * given["x0"],
    }
    error = (wrong - targets[type(prediction).__name__])[counted]
    assert loss(torch.zeros(())) == pytest.approx(float(error.square().mean()), rel=1e-12)
    assert loss(100.0 * (~counted)) == loss(torch.zeros(()))  # errors elsewhere cost nothing
    assert loss(100.0 * counted) > 1000


@each
def test_the_exact_target_costs_nothing(prediction: Any) -> None:
    given, schedule = batch(), SCHEDULES["cosine"]

    def exact(x: Tensor, level: Tensor) -> Tensor:
        alpha, sigma = schedule.alpha(level)[..., None], schedule.sigma(level)[..., None]
        return prediction.target(given["x0"], given["epsilon"], alpha, sigma)

    assert diffusion_loss(exact, **given, schedule=schedule, prediction=prediction) == 0


def test_nothing_to_learn_costs_nothing() -> None:
    given = batch() | {"known": torch.ones(4, 6, 3, dtype=torch.bool)}
    schedule, prediction = SCHEDULES["cosine"], X0Prediction()
    loss = diffusion_loss(lambda x, _: x + 1, **given, schedule=schedule, prediction=prediction)
    assert loss == 0


@each
@pytest.mark.parametrize("at", [0.1, 0.5, 0.9])
def test_the_best_linear_network_is_the_posterior_mean(prediction: Any, at: float) -> None:
    """Least squares over many draws of a scalar Gaussian, against its closed form."""
    mean, spread, count, schedule = 0.7, 0.6, 1_000_000, SCHEDULES["linear"]
    source = generator(3)
    z, epsilon = torch.randn(2, count, 1, 1, generator=source, dtype=DOUBLE)
    level = torch.full((count, 1), at, dtype=DOUBLE)

    def loss(weights: Tensor) -> Tensor:
        return diffusion_loss(
            lambda x, _: weights[0] * x + weights[1],
            mean + spread * z,
            level,
            epsilon,
            schedule=schedule,
            prediction=prediction,
            known=torch.zeros(count, 1, 1, dtype=torch.bool),
        )

    # The loss is quadratic in the weights, so Newton's first step from 0 is its minimum.
    zero = torch.zeros(2, dtype=DOUBLE)
    slope = torch.func.grad(loss)(zero)
    curvature = torch.func.jacrev(torch.func.grad(loss))(zero)
    weights = torch.linalg.solve(curvature, -slope)

    alpha, sigma = schedule.alpha(level[:2, :, None]), schedule.sigma(level[:2, :, None])
    x = torch.tensor([-1.0, 2.0], dtype=DOUBLE)[:, None, None]
    got = prediction.to_x0(weights[0] * x + weights[1], x, alpha, sigma)
    gain = alpha * spread**2 / (alpha**2 * spread**2 + sigma**2)
    expected = mean + gain * (x - alpha * mean)
    # A prediction of epsilon is divided by alpha, and its sampling error with it.
    amplified = float(1 / alpha[0]) if isinstance(prediction, EpsilonPrediction) else 1.0
    print(f"\n{prediction} at {at}: error of E[x0 | x] {float((got - expected).abs().max()):.1e}")
    torch.testing.assert_close(got, expected, rtol=0, atol=5e-3 * amplified)


# ------------------------------------------------------------------------------------- levels


@settings(max_examples=40, deadline=None, derandomize=True)
@given(batch=st.integers(1, 300), tokens=st.integers(1, 5), seed=st.integers(0, 2**31))
def test_levels_cover_the_interval_evenly(batch: int, tokens: int, seed: int) -> None:
    level = sequence_levels(batch, tokens, generator=generator(seed))
    assert level.shape == (batch, tokens)
    assert (level == level[:, :1]).all()
    assert (level >= 0).all() and (level < 1).all()
    gaps = level[:, 0].sort().values.diff()
    torch.testing.assert_close(gaps, torch.full_like(gaps, 1 / batch), rtol=0, atol=1e-6)


def test_levels_are_uniform_and_depend_on_the_generator_alone() -> None:
    assert torch.equal(*(sequence_levels(5, 2, generator=generator(1)) for _ in range(2)))
    assert not torch.equal(*(sequence_levels(5, 2, generator=generator(s)) for s in (1, 2)))
    source = generator(0)
    first = torch.stack([sequence_levels(3, 1, generator=source)[0, 0] for _ in range(4000)])
    assert abs(float(first.mean()) - 0.5) < 0.02  # four standard errors
    assert abs(float(first.std()) - 12**-0.5) < 0.01
