"""Plans: their content, independence of environments, and refusals."""

from contextlib import nullcontext
from typing import Any

import numpy as np
import pytest
import torch
from toys import flat_planner, record, stir, tiny_model, walk

from pgdiff import Planner, SegmentValue, TransitionValue
from pgdiff.core.validation import PgdiffError
from pgdiff.denoisers import TransformerConfig
from pgdiff.diffusion import DDPM, Consistency, SamplerStep
from pgdiff.guides import Guide, Value

EPISODES = walk()
MODEL = tiny_model(EPISODES)
BOTH = tiny_model(EPISODES, fields=("observations", "actions"))
GOALS = tiny_model(EPISODES, known=("start", "start_goal"))
WIDE = tiny_model(EPISODES, denoiser=TransformerConfig())
with torch.no_grad():
    WIDE.network.token_out.weight.mul_(0.02)
VALUE = stir(TransitionValue.from_episodes(EPISODES, stride=3, width=16, depth=1))
NOISY_VALUE = stir(
    SegmentValue.from_episodes(
        EPISODES, horizon=6, stride=3, denoiser=TransformerConfig(width=16, depth=1)
    )
)
OBSERVATIONS = np.random.default_rng(0).uniform(-1, 1, (8, 4)).astype(np.float32)
GUIDES: dict[str, list[Guide]] = {
    "none": [],
    "transition": [Value(VALUE, scale=0.02)],
    "segment": [Value(NOISY_VALUE, scale=0.05, transform="none")],
    "both": [Value(VALUE, scale=0.02), Value(NOISY_VALUE, scale=0.05, transform="none")],
}


def make(**options: Any) -> Planner:
    return flat_planner(**({"model": MODEL, "candidates": 4, "steps": 5} | options))


# ------------------------------------------------------------------------------------- batch, seeds


@pytest.mark.parametrize(
    ("guides", "options"),
    [
        ("none", {"solver": DDPM()}),
        ("transition", {"model": BOTH}),
        ("segment", {"clip": None}),
        ("both", {}),
        ("both", {"model": WIDE, "candidates": 16}),
    ],
    ids=["ddpm", "actions", "no clip", "both", "wide"],
)
def test_a_plan_does_not_depend_on_other_plans_of_the_call(
    guides: str, options: dict[str, Any]
) -> None:
    planner = make(guides=GUIDES[guides], **options)
    seeds = range(100, 108)
    together = planner.plan_batch(OBSERVATIONS, seeds=seeds)
    alone = [
        planner.plan(observation, seed=seed)
        for observation, seed in zip(OBSERVATIONS, seeds, strict=True)
    ]
    difference = max(
        float(np.abs(a.candidates - b.candidates).max())
        for a, b in zip(together, alone, strict=True)
    )
    print(f"\nguides {guides}: plan in a batch of 8, alone: largest difference {difference:.1e}")
    assert difference < 1e-4
    every = torch.from_numpy(np.stack([plan.candidates for plan in together]))
    inside = float((MODEL.codec.normalizer.normalize(every).abs() < 0.99).float().mean())
    assert inside > 0.8, "at the sampler's limits differences would be hidden"
    assert [plan.best for plan in together] == [plan.best for plan in alone]
    assert planner.plans_made == 16
    backwards = planner.plan_batch(OBSERVATIONS[::-1], seeds=seeds[::-1])[::-1]
    for a, b in zip(together, backwards, strict=True):
        np.testing.assert_allclose(a.candidates, b.candidates, atol=1e-4)


def test_same_seed_same_plan() -> None:
    planner = make(guides=GUIDES["transition"], seed=3)
    before = torch.random.get_rng_state()
    first = planner.plan(OBSERVATIONS[0])
    for again in (
        planner.plan(OBSERVATIONS[0]),
        make(guides=GUIDES["transition"]).plan(OBSERVATIONS[0], seed=3),
    ):
        assert np.array_equal(first.candidates, again.candidates)
        assert np.array_equal(first.scores, again.scores)
    other = planner.plan(OBSERVATIONS[0], seed=4)
    assert np.abs(first.candidates[:, 1:] - other.candidates[:, 1:]).mean() > 0.1
    assert torch.equal(before, torch.random.get_rng_state())


def test_candidates_differ() -> None:
    plan = make().plan(OBSERVATIONS[0])
    spread = plan.candidates.std(axis=0)
    assert (spread[0] == 0).all() and (spread[1:] > 0).all()


# ------------------------------------------------------------------------------------------ content


@pytest.mark.parametrize("guides", ["transition", "both"])
def test_the_best_is_that_of_highest_score(guides: str) -> None:
    for plan in make(guides=GUIDES[guides]).plan_batch(OBSERVATIONS, seeds=range(8)):
        assert plan.scores.shape == (4,) and np.isfinite(plan.scores).all()
        assert plan.best == int(np.argmax(plan.scores))
        assert np.array_equal(plan.observations, plan.candidates[plan.best])
        assert plan.candidates.shape == (4, 6, 4) and plan.stride == 3
        assert plan.actions is None and plan.goal is None


def test_without_a_guide_the_first_is_taken() -> None:
    plan = make().plan(OBSERVATIONS[0])
    assert plan.best == 0 and np.isnan(plan.scores).all()
    assert np.array_equal(plan.observations, plan.candidates[0])


def test_actions_go_with_the_chosen_candidate() -> None:
    planner = make(model=BOTH, guides=GUIDES["transition"])
    plan = planner.plan(OBSERVATIONS[0])
    seen: list[SamplerStep] = []
    planner.plan(OBSERVATIONS[0], callback=seen.append)
    segment = BOTH.codec.decode(seen[-1].x)
    assert plan.actions is not None and segment.actions is not None
    assert np.array_equal(plan.actions, segment.actions[plan.best].numpy())
    assert np.array_equal(plan.observations, segment.observations[plan.best].numpy())
    assert len(seen) == 5 and seen[0].x.shape == (4, 6, 6)


def test_plans_begin_at_the_observation() -> None:
    """This is exact up to rounding, even far outside of the data, where `clip` has no effect."""
    for scale in (1.0, 30.0):
        far = pytest.warns(UserWarning, match=r"Feature \d of `observation` is far outside .* data")
        with far if scale > 1 else nullcontext():
            plans = make(guides=GUIDES["both"]).plan_batch(scale * OBSERVATIONS, seeds=range(8))
        error = max(
            float(np.abs(plan.candidates[:, 0] - scale * here).max())
            for plan, here in zip(plans, OBSERVATIONS, strict=True)
        )
        print(f"\nfirst way-point against an observation of size {scale}: {error:.1e}")
        assert error < 1e-6 * scale


def test_far_observations_are_named_once() -> None:
    planner = make()
    planner.plan_batch(OBSERVATIONS, seeds=range(8))
    far = OBSERVATIONS.copy()
    far[5, 2] = 1e4
    with pytest.warns(UserWarning, match=r"Feature 2 .*1e\+04 for environment 5, where"):
        planner.plan_batch(far, seeds=range(8))
    planner.plan_batch(far, seeds=range(8))  # a second warning would be an error


@pytest.mark.parametrize("normalizer", ["limits", "standard"])
def test_a_feature_that_was_constant_is_far_where_it_differs(normalizer: str) -> None:
    episodes = walk()
    observations = np.array(episodes.observations)
    observations[:, 3] = 5.0
    actions, rewards = episodes.actions, episodes.rewards
    still = record(observations, actions, rewards, lengths=[80] * 6)
    planner = make(model=tiny_model(still, normalizer=normalizer))
    here = observations[:2].copy()
    planner.plan_batch(here + 1e-6, seeds=[0, 1])
    here[1, 3] = 5.5
    with pytest.warns(UserWarning, match=r"Feature 3 .* 5.5 for environment 1, .* 5 throughout"):
        planner.plan_batch(here, seeds=[0, 1])


def test_a_scale_of_zero_chooses_among_unguided_candidates() -> None:
    unguided = make().plan(OBSERVATIONS[0])
    chosen = make(guides=[Value(VALUE, scale=0.0)]).plan(OBSERVATIONS[0])
    steered = make(guides=[Value(VALUE, scale=0.02)]).plan(OBSERVATIONS[0])
    assert np.array_equal(unguided.candidates, chosen.candidates)
    assert np.isfinite(chosen.scores).all() and chosen.best == int(np.argmax(chosen.scores))
    assert not np.array_equal(unguided.candidates, steered.candidates)


def test_a_goal_is_where_the_plan_ends() -> None:
    plan = make(model=GOALS).plan(OBSERVATIONS[0], condition={"goal": (0.5, -0.25)})
    np.testing.assert_allclose(plan.candidates[:, -1, :2], [[0.5, -0.25]] * 4, atol=1e-5)
    assert plan.goal is not None and plan.goal.tolist() == [0.5, -0.25]
    with pytest.warns(UserWarning, match="start_goal"):
        make().plan(OBSERVATIONS[0], condition={"goal": (0.5, -0.25)})


def test_clip_bounds_the_plan_in_normalised_units() -> None:
    for clip in (0.1, 0.5, None):
        plan = make(clip=clip).plan(np.zeros(4))
        x = MODEL.codec.normalizer.normalize(torch.from_numpy(plan.candidates[:, 1:]))
        largest = float(x.abs().max())
        assert largest <= clip + 1e-5 if clip else largest > 0.5


@pytest.mark.usefixtures("unchecked")
def test_any_kind_of_observation() -> None:
    planner = make()
    expected = planner.plan(OBSERVATIONS[0])
    frozen = OBSERVATIONS[0].astype(np.float64)
    frozen.setflags(write=False)
    for same in (frozen, OBSERVATIONS[0].tolist()):
        assert np.array_equal(planner.plan(same).candidates, expected.candidates)
    assert np.array_equal(
        planner.plan(np.array([1, 0, 0, -1])).candidates,
        planner.plan(np.array([1.0, 0.0, 0.0, -1.0])).candidates,
    )


# ------------------------------------------------------------------------------------- bad settings


@pytest.mark.usefixtures("unchecked")
def test_bad_settings_are_named() -> None:
    cases: list[tuple[str, Any]] = [
        ("candidates", 0),
        ("candidates", 2.5),
        ("steps", 0),
        ("steps", True),
        ("replan_every", 0),
        ("replan_every", -1),
        ("seed", -1),
        ("clip", 0.0),
        ("device", "gpu"),
        ("noise_device", "gpu"),
    ]
    names = {"replan_every": "every", "noise_device": "device"}
    for name, wrong in cases:
        with pytest.raises(PgdiffError, match=f"`{names.get(name, name)}` must be"):
            make(**{name: wrong})
    for name in ("solver", "spacing", "level_schedule"):
        with pytest.raises(PgdiffError, match=f"`{name}` must be a"):
            make(**{name: "fast"})
    with pytest.raises(PgdiffError, match="'consistency' needs a model"):
        make(solver=Consistency())
    with pytest.raises(PgdiffError, match=r"`controller` must have a method act.*Got a Tensor"):
        make(controller=torch.zeros(3))


@pytest.mark.usefixtures("unchecked")
def test_bad_observations_are_named() -> None:
    planner = make()
    cases: list[tuple[Any, str]] = [
        (np.zeros(3), r"must have the shape \[4\].* Got \[3\]"),
        (np.zeros((2, 4)), r"must have the shape \[4\].* Got \[2, 4\]"),
        (0.0, r"must have the shape \[4\].* Got \[\]"),
        (np.array([0, np.nan, 0, 0]), r"must be finite .* Got \[0.0, nan, 0.0, 0.0\]"),
        (np.array([0, 0, np.inf, 0]), "must be finite .* for environment 0"),
        (np.array([0, 0, 1e39, 0]), "must be finite numbers of float32"),
        (np.array(["a", "b", "c", "d"]), "must be numbers. Got <U1"),
        (np.array([True] * 4), "must be numbers. Got bool"),
        (np.zeros(4, complex), "must be numbers. Got complex128"),
    ]
    for observation, message in cases:
        with pytest.raises(PgdiffError, match=f"`observation` {message}"):
            planner.plan(observation)


@pytest.mark.usefixtures("unchecked")
def test_bad_goals_and_seeds_are_named() -> None:
    planner = make(model=GOALS)
    for goal in ((1.0,), (1.0, 2.0, 3.0)):
        with pytest.raises(PgdiffError, match="`goal` must have shape"):
            planner.plan(np.zeros(4), condition={"goal": goal})
    with pytest.raises(PgdiffError, match="`goal` must be finite"):
        planner.plan(np.zeros(4), condition={"goal": (1.0, float("nan"))})
    for seeds in ([1], [1, 2, 3]):
        with pytest.raises(PgdiffError, match=r"`seeds` must hold 2 seeds, .*Got"):
            planner.plan_batch(OBSERVATIONS[:2], seeds=seeds)
    for seed in (-1, 0.5, "1", 2**63):
        with pytest.raises(PgdiffError, match="`seed` must be an integer in"):
            planner.plan_batch(OBSERVATIONS[:2], seeds=[0, seed])
        with pytest.raises(PgdiffError, match="`seed` must be an integer in"):
            planner.initial_state([0, seed])
    broken = OBSERVATIONS.copy()
    broken[5, 2] = np.nan
    with pytest.raises(PgdiffError, match="for environment 5"):
        planner.plan_batch(broken, seeds=range(8))


# ---------------------------------------------------------------------------------------- threads


def test_threads_are_for_the_time_of_a_call_alone() -> None:
    seen = []

    class Walk:
        def act(self, observation: Any, waypoint: Any, steps_left: Any) -> np.ndarray:
            seen.append(torch.get_num_threads())
            return np.zeros((len(observation), 2), np.float32)

    def look(step: SamplerStep) -> None:
        seen.append(torch.get_num_threads())
        raise RuntimeError("broken")

    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        for threads in (1, None):
            planner = make(threads=threads, controller=Walk())
            planner.predict(OBSERVATIONS[0])
            with pytest.raises(RuntimeError, match="broken"):
                planner.plan(OBSERVATIONS[0], callback=look)
            assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
    assert seen == [1, 1, 2, 2]
    with pytest.raises(PgdiffError, match="`threads` must be"):
        make(threads=1.5)
