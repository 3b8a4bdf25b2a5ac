"""Two modes, which no affine map can produce, with their exact denoiser.

Deterministic solvers are pushed by quadrature: they start from evenly spaced quantiles of the true
marginal of level 1, and are monotone maps, so that the ends are quantiles of their samples. The
truth is measured by the same quantiles.
"""

import math
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from oracles import DOUBLE, generator, order
from torch import Tensor

from pgdiff.diffusion import sample
from pgdiff.diffusion.schedules import CosineSchedule, EDMSchedule
from pgdiff.diffusion.solvers import DDIM, DDPM, DPMSolver, Heun
from pgdiff.diffusion.spacing import KarrasSpacing

pytestmark = pytest.mark.usefixtures("unchecked")

STEPS = (50, 100, 200, 400)
WEIGHT = 0.3
SCHEDULES: dict[str, Any] = {"edm": EDMSchedule(), "cosine": CosineSchedule()}


@dataclass(frozen=True)
class Mixture:
    """Weights 0.3 and 0.7, modes of equal width; mean 0 and variance 1 in total."""

    width: float
    noise_schedule: Any

    @property
    def modes(self) -> tuple[float, float]:
        apart = math.sqrt((1 - self.width**2) / (WEIGHT * (1 - WEIGHT)))
        return -(1 - WEIGHT) * apart, WEIGHT * apart

    def denoise(self, x: Tensor, level: Tensor) -> Tensor:
        """Return E[x0 | x]: the posterior mean of each mode, weighted by its odds given `x`."""
        alpha = self.noise_schedule.alpha(level)[..., None]
        variance = (alpha * self.width).square() + self.noise_schedule.sigma(level)[
            ..., None
        ].square()
        left, right = (alpha * mode for mode in self.modes)
        # The difference of the two squared distances, without cancellation far out.
        log_odds = (right - left) * (2 * x - left - right) / (2 * variance)
        share = torch.sigmoid(log_odds + math.log((1 - WEIGHT) / WEIGHT))
        mean = self.modes[0] + share * (self.modes[1] - self.modes[0])
        return mean + alpha * self.width**2 / variance * (x - alpha * mean)

    def quantiles(self, count: int, level: float) -> Tensor:
        """Return evenly spaced quantiles of the noisy sample, by bisection."""
        noise = torch.tensor(level, dtype=DOUBLE)
        alpha, sigma = (
            float(self.noise_schedule.alpha(noise)),
            float(self.noise_schedule.sigma(noise)),
        )
        width = math.hypot(alpha * self.width, sigma)
        share = (torch.arange(count, dtype=DOUBLE) + 0.5) / count
        far = torch.full_like(share, 10 * (width + alpha * max(map(abs, self.modes))))
        low, high = -far, far
        for _ in range(80):
            middle = (low + high) / 2
            left, right = (
                torch.special.ndtr((middle - alpha * mode) / width) for mode in self.modes
            )
            below = WEIGHT * left + (1 - WEIGHT) * right < share
            low, high = torch.where(below, middle, low), torch.where(below, high, middle)
        return (low + high) / 2

    def measure(self, x: Tensor) -> Tensor:
        """Return the weight of the left mode, and each mode's standard deviation."""
        left = x < sum(self.modes) / 2
        return torch.stack([left.to(DOUBLE).mean(), x[left].std(), x[~left].std()])

    def run(self, start: Tensor, steps: int, solver: Any) -> Tensor:
        column = KarrasSpacing().levels(steps, noise_schedule=self.noise_schedule)
        x = sample(
            self.denoise,
            noise_schedule=self.noise_schedule,
            levels=column[:, None],
            shape=(len(start), 1, 1),
            generators=[generator(1)],
            solver=solver,
            start=start[:, None, None],
            dtype=DOUBLE,
        )
        return x[:, 0, 0]


def test_the_denoiser_is_the_posterior_mean() -> None:
    """It agrees with quadrature over the prior."""
    data = Mixture(0.3, CosineSchedule())
    x0 = torch.linspace(-6, 6, 40_001, dtype=DOUBLE)
    left, right = (torch.exp(-0.5 * ((x0 - mode) / 0.3).square()) for mode in data.modes)
    prior = WEIGHT * left + (1 - WEIGHT) * right
    worst = 0.0
    for level in (0.05, 0.4, 0.8, 1.0):
        noise = torch.full((1, 1), level, dtype=DOUBLE)
        alpha, sigma = (
            float(data.noise_schedule.alpha(noise)),
            float(data.noise_schedule.sigma(noise)),
        )
        for value in (-2.0, -0.4, 0.1, 1.7):
            posterior = prior * torch.exp(-0.5 * ((value - alpha * x0) / sigma).square())
            expected = float((x0 * posterior).sum() / posterior.sum())
            got = float(data.denoise(torch.full((1, 1, 1), value, dtype=DOUBLE), noise))
            worst = max(worst, abs(got - expected))
    print(f"\nposterior mean of the mixture: largest error {worst:.1e}")
    assert worst < 1e-9


@pytest.mark.parametrize("name", sorted(SCHEDULES))
def test_second_order_solvers_at_50_steps(name: str) -> None:
    """Weight within 1 %, standard deviation of each mode within 2 %, of modes 7 widths apart.

    Narrower modes, printed too, form later and faster and need more steps.
    """
    print()
    for width in (0.3, 0.2, 0.1):
        data = Mixture(width, SCHEDULES[name])
        start, truth = data.quantiles(8001, 1.0), data.measure(data.quantiles(8001, 0.0))
        for solver in (DDIM(), DPMSolver(order=2), Heun()):
            x = data.run(start, 50, solver)
            assert (x.diff() > 0).all()  # a monotone map, as quadrature supposes
            weight, left, right = (100 * (data.measure(x) / truth - 1)).tolist()
            print(
                f"{type(solver).__name__:9s} {name:6s} modes of width {width}, 50 steps: weight "
                f"{weight:+.2f} %, deviations {left:+.2f} % and {right:+.2f} %"
            )
            if width == 0.3 and solver != DDIM():
                assert abs(weight) < 1 and abs(left) < 2 and abs(right) < 2


@pytest.mark.parametrize(
    ("solver", "expected", "within"),
    [(DDIM(), 1.0, 0.15), (DPMSolver(order=2), 2.0, 0.3), (Heun(), 2.0, 0.3)],
    ids=repr,
)
def test_order_towards_the_truth(solver: Any, expected: float, within: float) -> None:
    """The order holds in Wasserstein distance: the mean distance between quantiles."""
    data = Mixture(0.3, EDMSchedule())
    start, truth = data.quantiles(8001, 1.0), data.quantiles(8001, 0.0)
    found = [float((data.run(start, n, solver) - truth).abs().mean()) for n in STEPS]
    fitted = order(STEPS, found)
    listed = "  ".join(f"{n}: {error:.1e}" for n, error in zip(STEPS, found, strict=True))
    print(f"\n{solver}: Wasserstein distance {listed}  order {fitted:.3f}")
    assert abs(fitted - expected) < within


@pytest.mark.parametrize("variance", ["small", "large"])
def test_ddpm_approaches_the_truth(variance: Any) -> None:
    """Samples at k times 50 steps have a k-th of the error at 50, within 4 standard errors."""
    data, count = Mixture(0.3, EDMSchedule()), 60_000
    start, truth = data.quantiles(count, 1.0), data.measure(data.quantiles(count, 0.0))
    # Of a share, and of a standard deviation; relative.
    sizes = count * torch.tensor([WEIGHT, WEIGHT, 1 - WEIGHT], dtype=DOUBLE)
    standard = torch.tensor([1 - WEIGHT, 0.5, 0.5], dtype=DOUBLE).sqrt() / sizes.sqrt()
    print()
    found = []
    for steps in STEPS:
        error = data.measure(data.run(start, steps, DDPM(variance=variance))) / truth - 1
        found.append(error)
        listed = "  ".join(
            f"{100 * float(e):+.2f} ± {100 * float(s):.2f} %"
            for e, s in zip(error, standard, strict=True)
        )
        print(f"DDPM, {variance} variance, {steps} steps: weight, two deviations: {listed}")
    for steps, error in zip(STEPS, found, strict=True):
        envelope = found[0].abs() * STEPS[0] / steps
        assert (error.abs() <= envelope + 4 * math.sqrt(2) * standard).all()
