"""Guides of a return, predicted or of generated rewards; tokens with rewards."""

from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from toys import (
    DOUBLE,
    fit,
    flat_model,
    flat_planner,
    flat_sample,
    generator,
    stir,
    tiny_model,
    walk,
)

from pgdiff import Segment, SegmentValue, TrajectoryDiffusion, TransitionValue
from pgdiff.core.validation import PgdiffError
from pgdiff.denoisers import TransformerConfig
from pgdiff.diffusion import LinearSchedule
from pgdiff.guides import Guide, Return, bind
from pgdiff.testing import check_guide
from pgdiff.training.learner import to_tensors

EPISODES = walk()
SMALL = TransformerConfig(width=16, depth=1, heads=2)
REWARDS = ("observations", "rewards")
EARNED = Segment(
    observations=torch.zeros(2, 3, 1, dtype=DOUBLE),
    rewards=torch.tensor([[1.0, 2.0, 4.0], [0.0, -1.0, 8.0]], dtype=DOUBLE)[..., None],
    stride=2,
)
LEVEL = torch.zeros(1, 3)


def segment_value(**options: Any) -> SegmentValue:
    settings = {"horizon": 6, "stride": 3, "denoiser": SMALL, "discount": 0.9} | options
    return stir(SegmentValue.from_episodes(EPISODES, **settings))


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"discount": 1.0}, [7.0, 7.0]),
        ({"discount": 0.5}, [1 + 2 / 4 + 4 / 16, -1 / 4 + 8 / 16]),
        ({"discount": 1.0, "target": 9.0}, [-2.0, -2.0]),
        ({"discount": 1.0, "target": 5.0, "width": 2.0}, [-0.5, -0.5]),
    ],
    ids=str,
)
def test_closed_forms(options: dict[str, Any], expected: list[float]) -> None:
    objective = Return(**options).objective(EARNED, LEVEL)
    torch.testing.assert_close(objective, torch.tensor(expected, dtype=DOUBLE))


def test_a_predicted_return_is_in_units_of_the_rewards() -> None:
    value = segment_value()
    seen = Segment(observations=torch.randn(2, 6, 4, generator=generator(0)), stride=3)
    level = torch.rand(2, 6, generator=generator(1))
    noisy, clean = Return(value), Return(value, gradient_at="x0")
    assert (noisy.gradient_at, clean.gradient_at, Return().gradient_at) == ("x", "x0", "x0")
    torch.testing.assert_close(
        noisy.objective(seen, level), value.objective(seen, level) / (1 - 0.9)
    )
    torch.testing.assert_close(
        clean.objective(seen, level), value.objective(seen, 0 * level) / (1 - 0.9)
    )


def test_it_is_a_sound_guide() -> None:
    rewards = tiny_model(EPISODES, fields=REWARDS)
    for guide, model in (
        (Return(), rewards),
        (Return(target=3.0, gradient_at="x"), rewards),
        (Return(segment_value()), tiny_model(EPISODES)),
        (Return(segment_value(), target=7.0, gradient_at="x0"), tiny_model(EPISODES)),
    ):
        assert isinstance(guide, Guide) and check_guide(guide, model)["error"] < 1e-5


# ------------------------------------------------------------------------- tokens that hold rewards


@pytest.mark.parametrize("fields", [REWARDS, ("rewards", "action_chunks", "observations")])
def test_tokens_hold_the_sum_of_the_rewards_to_the_next(
    fields: tuple[str, ...], tmp_path: Path
) -> None:
    train, _ = EPISODES.split(0.2, seed=0)  # rows outside of episodes do not count
    model = tiny_model(train, fields=fields)
    assert dict(model.codec.layout.fields)["rewards"] == 1
    dataset = model.dataset(train)
    numbers = np.arange(len(dataset))
    batch = dataset.batch(numbers)
    batch = to_tensors(batch, torch.device("cpu"))
    x = model.codec.encode(batch)
    where = model.codec.layout.slices["rewards"]
    assert x[..., where].min() < -0.99 and x.abs().max() < 1 + 1e-5, "limits are those of the sums"
    rewards = model.codec.decode(x).rewards
    assert rewards is not None and rewards.shape == (len(numbers), 6, 1)
    rows, _ = dataset.index.rows(numbers)
    steps = rows[..., None] + np.arange(3)
    inside = steps[:, -1, -1] // 80 == rows[:, 0] // 80
    expected = torch.from_numpy(train.rewards[steps[inside]].sum(axis=-1))
    torch.testing.assert_close(rewards[inside, :, 0], expected, rtol=1e-4, atol=1e-5)
    model.save_pretrained(tmp_path / "model")
    again = TrajectoryDiffusion.from_pretrained(tmp_path / "model", device="cpu")
    assert again.codec.layout == model.codec.layout


@pytest.fixture(scope="module")
def trained() -> TrajectoryDiffusion:
    """Return a briefly trained model of the point mass, which is rewarded near the origin."""
    episodes = walk(episodes=100, length=60)
    model = flat_model(
        episodes,
        horizon=6,
        stride=4,
        fields=REWARDS,
        known=("none",),
        denoiser=TransformerConfig(width=32, depth=1),
    )
    return fit(model, episodes, steps=500)


@pytest.mark.slow
@pytest.mark.parametrize("gradient_at", ["x0", "denoiser"])
def test_what_is_planned_is_earned(trained: TrajectoryDiffusion, gradient_at: Any) -> None:
    """A larger scale raises the planned and the achieved reward. A target is reached."""

    def planned(guide: Return) -> tuple[float, float]:
        x = flat_sample(
            trained,
            batch=128,
            generators=[generator(0)],
            steps=20,
            guidance=[bind(guide, trained)],
        )
        segment = trained.codec.decode(x)
        assert segment.rewards is not None
        there = (-segment.observations[..., :2].square().sum(dim=-1)).exp()
        return float(segment.rewards.sum(dim=1).mean()), float(4 * there.sum(dim=1).mean())

    result = [
        planned(Return(discount=1.0, scale=s, gradient_at=gradient_at)) for s in (0.0, 0.05, 0.3)
    ]
    print(f"\nat {gradient_at}: planned and true returns at scales 0, 0.05, 0.3: {result}")
    for one, other in pairwise(result):
        assert other[0] > one[0] and other[1] > one[1]
    to_target = Return(target=6.0, width=1.0, discount=1.0, scale=1.0, gradient_at=gradient_at)
    met = planned(to_target)
    print(f"target 6: planned and true {met}")
    assert abs(met[0] - 6) < 1 < abs(result[0][0] - 6)


class Hold:
    """A controller that does nothing."""

    def act(self, observation: Any, waypoint: Any, steps_left: Any) -> np.ndarray:
        return np.zeros((len(observation), 2), np.float32)


def test_a_plan_of_such_a_model_is_not_kept() -> None:
    model = tiny_model(EPISODES, fields=REWARDS)
    settings: dict[str, Any] = {"candidates": 2, "steps": 2, "replan_every": 1}
    planner = flat_planner(model, guides=[Return()], controller=Hold(), keep_plan=True, **settings)
    _, state = planner.predict(np.zeros(4))
    with pytest.raises(PgdiffError, match=r"must not hold 'rewards' .*`keep_previous`"):
        planner.predict(np.zeros(4), state)


# -------------------------------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"value": TransitionValue.from_episodes(EPISODES, stride=3)}, "`value` must be a Segment"),
        ({"target": float("nan")}, "`target` must be a number"),
        ({"width": 0.0}, "`width` must be a number"),
        ({"discount": 1.1}, "`discount` must be a number"),
        ({"scale": -1.0}, "`scale` must be"),
        ({"gradient_at": "noise"}, "`gradient_at` must be one of"),
    ],
)
def test_bad_settings_are_named(options: dict[str, Any], message: str) -> None:
    with pytest.raises(PgdiffError, match=message):
        Return(**options)


def test_a_model_that_does_not_fit_is_refused() -> None:
    with pytest.raises(PgdiffError, match=r"`discount` must be None .* whose own is 0.9"):
        Return(segment_value(), discount=0.99)
    with pytest.raises(PgdiffError, match="`fields` of the model must hold 'rewards' for 'return'"):
        flat_planner(tiny_model(EPISODES), guides=[Return()])
    with pytest.raises(PgdiffError, match="`fields` of the model must hold 'rewards'"):
        Return().objective(Segment(observations=EARNED.observations), LEVEL)
    guide = Return(segment_value())
    for options, message in (
        ({"stride": 2}, "`stride` of the model must be that of the value of 'return', 3. Got 2"),
        ({"horizon": 5}, "`horizon` of the model must be that of the value of 'return', 6. Got 5"),
        (
            {"noise_schedule": LinearSchedule()},
            "`noise_schedule` of 'return' must be that of the model",
        ),
    ):
        with pytest.raises(PgdiffError, match=message):
            flat_planner(tiny_model(EPISODES, **options), guides=[guide])
