"""Guides of a value of goals: required goals, gradient, effect."""

from pathlib import Path

import numpy as np
import pytest
import torch
from toys import (
    DOUBLE,
    finite_differences,
    fit,
    flat_load,
    flat_model,
    flat_planner,
    generator,
    stir,
    tiny_model,
    walk,
)

from pgdiff import SegmentValue, TransitionValue
from pgdiff.core.validation import PgdiffError
from pgdiff.critics import GoalValue
from pgdiff.denoisers import TransformerConfig
from pgdiff.guides import Value, bind
from pgdiff.runs.stages import Stage
from pgdiff.testing import check_guide
from pgdiff.workflows.train import train_stages

EPISODES = walk()
TINY = TransformerConfig(width=16, depth=1, heads=2)


def goal_value() -> GoalValue:
    value = GoalValue.from_episodes(EPISODES, stride=3, width=16, depth=2, normalizer="standard")
    stir(value).value_network[-1].bias.data.fill_(2.0)  # mostly above 0
    return value


@pytest.mark.parametrize("transform", ["none", "log"])
@pytest.mark.parametrize("gradient_at", ["x0", "x"])
def test_it_is_a_sound_guide(gradient_at: str, transform: str) -> None:
    guide = Value(goal_value(), gradient_at=gradient_at, transform=transform)  # type: ignore[arg-type]
    with pytest.raises(PgdiffError, match="needs a goal"):
        check_guide(guide, tiny_model(EPISODES))
    figures = check_guide(guide, tiny_model(EPISODES), goal=[0.3, -0.2])
    print(f"\nat {gradient_at}, {transform}: {figures}")
    assert figures["gradient"] > 0 and figures["error"] < 1e-5


@pytest.mark.parametrize("goals", [1, 4])
def test_bound_to_goals_it_has_the_gradient_of_finite_differences(goals: int) -> None:
    """The gradient is a function of normalised tokens in float64."""
    model = tiny_model(EPISODES).double()
    goal = torch.randn(goals, 2, generator=generator(5))
    guidance = bind(Value(goal_value().double(), td_lambda=0.7), model, {"goal": goal})
    x = torch.randn(4, 6, 4, generator=generator(3), dtype=DOUBLE)
    level = torch.zeros(1, 6, dtype=DOUBLE)
    gradient = guidance.gradient(x, level)
    expected = finite_differences(
        lambda gradient_at: guidance.objective(gradient_at, level).detach(), x
    )
    torch.testing.assert_close(gradient, expected, rtol=1e-5, atol=1e-7)
    other = bind(Value(goal_value().double(), td_lambda=0.7), model, {"goal": goal + 1})
    assert not torch.allclose(gradient, other.gradient(x, level))


def test_only_a_value_of_goals_needs_them() -> None:
    transition = TransitionValue.from_episodes(EPISODES, stride=3, width=16, depth=1)
    segment = SegmentValue.from_episodes(EPISODES, horizon=6, stride=3, denoiser=TINY)
    assert Value(goal_value()).needs_goal and Value(goal_value()).gradient_at == "x0"
    assert not Value(transition).needs_goal and not Value(segment).needs_goal


@pytest.mark.usefixtures("unchecked")
def test_a_planner_without_a_goal_gets_an_error() -> None:
    guide = Value(goal_value(), name="way")
    planner = flat_planner(tiny_model(EPISODES), guides=[guide], candidates=2, steps=2)
    assert "goal" in planner.condition_keys
    with pytest.raises(PgdiffError, match=r"`goal` must be given.*way"):
        planner.plan(np.zeros(4))
    plan = planner.plan(np.zeros(4), condition={"goal": (0.5, 0.5)})
    assert np.isfinite(plan.scores).all()
    other = planner.plan(np.zeros(4), condition={"goal": (-0.5, 0.5)})
    assert not np.array_equal(plan.scores, other.scores)


def test_plans_go_to_their_goals() -> None:
    """One model and value, opposite goals: a larger scale brings plans nearer to their goals."""
    episodes = walk(episodes=100, length=60)
    model = flat_model(episodes, horizon=6, stride=4, denoiser=TransformerConfig(width=32, depth=1))
    value = GoalValue.from_episodes(
        episodes, stride=4, tolerance=0.3, discount=0.9, width=64, depth=1
    )
    fit(model, episodes, steps=400)
    fit(value, episodes, steps=600, batch_size=128)
    starts = np.zeros((16, 4), np.float32)
    goals = 0.7 * np.tile([[1.0, 0.0], [-1.0, 0.0], [0.0, 1.0], [0.0, -1.0]], (4, 1))
    distances = []
    for scale in (0.0, 3.0, 30.0):
        guide = Value(value, scale=scale)
        planner = flat_planner(model, guides=[guide], candidates=4, steps=8)
        plans = planner.plan_batch(
            starts, seeds=range(16), condition={"goal": goals.astype(np.float32)}
        )
        ends = np.stack([plan.candidates[:, -1, :2] for plan in plans])
        distances.append(float(np.linalg.norm(ends - goals[:, None], axis=-1).mean()))
    print(f"\nmean distance of all candidates' ends to their goals: {distances}")
    assert distances[0] > distances[1] > distances[2]


def test_a_run_with_the_stage_plans_for_goals(tmp_path: Path) -> None:
    settings = {"steps": 4, "batch_size": 4, "validation": 0.2}
    stages = [
        Stage(
            name="model",
            learner="trajectory_diffusion",
            arguments={
                "tokens": {"horizon": 6, "stride": 3},
                "denoiser": {"name": "transformer", "width": 16},
            },
            trainer=settings,
        ),
        Stage(
            name="goal_value",
            learner="goal_value",
            arguments={
                "stride": 3,
                "width": 8,
                "depth": 1,
                "goal_features": [0, 1],
                "tolerance": 0.4,
            },
            trainer=settings,
        ),
    ]
    train_stages(
        EPISODES,
        stages,
        folder=tmp_path / "run",
        task={"name": "walk", "id": "Walk-v0"},
        guides={"goal_value": {"scale": 2.0}},
        guide="goal_value",
        progress=False,
    )
    planner = flat_load(tmp_path / "run", candidates=2, steps=2, device="cpu")
    (guide,) = planner.guides
    assert isinstance(guide, Value) and isinstance(guide.value, GoalValue)
    assert (guide.scale, guide.value.tolerance, guide.value.goal_features) == (2.0, 0.4, (0, 1))
    assert planner.condition_keys == ("goal",)
    assert np.isfinite(planner.plan(np.zeros(4), condition={"goal": (0.5, 0.5)}).scores).all()
