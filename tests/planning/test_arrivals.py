"""Goals that each candidate reaches at its own token."""

from typing import Any

import numpy as np
import pytest
from toys import flat_planner, tiny_model, walk

from pgdiff import Planner
from pgdiff.core.validation import PgdiffError
from pgdiff.diffusion import DDPM, SamplerStep

EPISODES = walk()
MODEL = tiny_model(EPISODES, known=("start_arrival",))
RNG = np.random.default_rng(0)
OBSERVATIONS = RNG.uniform(-1, 1, (3, 4)).astype(np.float32)
GOALS = RNG.uniform(-1, 1, (3, 2)).astype(np.float32)


def make(**options: Any) -> Planner:
    return flat_planner(**({"model": MODEL, "steps": 4, "device": "cpu"} | options))


def test_each_candidate_is_at_the_goal_at_its_token() -> None:
    """This holds during the whole sampling."""
    normal = MODEL.codec.normalizer
    center, scale = normal.center.numpy()[:2], normal.scale.numpy()[:2]
    cases: list[tuple[Any, Any]] = [([2, 5, 4], None), ([1, 2, 3, 4, 5], DDPM()), (None, None)]
    for tokens, solver in cases:
        planner = make(arrivals=tokens, candidates=7, solver=solver)
        seen: list[SamplerStep] = []
        plans = planner.plan_batch(
            OBSERVATIONS, seeds=range(3), condition={"goal": GOALS}, callback=seen.append
        )
        for i, plan in enumerate(plans):
            held = (GOALS[i] - center) / scale
            for j in range(7):
                token = 5 if tokens is None else tokens[j % len(tokens)]
                at_goal = np.abs(plan.candidates[j, :, :2] - GOALS[i]).max(axis=1) < 1e-6
                assert np.flatnonzero(at_goal).tolist() == [token]
                for step in seen:
                    np.testing.assert_allclose(step.x[7 * i + j, token, :2], held, atol=3e-6)


def test_fewer_candidates_than_arrivals_take_the_first() -> None:
    (plan,) = make(arrivals=[4, 2, 1], candidates=2).plan_batch(
        OBSERVATIONS[:1], seeds=[0], condition={"goal": GOALS[:1]}
    )
    for j, token in enumerate((4, 2)):
        np.testing.assert_allclose(plan.candidates[j, token, :2], GOALS[0], atol=1e-6)


def test_a_goal_may_be_given_and_not_held() -> None:
    assert make(arrivals=[2]).condition_keys == ("goal",)
    assert make(hold_goal=False).condition_keys == ()
    loose = tiny_model(EPISODES, known=("start", "start_arrival"))
    planner = make(model=loose, hold_goal=False, arrivals=[2])
    plan = planner.plan(OBSERVATIONS[0], condition={"goal": GOALS[0].tolist()})
    assert np.array_equal(plan.candidates, planner.plan(OBSERVATIONS[0]).candidates)


@pytest.mark.usefixtures("unchecked")
def test_bad_tokens_of_goals_are_named() -> None:
    cases: list[tuple[Any, str]] = [
        ([], r"`tokens` must be indices of tokens, .* Got \[\]"),
        (3, "`tokens` must be indices of tokens, .* Got 3"),
        ("last", "`tokens` must be indices of tokens, .* Got 'last'"),
        ([3, 6], r"`goals.tokens` must be from 1 to 5. Got \[3, 6\]"),
        ([0], "`tokens` must be an integer of at least 1"),
        ([1.5], "`tokens` must be an integer of at least 1"),
    ]
    for tokens, message in cases:
        with pytest.raises(PgdiffError, match=message):
            make(arrivals=tokens)
    with pytest.raises(PgdiffError, match=r"\['start_goal'\], without 'start_arrival'"):
        make(model=tiny_model(EPISODES, known=("start_goal",)), arrivals=[3])
