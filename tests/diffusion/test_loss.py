from itertools import product
from typing import Any

import pytest
import torch
from oracles import DOUBLE, generator
from torch import Tensor

from pgdiff.diffusion import (
    CosineSchedule,
    EDMPrediction,
    EpsilonPrediction,
    LinearSchedule,
    MinSnrWeight,
    UniformWeight,
    VPrediction,
    X0Prediction,
    diffusion_loss,
)

SCHEDULES = {"cosine": CosineSchedule(), "linear": LinearSchedule()}
PREDICTIONS = [X0Prediction(), EpsilonPrediction(), VPrediction()]


def batch(seed: int = 0) -> dict[str, Any]:
    source = generator(seed)
    x0, epsilon = torch.randn(2, 4, 6, 3, generator=source, dtype=DOUBLE)
    level = torch.rand(4, 6, generator=source, dtype=DOUBLE)
    known = torch.rand(4, 6, 3, generator=source) < 0.4
    known[:, 0] = True
    return {"x0": x0, "level": level, "epsilon": epsilon, "given": known}


def check_the_network_sees_known_features_clean_and_the_rest_noisy(
    prediction: Any, name: str
) -> None:
    given, noise_schedule, seen = batch(), SCHEDULES[name], []

    def spy(x: Tensor, level: Tensor) -> Tensor:
        seen.append((x, level))
        return torch.zeros_like(x)

    diffusion_loss(spy, **given, noise_schedule=noise_schedule, prediction=prediction)
    ((x, level),) = seen
    known, whole = given["given"], given["given"].all(dim=-1)
    assert torch.equal(x[known], given["x0"][known])
    assert (level[whole] == 0).all() and torch.equal(level[~whole], given["level"][~whole])
    alpha, sigma = noise_schedule.alpha(given["level"]), noise_schedule.sigma(given["level"])
    noisy = alpha[..., None] * given["x0"] + sigma[..., None] * given["epsilon"]
    torch.testing.assert_close(x[~known], noisy[~known], rtol=1e-14, atol=0)


def test_the_network_sees_known_features_clean_and_the_rest_noisy() -> None:
    for prediction, name in product(PREDICTIONS, SCHEDULES):
        check_the_network_sees_known_features_clean_and_the_rest_noisy(prediction, name)


def check_it_is_the_mean_over_what_is_neither_known_nor_padding(prediction: Any) -> None:
    given, noise_schedule = batch(), SCHEDULES["linear"]
    valid = torch.ones(4, 6, dtype=torch.bool)
    valid[1, 3:] = valid[2, 5:] = False
    wrong = torch.randn(4, 6, 3, generator=generator(9), dtype=DOUBLE)

    def loss(extra: Tensor) -> float:
        return float(
            diffusion_loss(
                lambda x, level: wrong + extra,
                **given,
                noise_schedule=noise_schedule,
                prediction=prediction,
                valid=valid,
            )
        )

    counted = ~given["given"] & valid[..., None]
    alpha = noise_schedule.alpha(given["level"])[..., None]
    sigma = noise_schedule.sigma(given["level"])[..., None]
    targets = {
        "X0Prediction": given["x0"],
        "EpsilonPrediction": given["epsilon"],
        "VPrediction": alpha * given["epsilon"] - sigma * given["x0"],
    }
    error = (wrong - targets[type(prediction).__name__])[counted]
    assert loss(torch.zeros(())) == pytest.approx(float(error.square().mean()), rel=1e-12)
    assert loss(100.0 * (~counted)) == loss(torch.zeros(()))  # errors elsewhere cost nothing
    assert loss(100.0 * counted) > 1000


def test_it_is_the_mean_over_what_is_neither_known_nor_padding() -> None:
    for prediction in PREDICTIONS:
        check_it_is_the_mean_over_what_is_neither_known_nor_padding(prediction)


def check_the_exact_target_costs_nothing(prediction: Any) -> None:
    given, noise_schedule = batch(), SCHEDULES["cosine"]

    def exact(x: Tensor, level: Tensor) -> Tensor:
        alpha, sigma = (
            noise_schedule.alpha(level)[..., None],
            noise_schedule.sigma(level)[..., None],
        )
        return prediction.target(given["x0"], given["epsilon"], alpha, sigma)

    assert diffusion_loss(exact, **given, noise_schedule=noise_schedule, prediction=prediction) == 0


def test_the_exact_target_costs_nothing() -> None:
    for prediction in PREDICTIONS:
        check_the_exact_target_costs_nothing(prediction)


def test_nothing_to_learn_costs_nothing() -> None:
    given = batch() | {"given": torch.ones(4, 6, 3, dtype=torch.bool)}
    noise_schedule, prediction = SCHEDULES["cosine"], X0Prediction()
    loss = diffusion_loss(
        lambda x, _: x + 1, **given, noise_schedule=noise_schedule, prediction=prediction
    )
    assert loss == 0


def test_the_weight_multiplies_the_squared_error() -> None:
    given, noise_schedule, prediction = batch(), SCHEDULES["linear"], VPrediction()
    wrong = torch.randn(4, 6, 3, generator=generator(9), dtype=DOUBLE)
    level = torch.where(given["given"].all(dim=-1), 0.0, given["level"])[..., None]
    alpha, sigma = noise_schedule.alpha(level), noise_schedule.sigma(level)
    squares = (wrong - (alpha * given["epsilon"] - sigma * given["x0"])).square()
    for loss_weight, weight in [
        (None, torch.ones_like(alpha)),
        (UniformWeight(), torch.ones_like(alpha)),
        (MinSnrWeight(), torch.minimum(5 * sigma**2, alpha**2)),  # min(SNR, 5) sigma^2
    ]:
        loss = diffusion_loss(
            lambda x, _: wrong,
            **given,
            noise_schedule=noise_schedule,
            prediction=prediction,
            loss_weight=loss_weight,
        )
        # Divided by the number of counted entries, not by the sum of their weights.
        expected = (weight * squares)[~given["given"]].mean()
        assert float(loss) == pytest.approx(float(expected), rel=1e-12)


def test_the_network_sees_the_scaled_sample() -> None:
    given, noise_schedule, seen = batch(), SCHEDULES["linear"], []
    for prediction in (X0Prediction(), EDMPrediction(sigma_data=0.5)):

        def spy(x: Tensor, level: Tensor) -> Tensor:
            seen.append(x)
            return x

        diffusion_loss(spy, **given, noise_schedule=noise_schedule, prediction=prediction)
    level = torch.where(given["given"].all(dim=-1), 0.0, given["level"])[..., None]
    spread = (
        noise_schedule.alpha(level).square() / 4 + noise_schedule.sigma(level).square()
    ).sqrt()
    torch.testing.assert_close(seen[1], seen[0] / spread, rtol=1e-12, atol=0)
