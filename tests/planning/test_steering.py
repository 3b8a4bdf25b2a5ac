"""A planner's trust region, resampling and guides that share a pass through its denoiser."""

from typing import Any

import numpy as np
import pytest
import torch
from toys import flat_planner, stir, tiny_model, walk

from pgdiff import Planner, TransitionValue
from pgdiff.core.validation import PgdiffError
from pgdiff.denoisers import TransformerConfig
from pgdiff.diffusion import DDPM, Resample, SamplerStep, TrustRegion
from pgdiff.guides import Goal, Value
from pgdiff.runs.load import planner_arguments, planner_defaults

EPISODES = walk()
MODEL = tiny_model(EPISODES, denoiser=TransformerConfig(width=16, depth=1, heads=2))
with torch.no_grad():
    MODEL.network.token_out.weight.normal_(std=0.1, generator=torch.Generator().manual_seed(0))
VALUE = stir(TransitionValue.from_episodes(EPISODES, stride=3, width=16, depth=1))
OBSERVATIONS = np.random.default_rng(0).uniform(-1, 1, (6, 4)).astype(np.float32)
GOAL = Goal((0.5, -0.5), scale=5.0)


def make(**options: Any) -> Planner:
    return flat_planner(**({"model": MODEL, "candidates": 8, "steps": 6, "clip": None} | options))


def test_a_narrower_trust_region_stays_nearer_to_the_unguided_plan() -> None:
    plain = make(candidates=1).plan(OBSERVATIONS[0], seed=3).observations
    distance = []
    for radius in (0.01, 0.1, 1.0):
        region = TrustRegion(radius=radius, nats=radius)
        plan = make(candidates=1, guides=[GOAL], trust_region=region).plan(OBSERVATIONS[0], seed=3)
        distance.append(float(np.abs(plan.observations - plain).mean()))
    far = make(candidates=1, guides=[GOAL]).plan(OBSERVATIONS[0], seed=3).observations
    distance.append(float(np.abs(far - plain).mean()))
    print(f"\nmean distance from the unguided plan: {distance}")
    assert 0 < distance[0] < distance[1] < distance[2] <= distance[3]


def test_resampled_plans_are_each_environments_own_and_score_higher() -> None:
    settings: dict[str, Any] = {"guides": [GOAL], "solver": DDPM(), "candidates": 32}
    planner = make(resample=Resample(), **settings)
    together = planner.plan_batch(OBSERVATIONS, seeds=range(6))
    alone = [planner.plan(observation, seed=seed) for seed, observation in enumerate(OBSERVATIONS)]
    for one, other in zip(together, alone, strict=True):
        np.testing.assert_allclose(one.candidates, other.candidates, atol=1e-4)
    unguided = make(**(settings | {"guides": [Goal((0.5, -0.5), scale=0.0)]}))
    before = np.mean(
        [plan.scores.mean() for plan in unguided.plan_batch(OBSERVATIONS, seeds=range(6))]
    )
    after = np.mean([plan.scores.mean() for plan in together])
    assert after > before
    # Some candidates are drawn more than once.
    assert any(len(np.unique(plan.candidates, axis=0)) < 32 for plan in together)


def test_the_trace_reports_the_moves_of_a_pass_through_the_denoiser() -> None:
    steps: list[SamplerStep] = []
    value = Value(VALUE, scale=0.5, gradient_at="denoiser", transform="none", name="value")
    goal = Goal((0.5, -0.5), scale=0.5, gradient_at="denoiser")
    make(guides=[value, goal]).plan(OBSERVATIONS[0], seed=1, callback=steps.append)
    assert len(steps) == 6
    for step in steps:
        assert [push.name for push in step.trace.pushes] == ["value", "goal"]
        assert step.x0_hat is not None and step.trace.free is not None
        known = MODEL.codec.pattern("start")
        parts = torch.stack([step.trace.free, *(push.move for push in step.trace.pushes)])
        off = (step.x0_hat - parts.sum(dim=0)).abs()
        # Up to rounding, by the size of the summands: such scales push far.
        assert (off <= 1e-5 + 1e-5 * parts.abs().sum(dim=0))[:, ~known].all()
        assert step.trace.kept is None


def test_settings_stand_for_both() -> None:
    region = {"name": "own_step", "radius": 0.2, "nats": None}
    settings = planner_defaults({"sampling": {"trust_region": region, "particles": "twisted"}})
    found = planner_arguments(settings)["sampling"]
    assert found.trust_region == TrustRegion(radius=0.2, nats=None)
    assert found.particles == Resample()
    off = planner_defaults({"sampling": {"trust_region": None}})
    assert planner_arguments(off)["sampling"].trust_region is None


def test_bad_parts_are_refused() -> None:
    wrong: Any = 0.5
    with pytest.raises(PgdiffError, match=r"`trust_region` must be a TrustRegion\. Got 0\.5"):
        make(trust_region=wrong)
    with pytest.raises(PgdiffError, match=r"`particles` must be a Resample\. Got 0\.5"):
        make(resample=wrong)
    with pytest.raises(PgdiffError, match=r"`solver` must draw noise in every step"):
        make(resample=Resample(), guides=[GOAL])
    with pytest.raises(PgdiffError, match=r"`radius` must be a number"):
        TrustRegion(radius=float("nan"))
