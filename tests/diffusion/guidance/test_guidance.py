"""The gradient of an objective, its weight, and the law of guided samples."""

import itertools
import math
from collections.abc import Callable
from itertools import product
from typing import Any, Literal

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from oracles import (
    DOUBLE,
    SCHEDULES,
    Gaussian,
    affine,
    generator,
    monotone_matrices,
    one_step,
    shrink,
)
from torch import Tensor, nn

from pgdiff.core.validation import PgdiffError
from pgdiff.diffusion import (
    DDIM,
    DDPM,
    Guidance,
    Inpainting,
    NoiseSchedule,
    SamplerStep,
    full_sequence,
    sample,
)
from pgdiff.diffusion.guidance.engine import GuidanceEngine
from pgdiff.diffusion.guidance.rules import PolicyGuidedRule

Objective = Callable[[Tensor, Tensor], Tensor]
each_place = pytest.mark.parametrize("gradient_at", ["x0", "x"])


def bumpy(x: Tensor, level: Tensor) -> Tensor:
    """Return an objective that couples tokens and features and uses the level."""
    neighbours = torch.tanh(x[:, 1:, 0] * x[:, :-1, 1]).sum(dim=1)
    return neighbours + ((1 - level) * torch.sin(2 * x).sum(dim=-1)).sum(dim=1) + x[:, 0, 0].exp()


def points(seed: int = 0, *, batch: int = 3) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return x0_hat, x, level and the next level, for five tokens of two features."""
    source = generator(seed)
    x0_hat, x = torch.randn(2, batch, 5, 2, generator=source, dtype=DOUBLE)
    level = torch.rand(batch, 5, generator=source, dtype=DOUBLE)
    return x0_hat, x, level, level * torch.rand(batch, 5, generator=source, dtype=DOUBLE)


def guide_x0(
    x0_hat: Tensor,
    x: Tensor,
    level: Tensor,
    level_to: Tensor,
    *,
    guidance: list[Guidance],
    noise_schedule: NoiseSchedule,
) -> Tensor:
    """Return the guided clean estimate for a given clean estimate of the denoiser."""
    steering = GuidanceEngine(guidance, noise_schedule=noise_schedule)
    return steering.estimate(lambda x, level: x0_hat, x, level, level_to)


def finite_differences(objective: Objective, x: Tensor, level: Tensor, h: float = 1e-5) -> Tensor:
    gradient = torch.zeros_like(x)
    for place in np.ndindex(*x.shape):
        up, down = x.clone(), x.clone()
        up[place] += h
        down[place] -= h
        gradient[place] = (objective(up, level) - objective(down, level)).sum() / (2 * h)
    return gradient


# ------------------------------------------------------------------------------------- gradient


@each_place
def test_the_added_gradient_is_that_of_finite_differences(gradient_at: Literal["x0", "x"]) -> None:
    x0_hat, x, level, level_to = points()
    noise_schedule, place = SCHEDULES["linear"], x0_hat if gradient_at == "x0" else x
    guide = Guidance(objective=bumpy, gradient_at=gradient_at, scale=0.7)
    expected = finite_differences(bumpy, place, level)
    gradient = guide.gradient(place, level)
    error = float((gradient - expected).norm() / expected.norm())
    print(f"\ngradient at {gradient_at} against finite differences: relative error {error:.1e}")
    assert error < 1e-6

    moved = guide_x0(x0_hat, x, level, level_to, guidance=[guide], noise_schedule=noise_schedule)
    weight = guide.factor(level, level_to, noise_schedule)
    assert weight.shape == (3, 5, 1)
    assert torch.equal(moved, x0_hat + 0.7 * weight * gradient)


def test_weights_are_the_documented_ones() -> None:
    *_, level, level_to = points()
    for noise_schedule in SCHEDULES.values():
        a, s = noise_schedule.alpha(level)[..., None], noise_schedule.sigma(level)[..., None]
        at_x0 = Guidance(objective=bumpy, gradient_at="x0").factor(level, level_to, noise_schedule)
        torch.testing.assert_close(at_x0, s**2 / (a**2 + s**2))
        a, s = noise_schedule.alpha(level_to)[..., None], noise_schedule.sigma(level_to)[..., None]
        at_x = Guidance(objective=bumpy, gradient_at="x").factor(level, level_to, noise_schedule)
        torch.testing.assert_close(at_x, s**2 / a)


def check_a_scale_is_an_exponent_whatever_the_datas_variance(
    gradient_at: Any, factor: float
) -> None:
    """Data of deviation `factor`, tilted by 0.5 in units of it, has mean 0.5 in these units."""
    noise_schedule = SCHEDULES["cosine"]
    data = Gaussian(
        torch.zeros(2, 1, dtype=DOUBLE), factor**2 * torch.eye(2, dtype=DOUBLE), noise_schedule
    )
    guide = Guidance(
        objective=lambda x, level: 0.5 / factor * x.sum(dim=(1, 2)), gradient_at=gradient_at
    )
    x = sample(
        data.denoise,
        noise_schedule=noise_schedule,
        levels=full_sequence(steps=200, tokens=2),
        shape=(1, 2, 1),
        generators=[generator(0)],
        solver=DDIM(),
        guidance=[guide],
        variance=torch.tensor([factor**2], dtype=DOUBLE),
        start=torch.zeros(1, 2, 1, dtype=DOUBLE),
        dtype=DOUBLE,
    )
    print(f"\nat {gradient_at}, factor {factor}: mean {float(x[0, 0, 0]) / factor:.3f}")
    assert x[0, 0, 0] / factor == pytest.approx(0.5, abs=0.05)


def test_a_scale_is_an_exponent_whatever_the_datas_variance() -> None:
    for factor, gradient_at in product([0.1, 1.0, 3.0], ["x0", "denoiser"]):
        check_a_scale_is_an_exponent_whatever_the_datas_variance(gradient_at, factor)


def check_guides_see_what_is_known(gradient_at: Any) -> None:
    """An objective of in-painted values moves nothing, whatever the denoiser returns there."""
    seen: list[Tensor] = []

    def astray(x: Tensor, level: Tensor) -> Tensor:
        out = torch.tanh(x + x.mean(dim=1, keepdim=True))
        return torch.cat([out[:, :1] + 5.0, out[:, 1:]], dim=1)

    def first(x: Tensor, level: Tensor) -> Tensor:
        seen.append(x.detach().clone())
        return x[:, 0].sum(dim=1)

    mask = torch.zeros(1, 5, 2, dtype=torch.bool)
    mask[:, 0] = True
    values = torch.full((1, 5, 2), 0.25)

    def drawn(scale: float) -> Tensor:
        before = {"gradient_at": "x0", "rule": PolicyGuidedRule()}
        place: Any = before if gradient_at == "before" else {"gradient_at": gradient_at}
        return sample(
            astray,
            noise_schedule=SCHEDULES["cosine"],
            levels=full_sequence(steps=5, tokens=5),
            shape=(3, 5, 2),
            generators=[generator(0)],
            solver=DDIM(),
            inpainting=Inpainting(mask, values),
            guidance=[Guidance(objective=first, scale=scale, **place)],
        )

    assert torch.equal(drawn(1.0), drawn(0.0))
    assert len(seen) == 5 and all((x[:, 0] == 0.25).all() for x in seen)


def test_guides_see_what_is_known() -> None:
    for gradient_at in ["x0", "denoiser", "before"]:
        check_guides_see_what_is_known(gradient_at)


def test_trajectories_do_not_steer_each_other() -> None:
    x0_hat, _, level, _ = points()
    together = Guidance(objective=bumpy).gradient(x0_hat, level)
    for row in range(3):
        alone = Guidance(objective=bumpy).gradient(x0_hat[row : row + 1], level[row : row + 1])
        torch.testing.assert_close(together[row : row + 1], alone)


def test_guides_add_up_and_each_sees_the_unmoved_estimate() -> None:
    x0_hat, x, level, level_to = points()
    guides = [
        Guidance(objective=bumpy, scale=2.0),
        Guidance(
            objective=lambda x, level: -x.square().sum(dim=(1, 2)), gradient_at="x", scale=0.5
        ),
        Guidance(objective=lambda x, level: -(x**4).sum(dim=(1, 2)), scale=0.5),
    ]
    options = {"noise_schedule": SCHEDULES["linear"]}
    moves = [
        guide_x0(x0_hat, x, level, level_to, guidance=[guide], **options) - x0_hat
        for guide in guides
    ]
    both = guide_x0(x0_hat, x, level, level_to, guidance=guides, **options)
    torch.testing.assert_close(both, x0_hat + sum(moves))


@each_place
def test_scale_zero_is_no_guidance_and_never_differentiates(
    gradient_at: Literal["x0", "x"],
) -> None:
    class PlanRecorder(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Tensor) -> Tensor:
            return x.sum(dim=(1, 2))

        @staticmethod
        def backward(ctx: Any, *gradients: Tensor) -> Tensor:
            calls.append("backward")
            return torch.ones(2, 4, 3)

    def objective(x: Tensor, level: Tensor) -> Tensor:
        calls.append("objective")
        return PlanRecorder.apply(x)

    calls: list[str] = []

    def run(*guidance: Guidance) -> Tensor:
        return sample(
            shrink,
            noise_schedule=SCHEDULES["linear"],
            levels=full_sequence(steps=3, tokens=4),
            shape=(2, 4, 3),
            generators=[generator(0)],
            solver=DDPM(),
            guidance=guidance,
        )

    off = run(Guidance(objective=objective, gradient_at=gradient_at, scale=0.0))
    assert not calls and torch.equal(off, run())
    on = run(Guidance(objective=objective, gradient_at=gradient_at, scale=0.1))
    assert calls == ["objective", "backward"] * 3 and not torch.equal(off, on)


# ----------------------------------------------------------------------------------- the steps


def check_at_x_ddpms_mean_moves_by_scale_times_variance_times_gradient(name: str) -> None:
    """Compare with Diffuser's rule (Janner et al. 2022, algorithm 1), per token, on DDPM's step."""
    noise_schedule = SCHEDULES[name]
    x0_hat, x, level, level_to = points(2)
    guide = Guidance(objective=bumpy, gradient_at="x", scale=0.3)
    moved = guide_x0(x0_hat, x, level, level_to, guidance=[guide], noise_schedule=noise_schedule)
    zero, one = torch.zeros_like(x), torch.ones_like(x)

    def step(clean: Tensor, noise: Tensor) -> Tensor:
        return one_step(DDPM(), noise_schedule, x, clean, level, level_to, noise=noise)

    deviation = step(x0_hat, one) - step(x0_hat, zero)
    shift = step(moved, zero) - step(x0_hat, zero)
    expected = 0.3 * deviation.square() * finite_differences(bumpy, x, level)
    error = float((shift - expected).norm() / expected.norm())
    print(f"\nDiffuser's rule, {name}: relative error {error:.1e}")
    assert error < 1e-6


def test_at_x_ddpms_mean_moves_by_scale_times_variance_times_gradient() -> None:
    for name in sorted(SCHEDULES):
        check_at_x_ddpms_mean_moves_by_scale_times_variance_times_gradient(name)


@each_place
@settings(max_examples=30, deadline=None, derandomize=True)
@given(levels=monotone_matrices())
def test_any_matrix_gives_finite_estimates(gradient_at: Literal["x0", "x"], levels: Tensor) -> None:
    """Estimates are finite even where a token waits at pure noise, whose weight would be 1 / 0."""
    seen: list[SamplerStep] = []
    sample(
        shrink,
        noise_schedule=SCHEDULES["cosine"],
        levels=levels,
        shape=(2, levels.shape[1], 3),
        generators=[generator(0)],
        solver=DDPM(),
        guidance=[
            Guidance(
                objective=lambda x, level: -x.square().sum(dim=(1, 2)),
                gradient_at=gradient_at,
                scale=0.01,
            )
        ],
        callback=seen.append,
    )
    assert all(step.x0_hat is None or torch.isfinite(step.x0_hat).all() for step in seen)


def test_a_quadratic_energy_on_a_gaussian_has_its_known_law() -> None:
    """Mean and covariance of DDIM's samples follow the recursion, written out in numbers."""
    mean, spread, goal, strength = 0.5, 0.8, 2.0, 3.0
    noise_schedule = SCHEDULES["linear"]
    columns = [[1.0, 0.8, 0.5, 0.2, 0.0], [1.0, 1.0, 0.6, 0.1, 0.0], [0.7, 0.6, 0.5, 0.4, 0.0]]
    levels = torch.tensor(columns, dtype=DOUBLE).T

    def denoise(x: Tensor, level: Tensor) -> Tensor:
        a, s = noise_schedule.alpha(level)[..., None], noise_schedule.sigma(level)[..., None]
        return mean + a * spread**2 / (a**2 * spread**2 + s**2) * (x - a * mean)

    def objective(x: Tensor, level: Tensor) -> Tensor:
        return -strength / 2 * (x - goal).square().sum(dim=(1, 2))

    def run(start: Tensor, scale: float) -> Tensor:
        return sample(
            denoise,
            noise_schedule=noise_schedule,
            levels=levels,
            shape=(len(start), 3, 1),
            generators=[generator(0)],
            solver=DDIM(),
            guidance=[Guidance(objective=objective, scale=scale)],
            start=start,
            dtype=DOUBLE,
        )

    def alpha(level: float) -> float:
        return math.exp(-0.5 * (0.1 * level + 19.9 * level**2 / 2))

    for scale in (0.0, 0.2, 1.0):
        matrix, offset = affine(lambda start, scale=scale: run(start, scale), (3, 1))
        assert torch.equal(matrix, torch.diag(matrix.diag()))
        for token, column in enumerate(columns):
            factor, constant = 1.0, 0.0
            for t, s in itertools.pairwise(column):
                if t == s:
                    continue
                a, b = alpha(t), alpha(s)
                v, w = 1 - a**2, 1 - b**2  # alpha^2 + sigma^2 = 1, so that the weight is v
                gain = a * spread**2 / (a**2 * spread**2 + v)
                pull = scale * v * strength
                # x0 = of_x x + rest after guidance
                of_x = (1 - pull) * gain
                rest = (1 - pull) * (mean - gain * a * mean) + pull * goal
                turn = math.sqrt(w / v)
                factor, constant = (
                    (b * of_x + turn * (1 - a * of_x)) * factor,
                    (b * of_x + turn * (1 - a * of_x)) * constant + (b - turn * a) * rest,
                )
            assert float(matrix[token, token]) == pytest.approx(factor, rel=1e-10)
            assert float(offset[token]) == pytest.approx(constant, rel=1e-10)
    none, some = (run(torch.zeros(1, 3, 1, dtype=DOUBLE), scale) for scale in (0.0, 0.1))
    assert (some > none).all()  # towards the goal


def test_a_weak_guide_tilts_unit_data_as_bayes_does() -> None:
    """To first order in the scale, plug-in guidance at x0 is exact for data of unit variance."""
    mean, goal = 0.5, 2.0
    noise_schedule = SCHEDULES["cosine"]

    def denoise(x: Tensor, level: Tensor) -> Tensor:
        a = noise_schedule.alpha(level)[..., None]
        return mean + a * (x - a * mean)

    def final_mean(steps: int, scale: float) -> float:
        guide = Guidance(
            objective=lambda x, level: -(x - goal).square().sum((1, 2)) / 2, scale=scale
        )
        return float(
            sample(
                denoise,
                noise_schedule=noise_schedule,
                levels=full_sequence(steps=steps, tokens=1),
                shape=(1, 1, 1),
                generators=[generator(0)],
                solver=DDIM(),
                guidance=[guide],
                start=torch.zeros(1, 1, 1, dtype=DOUBLE),
                dtype=DOUBLE,
            )
        )

    for steps in (10, 80):
        errors = {}
        for scale in (1e-4, 1e-3, 1e-2, 0.1, 1.0):
            tilted = (mean + scale * goal) / (1 + scale)  # p(x) exp(scale * objective)
            moved = final_mean(steps, scale) - final_mean(steps, 0.0)
            errors[scale] = moved / (tilted - mean) - 1
        listed = "  ".join(f"{scale:g}: {error:+.5f}" for scale, error in errors.items())
        print(f"\n{steps} steps, the mean's move against the exact tilt, less 1, at scale {listed}")
        assert abs(errors[1e-4]) < 1e-4 and abs(errors[1e-3]) < 1e-3 and abs(errors[1e-2]) < 1e-2


# --------------------------------------------------------------------------------------- errors


class Blind(nn.Module):
    """A network whose output requires a gradient because of its weights, but not of `x`."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Linear(2, 1)

    def forward(self, x: Tensor, level: Tensor) -> Tensor:
        out: Tensor = self.net(x.detach().float()).sum(dim=(1, 2))
        return out


def test_a_faulty_energy_is_named() -> None:
    for (objective, message), gradient_at in product(
        [
            (lambda x, level: x.sum(dim=(1, 2)) / 0, "must be finite. Got .* for trajectory 0"),
            (
                lambda x, level: torch.where(torch.arange(3) == 1, torch.nan, x.sum(dim=(1, 2))),
                "must be finite. Got nan for trajectory 1",
            ),
            (lambda x, level: x.sum(), r"shape \[3\].* Got \[\]"),
            (lambda x, level: x.sum(dim=2), r"shape \[3\].* Got \[3, 5\]"),
            (lambda x, level: x[:2].sum(dim=(1, 2)), r"shape \[3\].* Got \[2\]"),
            (lambda x, level: x.sum().item(), r"shape \[3\].* Got float"),
            (lambda x, level: None, r"shape \[3\].* Got NoneType"),
            (lambda x, level: x.detach().sum(dim=(1, 2)), "detached"),
            (torch.no_grad()(lambda x, level: x.sum(dim=(1, 2))), "detached"),
            (lambda x, level: torch.zeros(3), "detached"),
            (Blind(), "detached"),
            (
                lambda x, level: (x - x.detach()).square().sum(dim=(1, 2)).sqrt(),
                "gradient of 'my guide' must be finite. Got NaN or Inf at level",
            ),
        ],
        ["x0", "x"],
    ):
        x0_hat, x, level, level_to = points()
        guide = Guidance(objective=objective, gradient_at=gradient_at, name="my guide")
        with pytest.raises(PgdiffError, match=message) as error:
            guide_x0(
                x0_hat, x, level, level_to, guidance=[guide], noise_schedule=SCHEDULES["linear"]
            )
        assert "'my guide'" in str(error.value)


@pytest.mark.usefixtures("unchecked")
def test_bad_settings_are_named() -> None:
    for scale in (-0.1, math.nan, math.inf):
        with pytest.raises(PgdiffError, match="`scale`"):
            Guidance(objective=bumpy, scale=scale)
    wrong: Any = "x1"
    with pytest.raises(PgdiffError, match=r"`gradient_at` must be one of \{denoiser, x, x0\}"):
        Guidance(objective=bumpy, gradient_at=wrong)
    for name in ("factors", "mask"):
        wrong = {name: [1.0, 0.5]}
        with pytest.raises(PgdiffError, match=f"`{name}` must be a Tensor. Got"):
            Guidance(objective=bumpy, **wrong)


@pytest.mark.usefixtures("unchecked")
def test_sizes_that_do_not_fit_the_trajectories_are_named() -> None:
    for sizes, message in (
        ({"factors": torch.ones(3)}, r"`factors` of 'near' must have shape \[2\]. Got \[3\]"),
        ({"mask": torch.ones(6, 4)}, r"`mask` of 'near' must have shape \[3, 4\]. Got \[6, 4\]"),
        ({"mask": torch.ones(4)}, r"`mask` of 'near' must have shape \[3, 4\]. Got \[4\]"),
    ):
        with pytest.raises(PgdiffError, match=message):
            sample(
                lambda x, level: x,
                noise_schedule=SCHEDULES["linear"],
                levels=full_sequence(steps=2, tokens=3),
                shape=(2, 3, 4),
                generators=[generator(0)],
                solver=DDIM(),
                guidance=[Guidance(objective=bumpy, name="near", **sizes)],
            )
