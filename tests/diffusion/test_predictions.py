from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from oracles import DOUBLE, SCHEDULES, generator

from pgdiff.diffusion import EpsilonPrediction, VPrediction, X0Prediction
from pgdiff.registry import from_config, to_config
from pgdiff.validation import PgdiffError

PREDICTIONS = [X0Prediction(), EpsilonPrediction(), VPrediction()]


@pytest.mark.parametrize("prediction", PREDICTIONS, ids=repr)
@pytest.mark.parametrize("name", ["cosine", "linear"])
@settings(max_examples=30, deadline=None, derandomize=True)
@given(seed=st.integers(0, 2**31), top=st.floats(0.01, 0.99))
def test_the_exact_output_gives_back_the_clean_value(
    prediction: Any, name: str, seed: int, top: float
) -> None:
    schedule, source = SCHEDULES[name], generator(seed)
    x0, epsilon = torch.randn(2, 3, 5, 2, generator=source, dtype=DOUBLE)
    level = top * torch.rand(3, 5, 1, generator=source, dtype=DOUBLE)
    alpha, sigma = schedule.alpha(level), schedule.sigma(level)
    x = alpha * x0 + sigma * epsilon
    back = prediction.to_x0(prediction.target(x0, epsilon, alpha, sigma), x, alpha, sigma)
    # Epsilon is divided by alpha, and its rounding errors with it.
    torch.testing.assert_close(back, x0, rtol=1e-12, atol=1e-14 / float(alpha.min()) + 1e-13)


def test_one_network_in_three_languages() -> None:
    """The same function, said as x0, epsilon or v, has one clean estimate."""
    source, schedule = generator(1), SCHEDULES["linear"]
    x, x0_hat = torch.randn(2, 3, 5, 2, generator=source, dtype=DOUBLE)
    level = torch.rand(3, 5, 1, generator=source, dtype=DOUBLE)
    alpha, sigma = schedule.alpha(level), schedule.sigma(level)
    epsilon_hat = (x - alpha * x0_hat) / sigma
    outputs = [x0_hat, epsilon_hat, alpha * epsilon_hat - sigma * x0_hat]
    for prediction, output in zip(PREDICTIONS, outputs, strict=True):
        x0 = prediction.to_x0(output, x, alpha, sigma)
        torch.testing.assert_close(x0, x0_hat, rtol=1e-10, atol=1e-10)


def test_v_is_defined_at_pure_noise() -> None:
    schedule = SCHEDULES["cosine"]
    one = torch.ones(1, 1, 1, dtype=DOUBLE)
    alpha, sigma = schedule.alpha(one), schedule.sigma(one)
    x0, epsilon = 3.0 * one, 2.0 * one
    target = VPrediction().target(x0, epsilon, alpha, sigma)
    torch.testing.assert_close(VPrediction().to_x0(target, epsilon, alpha, sigma), x0)


@pytest.mark.parametrize(
    ("prediction", "refused"),
    [
        (X0Prediction(), set()),
        (EpsilonPrediction(), {"cosine", "flow"}),
        (VPrediction(), {"flow", "exploding"}),
    ],
)
def test_undefined_clean_estimates_are_refused(prediction: Any, refused: set[str]) -> None:
    for name, schedule in SCHEDULES.items():
        if name not in refused:
            prediction.check(schedule)
            continue
        with pytest.raises(PgdiffError, match="`prediction` must not be") as error:
            prediction.check(schedule)
        assert repr(schedule) in str(error.value)


def test_config_round_trip() -> None:
    for prediction in PREDICTIONS:
        assert from_config("prediction", to_config(prediction)) == prediction
