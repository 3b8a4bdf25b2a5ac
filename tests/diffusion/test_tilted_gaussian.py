"""Guidance on a Gaussian, where the tilted law is known."""

import math
from itertools import product
from typing import Any

import pytest
import torch
from oracles import DOUBLE, SCHEDULES, generator, step_law
from tilted import RULES, TOKENS, errors, exact, law, problem, propagated
from torch import Tensor

from pgdiff.core.validation import PgdiffError
from pgdiff.diffusion import (
    DDIM,
    DDPM,
    Guidance,
    Interval,
    Power,
    Resample,
    Score,
    SineBump,
    TrustRegion,
    full_sequence,
    sample,
)
from pgdiff.diffusion.guidance.engine import GuidanceEngine
from pgdiff.diffusion.schedules import factors


def even(steps: int) -> Tensor:
    return full_sequence(steps=steps, tokens=TOKENS).to(DOUBLE)


def test_the_exact_noised_energy_gives_the_tilted_law() -> None:
    for noise_schedule, scale in product(["cosine", "flow"], [0.3, 3.0]):
        data, objective = problem(SCHEDULES[noise_schedule])
        wanted = objective.tilt(data.mean.reshape(-1), data.covariance, scale)
        guide = Guidance(
            objective=exact(data, objective, scale),
            gradient_at="x",
            rule=Score(floor=1e-12),
            scale=scale,
        )
        found = [errors(law(data, even(steps), [guide]), wanted, data) for steps in (80, 160, 320)]
        for part, name in enumerate(("mean", "covariance")):
            slope = math.log2(found[1][part] / found[2][part])
            parts = [f[part] for f in found]
            print(f"\n{noise_schedule}, scale {scale}: {name} {parts}, order {slope:.2f}")
            assert 0.9 < slope < 1.15
            assert found[2][part] < 0.02


def test_each_rule_has_the_law_of_its_formula() -> None:
    for rule, scale in product(RULES, [0.05, 1.0]):
        data, objective = problem()
        guide = Guidance(objective=objective, scale=scale, **RULES[rule])
        found = law(data, even(20), [guide])
        wanted = propagated(data, even(20), objective, scale, rule)
        for one, other in zip(found, wanted, strict=True):
            assert float((one - other).norm() / other.norm()) < 1e-9


def test_the_score_through_the_denoiser_is_right_to_first_order_in_the_scale() -> None:
    data, objective = problem()
    found = []
    for scale in (0.02, 0.01):
        wanted = objective.tilt(data.mean.reshape(-1), data.covariance, scale)
        guide = Guidance(objective=objective, gradient_at="denoiser", scale=scale)
        plain = law(data, even(200), [])
        mean, _ = law(data, even(200), [guide])
        # The solver has this error without guidance too.
        found.append(float((mean - plain[0] - (wanted[0] - data.mean.reshape(-1))).norm()))
    moved = 0.01 * float((data.covariance @ objective.pull @ objective.goal).norm())
    print(f"\nerror of the move: {found}, moved {moved:.3g}")
    assert found[1] < 0.05 * moved


def particles(
    count: int,
    groups: int,
    scale: float,
    *,
    resample: Resample | None,
    solver: Any,
    gradient_at: Any,
) -> Tensor:
    data, objective = problem()
    return sample(
        data.denoise,
        noise_schedule=data.noise_schedule,
        levels=even(20),
        shape=(count * groups, *data.mean.shape),
        generators=[generator(seed) for seed in range(groups)],
        solver=solver,
        guidance=[Guidance(objective=objective, gradient_at=gradient_at, scale=scale)],
        particles=resample,
        dtype=DOUBLE,
    ).reshape(groups, count, -1)


@pytest.mark.parametrize("gradient_at", ["x0", "denoiser"])
@pytest.mark.parametrize("solver", [DDPM(), DDIM(eta=0.7)])
@pytest.mark.parametrize("threshold", [0.5, 1.0])
def test_resampling_removes_the_bias(gradient_at: str, solver: Any, threshold: float) -> None:
    data, objective = problem()
    scale, count, groups = 1.5, 400, 30
    mean, covariance = step_law(data, even(20), solver)  # without guidance
    wanted = objective.tilt(mean, covariance, scale)
    settings: dict[str, Any] = {"solver": solver, "gradient_at": gradient_at}
    drawn = particles(count, groups, scale, resample=Resample(threshold=threshold), **settings)
    plain = particles(count, groups, scale, resample=None, **settings)
    # Groups are independent; moments of one group are averaged.
    for name, found, exact_value in (
        ("mean", lambda x: x.mean(dim=1), wanted[0]),
        ("second moment", lambda x: x.square().mean(dim=1), wanted[0] ** 2 + wanted[1].diag()),
    ):
        per_group = found(drawn)
        error = per_group.std(dim=0) / math.sqrt(groups)
        z = ((per_group.mean(dim=0) - exact_value) / error).abs()
        biased = ((found(plain).mean(dim=0) - exact_value) / error).abs()
        print(f"\n{name}: largest z {float(z.max()):.1f}, without resampling {biased.max():.1f}")
        # A bias of 1/count remains, due to the number of particles.
        assert float(z.max()) < 4.5
    assert float(biased.max()) > 10


def test_particles_of_a_generator_do_not_depend_on_the_others() -> None:
    settings: dict[str, Any] = {"resample": Resample(), "solver": DDPM(), "gradient_at": "x0"}
    three, again = (particles(16, 3, 1.0, **settings) for _ in range(2))
    one = particles(16, 1, 1.0, **settings)
    assert torch.equal(three, again)
    assert torch.equal(three[:1], one)


def test_resampling_refuses_what_has_no_density() -> None:
    for solver in (DDIM(), DDIM(eta=0.0)):
        with pytest.raises(PgdiffError, match=r"`solver` must draw noise in every step"):
            particles(4, 1, 1.0, resample=Resample(), solver=solver, gradient_at="x0")
    with pytest.raises(PgdiffError, match=r"`threshold` must be a number in \(0.0, 1.0\]"):
        Resample(threshold=0.0)
    data, objective = problem()
    with pytest.raises(PgdiffError, match=r"`rule` of 'guide' must move the clean estimate"):
        sample(
            data.denoise,
            noise_schedule=data.noise_schedule,
            levels=even(4),
            shape=(4, TOKENS, 2),
            generators=[generator(0)],
            solver=DDPM(),
            guidance=[Guidance(objective=objective, **RULES["policy-guided at x"])],
            particles=Resample(),
        )


# ----------------------------------------------------------------------------------- trust region


def test_a_trust_region_limits_every_move_and_leaves_small_ones() -> None:
    data, objective = problem()
    levels = even(12)
    for per in ("token", "plan"):
        for region in (
            TrustRegion(radius=0.3, nats=None, per=per),
            TrustRegion(radius=None, nats=0.1, per=per),
            TrustRegion(radius=0.3, nats=0.1, per=per),
        ):
            for scale in (1e-6, 1e4):
                steps: list[Any] = []
                sample(
                    data.denoise,
                    noise_schedule=data.noise_schedule,
                    levels=levels,
                    shape=(5, *data.mean.shape),
                    generators=[generator(0)],
                    solver=DDIM(),
                    guidance=[Guidance(objective=objective, scale=scale)],
                    trust_region=region,
                    callback=steps.append,
                    dtype=DOUBLE,
                )
                for step in steps:
                    if scale < 1:
                        assert (step.trace.kept == 1).all()
                        continue
                    alpha, sigma = factors(data.noise_schedule, step.level)
                    if region.nats is not None:
                        move = step.x0_hat - step.trace.free
                        left = sigma**2 / (alpha**2 + sigma**2)
                        dims = (2,) if per == "token" else (1, 2)
                        lost = (move.square() / (2 * left)).mean(dim=dims)
                        assert float(lost.max()) < region.nats * (1 + 1e-9)
                    # In pure noise no move is long compared to the denoiser's step.
                    if region.nats is not None or step.row > 1:
                        assert (step.trace.kept < 1).all()


def test_a_share_of_the_denoisers_own_step() -> None:
    """`radius` holds in one step by hand: alpha |move| <= radius |x - alpha x0_hat| per token."""
    data, objective = problem()
    level, level_to = torch.full((1, TOKENS), 0.5, dtype=DOUBLE), torch.full((1, TOKENS), 0.4)
    x = torch.randn(6, *data.mean.shape, generator=generator(1), dtype=DOUBLE)
    guide = Guidance(objective=objective, scale=1e3)
    steering = GuidanceEngine(
        [guide], noise_schedule=data.noise_schedule, trust_region=TrustRegion(radius=0.2, nats=None)
    )
    free = data.denoise(x, level)
    moved = steering.estimate(data.denoise, x, level, level_to.to(DOUBLE)) - free
    alpha = data.noise_schedule.alpha(level)[..., None]
    share = (alpha * moved).norm(dim=2) / (x - alpha * free).norm(dim=2)
    # The objective pulls only the third token in both features, and all in at least one.
    assert torch.allclose(share, torch.full_like(share, 0.2), rtol=1e-9)
    direction = guide.gradient(free, level)
    cosine = torch.nn.functional.cosine_similarity(moved, direction, dim=2)
    assert torch.allclose(cosine, torch.ones_like(cosine))


@pytest.mark.parametrize("per", ["token", "plan"])
def test_tokens_that_wait_do_not_count(per: Any) -> None:
    """Guidance has its share in the step of moving tokens, however much noise others hold."""
    data, objective = problem()
    level = torch.linspace(0.3, 1.0, TOKENS, dtype=DOUBLE)[None]
    level_to = torch.where(level < 0.5, 0.9 * level, level)
    moving = (level_to < level)[0]
    x = torch.randn(6, *data.mean.shape, generator=generator(1), dtype=DOUBLE)
    region = TrustRegion(radius=0.2, nats=None, per=per)
    steering = GuidanceEngine(
        [Guidance(objective=objective, scale=1e3)],
        noise_schedule=data.noise_schedule,
        trust_region=region,
    )
    free = data.denoise(x, level)
    moved = (steering.estimate(data.denoise, x, level, level_to) - free)[:, moving]
    alpha = data.noise_schedule.alpha(level)[..., None][:, moving]
    dims = (2,) if per == "token" else (1, 2)
    free_step = (x[:, moving] - alpha * free[:, moving]).square().sum(dim=dims)
    share = ((alpha * moved).square().sum(dim=dims) / free_step).sqrt()
    torch.testing.assert_close(share, torch.full_like(share, 0.2))


def test_a_large_scale_degrades_gently_in_a_trust_region() -> None:
    """Without a region the sampled mean runs away with the scale; with it, it stays in the data."""
    data, objective = problem()

    def distance(scale: float, region: TrustRegion | None) -> float:
        x = sample(
            data.denoise,
            noise_schedule=data.noise_schedule,
            levels=even(20),
            shape=(200, *data.mean.shape),
            generators=[generator(0)],
            solver=DDIM(),
            guidance=[Guidance(objective=objective, scale=scale)],
            trust_region=region,
            dtype=DOUBLE,
        )
        return float((x - data.mean).square().mean().sqrt())

    # Overshooting alternates the sign at every step, by a factor of the scale.
    assert distance(100.0, None) > 100
    assert distance(100.0, TrustRegion()) < 3


# -------------------------------------------------------------------------------------- schedules


def test_schedules_of_the_scale() -> None:
    level = torch.linspace(0, 1, 11, dtype=DOUBLE)[None]
    assert Interval(low=0.25, high=0.75).factor(level, row=0, rows=4).tolist() == [
        [0, 0, 0, 1, 1, 1, 1, 1, 0, 0, 0]
    ]
    assert torch.allclose(Power(exponent=2.0).factor(level, row=0, rows=4), level**2)
    bump = [float(SineBump().factor(level, row=row, rows=256)[0, 0]) for row in range(256)]
    assert bump[0] == pytest.approx(1 + 0.3 * math.sin(math.pi / 256))
    assert bump[128] == pytest.approx(0.5 + 0.3 * math.sin(math.pi * 129 / 256))
    assert bump[224] == pytest.approx(0.24, abs=0.01)  # as published by the code of the paper
    assert bump[255] == 0.0
    with pytest.raises(PgdiffError, match=r"`low` must be below `high`"):
        Interval(low=0.5, high=0.5)
    with pytest.raises(PgdiffError, match=r"`radius` or `nats` must be given"):
        TrustRegion(radius=None, nats=None)


def test_masks_and_norms() -> None:
    _, objective = problem()
    gradient = torch.randn(4, TOKENS, 2, generator=generator(0), dtype=DOUBLE)
    mask = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 0.0]])
    by_step = Guidance(objective=objective, normalize_gradient="step", mask=mask).direction(
        gradient
    )
    assert (by_step[:, :, 1] == 0).all() and (by_step[:, 2] == 0).all()
    assert torch.allclose(by_step[:, :2, 0].abs(), torch.ones(4, 2, dtype=DOUBLE))
    by_plan = Guidance(objective=objective, normalize_gradient="plan").direction(gradient)
    assert torch.allclose(by_plan.flatten(1).norm(dim=1), torch.ones(4, dtype=DOUBLE))
    still = Guidance(objective=objective, normalize_gradient="plan").direction(
        torch.zeros_like(gradient)
    )
    assert (still == 0).all()


def test_a_rule_refuses_a_place_that_it_does_not_know() -> None:
    _, objective = problem()
    for rule, gradient_at in (("diffuser at x", "denoiser"), ("diffusion forcing", "x0")):
        settings = RULES[rule] | {"gradient_at": gradient_at}
        with pytest.raises(PgdiffError, match=r"`gradient_at` of 'guide' must be one of"):
            Guidance(objective=objective, **settings)


def test_guides_that_share_a_pass_through_the_denoiser_add_up() -> None:
    """Three guides at "denoiser" move by the sum of their single moves, in one backward pass."""
    data, objective = problem()
    passes = []

    class Counted(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Tensor) -> Tensor:
            return x.clone()

        @staticmethod
        def backward(ctx: Any, gradient: Tensor) -> Tensor:
            passes.append(1)
            return gradient

    def denoise(x: Tensor, level: Tensor) -> Tensor:
        out: Tensor = Counted.apply(data.denoise(x, level))
        return out

    guides = [
        Guidance(objective=objective, gradient_at="denoiser", scale=scale)
        for scale in (0.5, 1.0, 2.0)
    ]
    x = torch.randn(4, *data.mean.shape, generator=generator(2), dtype=DOUBLE)
    level = torch.full((1, TOKENS), 0.6, dtype=DOUBLE)

    def move(guidance: list[Guidance]) -> Tensor:
        steering = GuidanceEngine(guidance, noise_schedule=data.noise_schedule)
        return steering.estimate(denoise, x, level, level / 2) - data.denoise(x, level)

    alone = sum((move([guide]) for guide in guides), torch.zeros_like(x))
    passes.clear()
    assert torch.allclose(move(guides), alone, rtol=1e-9, atol=1e-12)
    assert len(passes) == 1
