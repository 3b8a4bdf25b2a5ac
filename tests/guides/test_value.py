"""Guides of a value: gradient in the model's units, logarithm, effect."""

import math
from typing import Any, Literal

import numpy as np
import pytest
import torch
from torch import Tensor
from toys import (
    DOUBLE,
    finite_differences,
    fit,
    flat_model,
    flat_planner,
    generator,
    stir,
    tiny_model,
    walk,
)

from pgdiff import SegmentValue, TrajectoryDiffusion, TransitionValue
from pgdiff.core.validation import PgdiffError
from pgdiff.denoisers import TransformerConfig
from pgdiff.diffusion import LinearSchedule
from pgdiff.guides import Guide, Value, bind
from pgdiff.trajectory import Segment

EPISODES = walk()
TINY = TransformerConfig(width=16, depth=1, heads=2)


def transition_value() -> TransitionValue:
    value = TransitionValue.from_episodes(
        EPISODES, stride=3, discount=0.95, width=16, depth=2, normalizer="standard"
    )
    stir(value).value_network[-1].bias.data.fill_(2.0)  # mostly above 0
    return value.double()


def segment_value() -> SegmentValue:
    value = SegmentValue.from_episodes(
        EPISODES, horizon=6, stride=3, denoiser=TINY, normalizer="standard"
    )
    stir(value).network.token_out.bias.data.fill_(2.0)
    return value.double()


def points() -> tuple[Tensor, Tensor]:
    """Return six trajectories somewhat outside the data, and a level for every token."""
    x = 1.5 * torch.randn(6, 6, 4, generator=generator(3), dtype=DOUBLE)
    level = torch.rand(6, 6, generator=generator(4), dtype=DOUBLE)
    level[:, 0] = 0.0
    return x, level


def test_a_logarithm_of_negative_values_is_refused() -> None:
    for least, fits in [(0.0, True), (-0.5, False)]:
        value = TransitionValue(
            normalizer=transition_value().normalizer, stride=3, width=8, value_range=(least, 1.0)
        )
        assert Value(value, transform="none").transform == "none"
        if fits:
            assert Value(value, transform="log").transform == "log"
            continue
        message = r"`transform` of .*'none'.*-0\.5.*normalize_gradient=plan"
        with pytest.raises(PgdiffError, match=message):
            Value(value, transform="log")


# --------------------------------------------------------------------------------------- gradient


@pytest.mark.parametrize("fields", [("observations",), ("actions", "observations")])
@pytest.mark.parametrize("transform", ["none", "log"])
@pytest.mark.parametrize("kind", ["trace 1", "trace 0.7", "segment"])
def test_the_sampler_gets_the_gradient_of_finite_differences(
    kind: str, transform: Literal["none", "log"], fields: tuple[str, ...]
) -> None:
    """The gradient is a function of normalised tokens in float64, through the denormalisation."""
    model = tiny_model(EPISODES, fields=fields).double()
    x, level = points()
    if len(fields) == 2:
        x = torch.cat([torch.zeros(6, 6, 2, dtype=DOUBLE), x], dim=-1)
    if kind == "segment":
        guide = Value(segment_value(), transform="none")
    else:
        guide = Value(transition_value(), transform="none", td_lambda=float(kind.split()[1]))
    values = bind(guide, model).objective(x, level).detach()
    guide.transform = transform
    guide.floor = values.sort().values[2:4].mean().abs().item()  # half of them are below
    below = int((values < guide.floor).sum())
    assert transform == "none" or 0 < below < 6

    guidance = bind(guide, model)
    assert (
        guidance.gradient_at == ("x" if kind == "segment" else "x0")
        and guidance.scale == guide.scale
    )
    gradient = guidance.gradient(x, level)
    expected = finite_differences(
        lambda gradient_at: guidance.objective(gradient_at, level).detach(), x
    )
    error = ((gradient - expected).norm(dim=(1, 2)) / expected.norm(dim=(1, 2))).max().item()
    print(
        f"\n{kind}, {transform}, {'+'.join(fields)}: relative error {error:.1e}; values "
        f"{values.min():.3f} to {values.max():.3f}, {below} of 6 below the floor"
    )
    assert error < 1e-6
    reach = gradient.norm(dim=(0, 2))
    if kind != "trace 1":
        assert (reach > 0).all()
    if len(fields) == 2:
        assert (gradient[..., :2] == 0).all(), "the value sees no action"


def test_the_chain_rule_of_the_normaliser() -> None:
    """A gradient in raw units times the scale of the normaliser."""
    model = tiny_model(EPISODES).double()
    x, level = points()
    guide = Value(transition_value(), transform="none")
    raw = model.codec.decode(x).observations.requires_grad_(True)
    objective = guide.objective(Segment(observations=raw, stride=3), level)
    (gradient,) = torch.autograd.grad(objective.sum(), raw)
    torch.testing.assert_close(
        bind(guide, model).gradient(x, level), gradient * model.codec.normalizer.scale.double()
    )


class Given(TransitionValue):
    """A value equal to the first feature of the first token."""

    def objective(self, segment: Segment, *, td_lambda: float = 1.0) -> Tensor:
        return segment.observations[:, 0, 0]


@pytest.mark.parametrize("floor", [1e-3, 0.37])
def test_the_logarithm_goes_on_as_its_tangent_below_the_floor(floor: float) -> None:
    value = Given(normalizer=transition_value().normalizer, stride=3)
    guide = Value(value, transform="log", floor=floor)

    def gradient(points: Tensor) -> tuple[Tensor, Tensor]:
        x = points[:, None, None].clone().requires_grad_(True)
        objective = guide.objective(Segment(observations=x, stride=3), torch.zeros(1, 1))
        (gradient,) = torch.autograd.grad(objective.sum(), x)
        return objective.detach(), gradient[:, 0, 0]

    share = torch.tensor([-1e4, -1.0, 0.0, 0.5, 1 - 1e-9, 1, 1 + 1e-9, 2, 1e3], dtype=DOUBLE)
    objective, slope = gradient(share * floor)
    exact = torch.where(share < 1, share - 1, share.clamp(min=1).log()) + math.log(floor)
    torch.testing.assert_close(objective, exact, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(slope, 1 / (floor * share.clamp(min=1)), rtol=1e-12, atol=0)
    print(
        f"\nacross the floor: step {objective[6] - objective[4]:.1e}, slope {slope[4]}, {slope[6]}"
    )
    assert (objective.diff() > 0).all() and torch.isfinite(slope).all()


# ---------------------------------------------------------------------------------------- settings


def test_defaults_follow_the_value() -> None:
    assert Value(transition_value()).gradient_at == "x0"
    assert Value(segment_value()).gradient_at == "x"
    assert Value(segment_value(), gradient_at="x0").gradient_at == "x0"
    assert isinstance(Value(transition_value()), Guide)


def test_a_value_goes_where_the_segment_is() -> None:
    value = transition_value()
    x = torch.zeros(2, 6, 4, device="meta", dtype=DOUBLE)
    level = torch.zeros(1, 6, device="meta", dtype=DOUBLE)
    objective = Value(value).objective(Segment(observations=x, stride=3), level)
    assert objective.device.type == value.device.type == "meta"


@pytest.mark.parametrize(
    ("name", "wrong"),
    [
        ("scale", -1.0),
        ("scale", float("inf")),
        ("transform", "exp"),
        ("td_lambda", 1.5),
        ("td_lambda", -0.1),
        ("floor", 0.0),
        ("gradient_at", "x1"),
        ("value", tiny_model()),
    ],
)
@pytest.mark.usefixtures("unchecked")
def test_bad_settings_are_named(name: str, wrong: Any) -> None:
    with pytest.raises(PgdiffError, match=f"`{name}` must be"):
        Value(**({"value": transition_value()} | {name: wrong}))


def test_a_value_of_other_segments_is_refused_by_the_planner() -> None:
    other = TransitionValue.from_episodes(EPISODES, stride=2, width=16, depth=1)
    planner = flat_planner(tiny_model(EPISODES), guides=[Value(other)], candidates=2, steps=2)
    with pytest.raises(PgdiffError, match=r"`stride` of a segment must equal .* value, 2"):
        planner.plan(np.zeros(4))


# ------------------------------------------------------------------------------------------ effect


@pytest.fixture(scope="module")
def trained() -> tuple[TrajectoryDiffusion, TransitionValue]:
    """Return a briefly trained model and value; the point mass is rewarded near the origin."""
    episodes = walk(episodes=100, length=60)
    model = flat_model(episodes, horizon=6, stride=4, denoiser=TransformerConfig(width=32, depth=2))
    value = TransitionValue.from_episodes(episodes, stride=4, discount=0.9, width=64, depth=1)
    return fit(model, episodes, steps=800), fit(value, episodes, steps=800)


@pytest.mark.slow
@pytest.mark.parametrize("transform", ["none", "log"])
def test_a_learned_value_draws_plans_to_the_reward(
    trained: tuple[TrajectoryDiffusion, TransitionValue], transform: Literal["none", "log"]
) -> None:
    """A larger scale moves plans to the origin and raises their value; the start is fixed."""
    model, value = trained
    starts = np.random.default_rng(0).normal(size=(32, 4)).astype(np.float32)
    starts[:, :2] *= 1.2 / np.linalg.norm(starts[:, :2], axis=1, keepdims=True)
    starts[:, 2:] = 0
    scales = (0.0, 0.5, 2.0) if transform == "log" else (0.0, 1.0, 5.0)
    result = []
    for scale in scales:
        guide = Value(value, scale=scale, transform=transform)
        planner = flat_planner(model, guides=[guide], candidates=4, steps=10)
        plans = planner.plan_batch(starts, seeds=range(32))
        every = np.stack([plan.candidates for plan in plans])
        rewards = np.exp(-np.square(every[..., 1:, :2]).sum(axis=-1)).mean()
        result.append((scale, float(rewards), float(np.mean([plan.scores for plan in plans]))))
        np.testing.assert_allclose(every[:, :, 0], starts[:, None].repeat(4, 1), atol=1e-5)
    for scale, rewards, score in result:
        print(f"\n{transform}, scale {scale}: true reward along plans {rewards:.3f}, J {score:.3f}")
    assert result[0][1] < result[1][1] < result[2][1]
    assert result[0][2] < result[1][2] < result[2][2]


def test_a_clean_estimate_has_level_zero() -> None:
    value = segment_value()
    segment = Segment(observations=torch.rand(2, value.horizon, 4, dtype=DOUBLE), stride=3)
    noisy = torch.full((1, value.horizon), 0.7, dtype=DOUBLE)
    at_x0 = Value(value, gradient_at="x0").objective(segment, noisy)
    assert torch.equal(at_x0, Value(value).objective(segment, 0 * noisy))
    assert not torch.equal(at_x0, Value(value).objective(segment, noisy))


def test_a_value_of_another_schedule_is_refused() -> None:
    with pytest.raises(PgdiffError, match="`noise_schedule` of 'value' must be that of the model"):
        bind(Value(segment_value()), tiny_model(noise_schedule=LinearSchedule()))
