"""Goals that each candidate reaches at a token of its own."""

from typing import Any

import numpy as np
import pytest
from toys import tiny_model, walk

from pgdiff import Planner
from pgdiff.diffusion import DDPM, SamplerStep
from pgdiff.validation import PgdiffError

EPISODES = walk()
MODEL = tiny_model(EPISODES, known=("start_arrival",))
RNG = np.random.default_rng(0)
OBSERVATIONS = RNG.uniform(-1, 1, (3, 4)).astype(np.float32)
GOALS = RNG.uniform(-1, 1, (3, 2)).astype(np.float32)


def make(**options: Any) -> Planner:
    return Planner(**({"model": MODEL, "steps": 4, "device": "cpu"} | options))


@pytest.mark.parametrize("arrivals", [[3], [2, 5, 4], [1, 2, 3, 4, 5], None])
@pytest.mark.parametrize("solver", [None, DDPM()], ids=["dpm", "ddpm"])
def test_each_candidate_is_at_the_goal_at_its_token(arrivals: Any, solver: Any) -> None:
    planner = make(arrivals=arrivals, candidates=7, solver=solver)
    seen: list[SamplerStep] = []
    plans = planner.plan_batch(OBSERVATIONS, seeds=range(3), goals=GOALS, callback=seen.append)
    normal = MODEL.normalizer
    for i, plan in enumerate(plans):
        for j in range(7):
            token = 5 if arrivals is None else arrivals[j % len(arrivals)]
            at_goal = np.abs(plan.candidates[j, :, :2] - GOALS[i]).max(axis=1) < 1e-6
            assert np.flatnonzero(at_goal).tolist() == [token]
            held = ((GOALS[i] - normal.center.numpy()[:2]) / normal.scale.numpy()[:2]).round(6)
            for step in seen:  # not only in the end
                np.testing.assert_allclose(step.x[7 * i + j, token, :2].numpy(), held, atol=2e-6)


def test_fewer_candidates_than_arrivals_take_the_first() -> None:
    (plan,) = make(arrivals=[4, 2, 1], candidates=2).plan_batch(
        OBSERVATIONS[:1], seeds=[0], goals=GOALS[:1]
    )
    for j, token in enumerate((4, 2)):
        np.testing.assert_allclose(plan.candidates[j, token, :2], GOALS[0], atol=1e-6)


def test_a_goal_may_be_told_and_not_held() -> None:
    assert make(arrivals=[2]).wants_goal and not make(hold_goal=False).wants_goal
    loose = tiny_model(EPISODES, known=("start", "start_arrival"))
    planner = make(model=loose, hold_goal=False, arrivals=[2])
    told = planner.plan(OBSERVATIONS[0], goal=GOALS[0].tolist())
    assert np.array_equal(told.candidates, planner.plan(OBSERVATIONS[0]).candidates)


@pytest.mark.parametrize(
    ("arrivals", "message"),
    [
        ([], r"`arrivals` must be tokens in 1 to 5. Got \[\]"),
        ([3, 6], r"`arrivals` must be tokens in 1 to 5. Got \[3, 6\]"),
        ([0], "`arrivals` must be an integer of at least 1"),
        ([1.5], "`arrivals` must be an integer of at least 1"),
    ],
)
@pytest.mark.usefixtures("unchecked")
def test_bad_arrivals_are_named(arrivals: Any, message: str) -> None:
    with pytest.raises(PgdiffError, match=message):
        make(arrivals=arrivals)
    with pytest.raises(PgdiffError, match=r"\['start_goal'\], without 'start_arrival'"):
        make(model=tiny_model(EPISODES, known=("start_goal",)), arrivals=[3])
