"""The scale of a guide is an exponent, for any normaliser."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from toys import flat_model, flat_sample, generator, record

from pgdiff import TrajectoryDiffusion
from pgdiff.data import LimitsNormalizer, StandardNormalizer, fit_tokens
from pgdiff.denoisers import TransformerConfig
from pgdiff.guides import bind
from pgdiff.guides.base import GradientGuide

DEVIATIONS = np.array([0.3, 2.0, 0.0], np.float32)  # the last feature is constant
SLOPE = torch.tensor([2.0, 0.1, 5.0])


class Linear(GradientGuide):
    """An objective whose tilt moves the mean of a Gaussian by scale * variance * slope."""

    def __init__(self) -> None:
        super().__init__(name="linear", scale=1.5, gradient_at="x0")

    def objective(self, segment: Any, level: Tensor) -> Tensor:
        return (segment.observations * SLOPE).sum(dim=(1, 2))


class Exact(nn.Module):
    """The exact denoiser of independent Gaussian features."""

    def __init__(self, model: TrajectoryDiffusion, raw: np.ndarray) -> None:
        super().__init__()
        x = model.codec.normalizer.normalize(torch.from_numpy(raw))
        self.mean, self.variance = x.mean(dim=0), x.var(dim=0)
        self.noise_schedule = model.process.noise_schedule
        self.unused = nn.Parameter(torch.zeros(1))  # a model takes its device from its parameters

    def forward(self, x: Tensor, level: Tensor) -> Tensor:
        alpha, sigma = (
            f(level)[..., None] for f in (self.noise_schedule.alpha, self.noise_schedule.sigma)
        )
        gain = alpha * self.variance / (alpha**2 * self.variance + sigma**2)
        return self.mean + gain * (x - alpha * self.mean)


@pytest.mark.parametrize("scales", [None, {"observations": 0.3}])
@pytest.mark.parametrize("normalizer", ["limits", "standard"])
def test_the_mean_moves_as_far_as_the_tilted_law_says(normalizer: str, scales: Any) -> None:
    raw = np.random.default_rng(0).standard_normal((20_000, 3)).astype(np.float32) * DEVIATIONS
    model = flat_model(
        record(raw, np.zeros((len(raw), 1)), np.zeros(len(raw)), lengths=[len(raw)]),
        horizon=2,
        stride=1,
        known=("none",),
        normalizer=normalizer,
        field_scales=scales,
        denoiser=TransformerConfig(width=8, depth=1, heads=1),
    )
    model.network = Exact(model, raw)

    def mean(guides: list[Any]) -> Tensor:
        bound = [bind(guide, model) for guide in guides]
        x = flat_sample(
            model, batch=2000, generators=[generator(0)], steps=20, guidance=bound, clip=None
        )
        return model.codec.decode(x).observations.mean(dim=(0, 1))

    moved = mean([Linear()]) - mean([])
    wanted = 1.5 * torch.from_numpy(raw).var(dim=0) * SLOPE
    print(f"\n{normalizer}, {scales}: moved {moved.tolist()}, tilted law {wanted.tolist()}")
    torch.testing.assert_close(moved, wanted, rtol=0.03, atol=1e-6)


@pytest.mark.parametrize("kind", ["limits", "standard", "arctanh"])
def test_the_variance_is_that_of_the_normalised_data(kind: str) -> None:
    rng = np.random.default_rng(0)
    observations = (rng.gamma(1.0, 3.0, (5000, 2)) * [1, 100]).astype(np.float32)
    actions = np.tanh(rng.standard_normal((5000, 2))).astype(np.float32)
    flags = rng.random((5000, 1)) < 0.02
    parts = [("observations", observations, 1), ("actions", actions, 2), ("terminals", flags, 1)]
    fitted = fit_tokens(kind, parts, scales={"actions": 0.5})
    tokens = np.concatenate([observations, actions, actions, flags], axis=1, dtype=np.float32)
    x = fitted.normalize(torch.from_numpy(tokens))
    torch.testing.assert_close(
        fitted.normalized_variance, x.var(dim=0, correction=0), rtol=1e-3, atol=1e-6
    )


def test_a_normaliser_that_was_saved_without_a_variance_takes_it_as_one() -> None:
    for kind in (LimitsNormalizer, StandardNormalizer):
        saved = kind([0.0, 1.0], [2.0, 3.0], factor=[1.0, 0.5])
        assert saved.normalized_variance.tolist() == [1.0, 0.25]
