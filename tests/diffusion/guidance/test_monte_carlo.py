"""Gradients averaged over futures, against the closed form of Gaussian data."""

from typing import Any

import pytest
import torch
from oracles import DOUBLE, SCHEDULES, Gaussian, ar1, generator, shrink
from torch import Tensor

from pgdiff.core.validation import PgdiffError
from pgdiff.diffusion import DDIM, Guidance, Inpainting, MonteCarlo, sample
from pgdiff.diffusion.guidance.engine import GuidanceEngine
from pgdiff.diffusion.guidance.rules import PolicyGuidedRule
from pgdiff.diffusion.level_schedules import FullSequence, Pyramid
from pgdiff.diffusion.particles import Resample
from pgdiff.diffusion.solvers import DDPM

pytestmark = pytest.mark.usefixtures("unchecked")

TOKENS, PAST = 6, 3
SCHEDULE = SCHEDULES["cosine"]
FUTURES = 4000
LEVEL = torch.tensor([[0.0] * PAST + [1.0] * (TOKENS - PAST)], dtype=DOUBLE)


def data() -> Gaussian:
    mean = torch.linspace(-0.5, 1.0, TOKENS, dtype=DOUBLE)[:, None]
    return Gaussian(mean, ar1(TOKENS, 0.8), SCHEDULE)


def past() -> Tensor:
    x = torch.zeros(1, TOKENS, 1, dtype=DOUBLE)
    x[0, :PAST, 0] = torch.tensor([0.5, -0.3, 0.8], dtype=DOUBLE)
    return x


def conditional() -> tuple[Tensor, Tensor, Tensor]:
    """Return mean and covariance of the later tokens, and the mean's gain from earlier ones."""
    law = data()
    inner, cross = law.covariance[:PAST, :PAST], law.covariance[PAST:, :PAST]
    gain = torch.linalg.solve(inner, cross.T).T
    off = past()[0, :PAST, 0] - law.mean[:PAST, 0]
    covariance = law.covariance[PAST:, PAST:] - gain @ cross.T
    return law.mean[PAST:, 0] + gain @ off, covariance, gain


def drawn(steps: int, futures: int = FUTURES) -> Tensor:
    noise = torch.randn(futures, 1, TOKENS, 1, generator=generator(0), dtype=DOUBLE)
    settings = MonteCarlo(futures=futures, steps=steps)
    return settings.clean(data().denoise, past(), LEVEL, noise_schedule=SCHEDULE, noise=noise)[
        ..., 0
    ]


def test_futures_follow_the_conditional_law() -> None:
    found = drawn(steps=100)
    mean, covariance, _ = conditional()
    assert torch.equal(found[:, :PAST], past()[..., 0][:, :PAST].expand(FUTURES, -1))
    error = (found[:, PAST:].mean(dim=0) - mean) / (covariance.diag() / FUTURES).sqrt()
    spread = torch.cov(found[:, PAST:].T)
    off = float((spread - covariance).norm() / covariance.norm())
    print(f"\nmean {float(error.abs().max()):.2f} standard errors off, covariance {off:.3f}")
    assert error.abs().max() < 4.5 and off < 0.08


def test_in_one_step_every_future_is_the_mean() -> None:
    mean, _, _ = conditional()
    found = drawn(steps=1, futures=3)[:, PAST:]
    torch.testing.assert_close(found, mean.expand(3, -1), rtol=0, atol=1e-5)


def test_where_nothing_is_noise_alone_one_future_is_all() -> None:
    noise = torch.randn(5, 1, TOKENS, 1, generator=generator(0), dtype=DOUBLE)
    level = LEVEL.clamp(max=0.9)
    batch_sizes: list[int] = []

    def denoise(x: Tensor, levels: Tensor) -> Tensor:
        batch_sizes.append(len(x))
        return data().denoise(x, levels)

    settings = MonteCarlo(futures=5, steps=2)
    x = past() + 0.3
    found = settings.clean(denoise, x, level, noise_schedule=SCHEDULE, noise=noise)
    other = settings.clean(denoise, x, level, noise_schedule=SCHEDULE, noise=noise.flip(0))
    assert batch_sizes == [1, 1, 1, 1] and found.shape == x.shape
    torch.testing.assert_close(found, other, rtol=0, atol=0)


def cubic(x: Tensor, level: Tensor) -> Tensor:
    """Return the sum of the cubes of the later tokens over 3, whose gradient is their squares."""
    return x[:, PAST:].pow(3).sum(dim=(1, 2)) / 3


def gradient(place: Any, settings: MonteCarlo | None) -> Tensor:
    """Return the gradient at the clean estimate, before any factor."""
    found = []

    class Bare:
        places = (place,)
        before = False

        def weight(self, level: Tensor, level_to: Tensor, **_: Any) -> Tensor:
            return torch.ones(1, 1, 1, dtype=DOUBLE)

    guide = Guidance(objective=cubic, gradient_at=place, rule=Bare())
    steering = GuidanceEngine([guide], noise_schedule=SCHEDULE, monte_carlo=settings)
    source = generator(3)
    free = data().denoise(past(), LEVEL)
    moved = steering.estimate(
        data().denoise,
        past(),
        LEVEL,
        0.9 * LEVEL,
        noise=lambda: torch.randn(1, TOKENS, 1, generator=source, dtype=DOUBLE),
    )
    found.append(moved - free)
    return found[0][0, :, 0]


@pytest.mark.parametrize("place", ["x0", "denoiser"])
def test_the_average_gradient_is_that_of_the_mean_energy(place: str) -> None:
    """It is that of mean^2 + variance with futures, else of mean^2; for the past, by its gain."""
    mean, covariance, gain = conditional()
    expected = mean.square() + covariance.diag()
    plain, many = gradient(place, None), gradient(place, MonteCarlo(futures=2000, steps=60))
    where = slice(PAST, None) if place == "x0" else slice(0, PAST)
    over, at_mean = expected, mean.square()
    if place == "denoiser":
        over, at_mean = expected @ gain, at_mean @ gain
    torch.testing.assert_close(plain[where], at_mean, rtol=1e-4, atol=1e-4)
    error = float((many[where] - over).norm() / over.norm())
    print(f"\nat {place}: {many[where].tolist()} for {over.tolist()}, {error:.3f} off")
    assert error < 0.06
    assert float((at_mean - over).norm() / over.norm()) > 0.2  # the test can fail


def test_more_futures_less_noise() -> None:
    """The variance of the averaged gradient falls as 1 / futures."""
    spread = []
    for futures in (1, 16):
        noise = torch.randn(200, futures, 1, TOKENS, 1, generator=generator(1), dtype=DOUBLE)
        settings = MonteCarlo(futures=futures, steps=8)
        means = [
            settings.clean(data().denoise, past(), LEVEL, noise_schedule=SCHEDULE, noise=each)[
                :, -1
            ]
            .square()
            .mean()
            for each in noise
        ]
        spread.append(float(torch.stack(means).var()))
    print(f"\nvariance with 1 and 16 futures: {spread[0]:.4f} {spread[1]:.4f}")
    assert 9 < spread[0] / spread[1] < 28


def run(settings: MonteCarlo | None, *, seeds: tuple[int, ...] = (0,), **options: Any) -> Tensor:
    column = torch.linspace(1.0, 0.0, 7)
    chosen: dict[str, Any] = {"levels": Pyramid().matrix(column, tokens=4), "solver": DDIM()}
    chosen |= options
    return sample(
        shrink,
        noise_schedule=SCHEDULE,
        shape=(2 * len(seeds), 4, 3),
        generators=[generator(seed) for seed in seeds],
        guidance=[Guidance(objective=lambda x, level: x.pow(3).sum(dim=(1, 2)), scale=0.1)],
        monte_carlo=settings,
        **chosen,
    )


@pytest.mark.parametrize("shared", [False, True])
def test_same_seed_same_samples_and_each_environment_as_if_alone(shared: bool) -> None:
    settings = MonteCarlo(futures=3, steps=2, shared=shared)
    assert torch.equal(run(settings), run(settings))
    assert not torch.equal(run(settings), run(settings, seeds=(1,)))
    each = [run(settings, seeds=(seed,)) for seed in (0, 1)]
    assert torch.equal(run(settings, seeds=(0, 1)), torch.cat(each))


def test_shared_noise_is_drawn_for_those_that_wait_too() -> None:
    """If the first environment moves late, its neighbour's plan is still that of a single plan."""
    column = torch.linspace(1.0, 0.0, 7)
    plain = Pyramid().matrix(column, tokens=4)
    late = torch.cat([plain[:1].expand(4, -1), plain]).clamp(max=0.3)
    soon = torch.cat([plain, plain[-1:].expand(4, -1)])
    levels = torch.stack([late, late, soon, soon], dim=1)
    start = torch.randn(4, 4, 3, generator=generator(5))
    settings = MonteCarlo(futures=3, steps=2, shared=True)
    both = run(settings, seeds=(0, 1), levels=levels, start=start)
    alone = run(settings, seeds=(1,), levels=levels[:, 2:], start=start[2:])
    assert torch.equal(both[2:], alone)


def test_rules_that_go_before_the_step_average_too() -> None:
    def moved(settings: MonteCarlo | None) -> Tensor:
        column = torch.linspace(1.0, 0.0, 7)
        return sample(
            shrink,
            noise_schedule=SCHEDULE,
            levels=Pyramid().matrix(column, tokens=4),
            shape=(2, 4, 3),
            generators=[generator(0)],
            solver=DDIM(),
            guidance=[
                Guidance(
                    objective=lambda x, level: x.pow(3).sum(dim=(1, 2)),
                    rule=PolicyGuidedRule(),
                    gradient_at="x0",
                    scale=0.1,
                )
            ],
            monte_carlo=settings,
        )

    assert not torch.equal(moved(None), moved(MonteCarlo(futures=3)))


def test_what_is_known_stays_known_in_futures() -> None:
    mask = torch.zeros(1, 4, 3, dtype=torch.bool)
    mask[:, 0] = True
    mask[:, 3, 1] = True
    values = torch.full((1, 4, 3), 0.5)
    seen = []

    def objective(x: Tensor, level: Tensor) -> Tensor:
        seen.append(x.detach())
        return x.sum(dim=(1, 2))

    column = torch.linspace(1.0, 0.0, 5)
    sample(
        shrink,
        noise_schedule=SCHEDULE,
        levels=FullSequence().matrix(column, tokens=4),
        shape=(2, 4, 3),
        generators=[generator(0)],
        solver=DDIM(),
        inpainting=Inpainting(mask, values),
        guidance=[Guidance(objective=objective, scale=0.1)],
        monte_carlo=MonteCarlo(futures=3),
    )
    assert len(seen) == 3 + 3  # only the first row is pure noise; elsewhere one future suffices
    assert all(torch.equal(x[:, mask[0]], values[:, mask[0]].expand(2, -1)) for x in seen)


def test_bad_settings_are_named() -> None:
    for settings, message in [
        ({"futures": 0}, "`futures` must be"),
        ({"steps": 0}, "`steps` must be"),
        ({"shared": 1}, "`shared` must be true or false"),
    ]:
        with pytest.raises(PgdiffError, match=message):
            MonteCarlo(**settings)


def test_with_resampling_it_is_refused() -> None:
    with pytest.raises(PgdiffError, match="`monte_carlo` must be None with `particles`"):
        run(MonteCarlo(), solver=DDPM(), particles=Resample())
