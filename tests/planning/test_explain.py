"""Explanations: laws of the pushes, equal noise, densities, bounds, refusals."""

import copy
import json
from functools import partialmethod
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Discrete
from torch import Tensor, nn
from toys import flat_planner, stir, tiny_model, walk

import pgdiff
from pgdiff import Planner, Segment, TrajectoryDiffusion, TransitionValue
from pgdiff.agents import IQL, Cloning
from pgdiff.core.validation import PgdiffError
from pgdiff.data import GoalCondition
from pgdiff.diffusion import DDPM, Resample, SamplerStep, TrustRegion
from pgdiff.diffusion.level_schedules import Pyramid
from pgdiff.guides import Critic, Goal, Policy, Value
from pgdiff.planning.explain import Explanation

EPISODES = walk()
ACTIONS, CHUNKS = ("observations", "actions"), ("observations", "action_chunks")
VALUE = stir(TransitionValue.from_episodes(EPISODES, stride=3, width=16, depth=1))
BARE, BOTH = tiny_model(EPISODES), tiny_model(EPISODES, fields=ACTIONS)
GOALS = tiny_model(EPISODES, known=("start", "start_goal", "start_arrival"))
OBSERVATION = np.float32([0.3, -0.2, 0.1, 0.0])
SPACE = Box(np.float32([-0.5, -2.0]), np.float32([0.5, 0.1]))


class Mean:
    """A Gaussian policy about a constant action."""

    def __init__(self, action: float = 0.7, space: Any = None) -> None:
        self.mean = action
        if space is not None:
            self.action_space = self.observation_space = space

    def log_prob(self, observation: Tensor, action: Tensor) -> Tensor:
        return -(action - self.mean).square().sum(dim=-1) / 2

    def q(self, observation: Tensor, action: Tensor) -> Tensor:
        return (action - self.mean)[None, ..., 0]


def make(*guides: Any, **options: Any) -> Planner:
    settings: dict[str, Any] = {"model": BOTH, "candidates": 4, "steps": 5}
    return flat_planner(guides=guides or [Value(VALUE, scale=0.05)], **(settings | options))


def explained(planner: Planner, **options: Any) -> Explanation:
    found: Explanation = pgdiff.explain(planner, OBSERVATION, **({"seed": 3} | options))
    return found


# --------------------------------------------------------------------------------- the same noise


def test_it_is_of_the_plan_and_of_the_same_noise_without_guides() -> None:
    guides = [Value(VALUE, scale=0.05), Policy(Mean(), scale=0.3)]
    planner, free = make(*guides), make(*(_still(guide) for guide in guides))
    plan, unguided = (each.plan(OBSERVATION, seed=3) for each in (planner, free))
    found = explained(planner)
    assert (found.best, found.guides, found.scales) == (plan.best, ("value", "policy"), (0.05, 0.3))
    np.testing.assert_array_equal(found.guided.observations, plan.candidates)
    np.testing.assert_array_equal(found.unguided.observations, unguided.candidates)
    assert found.guided.actions is not None and plan.actions is not None
    np.testing.assert_array_equal(found.guided.actions[plan.best], plan.actions)
    for outcome, scores in ((found.guided, plan.scores), (found.unguided, unguided.scores)):
        np.testing.assert_allclose(outcome.objective[:, -1].sum(axis=0), scores, rtol=1e-5)
    changed = [np.concatenate([o.observations, o.actions], axis=-1) for o in _both(found)]
    scale = BOTH.codec.normalizer.scale.numpy()
    expected = np.sqrt(np.square((changed[0] - changed[1]) / scale).mean(axis=(1, 2)))
    np.testing.assert_allclose(found.moved, expected, rtol=1e-4)
    assert (found.moved > 5e-4).all()


def _still(guide: Any) -> Any:
    same = copy.copy(guide)
    same.scale = 0.0
    return same


def _both(found: Explanation) -> tuple[Any, Any]:
    return found.guided, found.unguided


def test_same_seed_same_explanation_and_nothing_is_left_behind() -> None:
    planner = make()
    before, state = dict(vars(planner)), torch.random.get_rng_state()
    first = explained(planner).as_dict()
    assert first == explained(planner).as_dict() != explained(planner, seed=4).as_dict()
    after = dict(vars(planner))
    assert after.pop("plans_made") == before.pop("plans_made") + 3  # without those for comparison
    assert after == before and torch.equal(state, torch.random.get_rng_state())


# --------------------------------------------------------------------------------------- pushes


@pytest.mark.parametrize("gradient_at", ["x0", "x", "denoiser"])
@pytest.mark.parametrize("per", ["token", "plan"])
def test_a_trust_region_keeps_what_the_sizes_allow(gradient_at: Any, per: Any) -> None:
    """Its law is `min(1, radius / size)`, from the sampler's numbers, with noise and all."""
    guide = Policy(Mean(), scale=0.3, gradient_at=gradient_at, fields=None)
    free = explained(make(guide))
    largest = float(free.push[0, :, free.best].max())
    region = TrustRegion(radius=largest / 3, nats=None, per=per)
    found = explained(make(guide, trust_region=region))
    assert found.kept is not None and found.kept_tokens is not None
    size = found.push_tokens[0] if per == "token" else found.push[0][:, [found.best]]
    expected = np.minimum(1.0, region.radius / np.maximum(size, 1e-30))
    expected = np.where(np.isnan(found.kept_tokens), np.nan, np.broadcast_to(expected, (5, 6)))
    np.testing.assert_allclose(found.kept_tokens, expected, rtol=1e-4)
    assert np.nanmin(expected) < 0.5 < np.nanmax(expected)
    np.testing.assert_allclose(
        found.kept[:, found.best], np.nanmean(found.kept_tokens, axis=1), rtol=1e-5
    )


@pytest.mark.parametrize(
    "options", [{}, {"solver": DDPM()}, {"level_schedule": Pyramid(slope=1.0)}], ids=str
)
@pytest.mark.filterwarnings("ignore:This model was trained with")
def test_sizes_are_those_that_the_network_saw(options: dict[str, Any]) -> None:
    """A hook records the denoiser's input, so that the calculation of `explain` is not used."""
    planner = make(Policy(Mean(), scale=0.3), Value(VALUE, scale=0.05), **options)
    seen: list[Tensor] = []
    steps: list[SamplerStep] = []
    with _noted(BOTH, seen):
        plan = planner.plan(OBSERVATION, seed=3, callback=steps.append)
    found = explained(planner)
    assert len(seen) == len(steps) == found.push.shape[1]
    for row, (x, step) in enumerate(zip(seen, steps, strict=True)):
        level = step.level.expand(4, -1)
        moving = (level > step.level_to)[plan.best]
        alpha = BOTH.process.noise_schedule.alpha(level)[plan.best, :, None]
        for number, name in enumerate(found.guides):
            (move,) = [push.move[plan.best] for push in step.trace.pushes if push.name == name]
            free_step = (x[plan.best] - alpha * step.trace.free[plan.best]) * moving[:, None]
            move = alpha * move * moving[:, None]
            free_step[0, :4] = 0  # the observation, which is given
            np.testing.assert_allclose(
                found.push[number, row, plan.best], move.norm() / free_step.norm(), rtol=1e-4
            )
            tokens = (move.norm(dim=1) / free_step.norm(dim=1)).numpy()
            np.testing.assert_allclose(
                found.push_tokens[number, row], np.where(moving, tokens, np.nan), rtol=1e-4
            )


class _noted:
    """Record the noisy tokens of every call of a model's estimate within the context."""

    def __init__(self, model: Any, seen: list[Tensor]) -> None:
        self.model, self.seen = model, seen

    def __enter__(self) -> None:
        estimate = type(self.model)._estimate

        def noting(x: Tensor, level: Tensor, condition: Any) -> Tensor:
            self.seen.append(x.clone())
            return estimate(self.model, x, level, condition)

        self.model._estimate = noting

    def __exit__(self, *_: object) -> None:
        del self.model._estimate


def test_pushes_grow_with_the_scale_and_add_up() -> None:
    one = explained(make(Policy(Mean(), scale=0.1), steps=1))
    two = explained(make(Policy(Mean(), scale=0.2), steps=1))
    np.testing.assert_allclose(two.push, 2 * one.push, rtol=1e-4)
    halves = [Policy(Mean(), scale=0.1, name=name) for name in ("left", "right")]
    both = explained(make(*halves, steps=1))
    np.testing.assert_allclose(both.total, two.total, rtol=1e-4)
    np.testing.assert_allclose(both.push.sum(axis=0), two.push[0], rtol=1e-4)


def test_a_rule_that_goes_before_the_step_is_followed() -> None:
    """Its move changes the sample: the next estimate starts from the moved sample."""
    guide = Policy(Mean(), scale=0.05, gradient_at="x", rule="policy_guided")
    seen: list[Tensor] = []
    planner = make(guide)
    steps: list[SamplerStep] = []
    with _noted(BOTH, seen):
        planner.plan(OBSERVATION, seed=3, callback=steps.append)
    found = explained(planner)
    for row, (x, step) in enumerate(zip(seen, steps, strict=True)):
        alpha = BOTH.process.noise_schedule.alpha(step.level)[..., None]
        free_step, move = x - alpha * step.trace.free, alpha * step.trace.pushes[0].move
        free_step[:, 0, :4] = 0
        ratio = move.flatten(1).norm(dim=1) / free_step.flatten(1).norm(dim=1)
        np.testing.assert_allclose(found.push[0, row], ratio, rtol=1e-3, atol=1e-9)


def test_what_only_chooses_pushes_nothing_and_is_scored() -> None:
    found = explained(make(Value(VALUE, scale=0.05), Policy(Mean(), scale=0.0)))
    assert np.isnan(found.push[1]).all() and np.isnan(found.guided.objective[1, :-1]).all()
    assert np.isfinite(found.push[0]).all() and np.isfinite(found.guided.objective[1, -1]).all()


def test_energies_are_those_at_the_points_of_the_gradients() -> None:
    guide = Policy(Mean(), scale=0.3)
    planner = make(guide)
    steps: list[SamplerStep] = []
    planner.plan(OBSERVATION, seed=3, callback=steps.append)
    found = explained(planner)
    for row, step in enumerate(steps):
        expected = guide.objective(BOTH.codec.decode(step.trace.free), step.level)
        np.testing.assert_allclose(found.guided.objective[0, row], expected, rtol=1e-4)
    assert found.level.shape == (6, 6) and (found.level[-1] == 0).all()
    assert (np.diff(found.noise) < 0).all() and found.noise[0] == 1


# ------------------------------------------------------------------------- densities and bounds


def test_densities_are_of_every_agent_that_a_guide_holds_and_of_the_behaviour() -> None:
    iql, cloning = (
        stir(kind.from_episodes(EPISODES, members=1, width=16)) for kind in (IQL, Cloning)
    )
    guides = [
        Policy(Mean(), scale=0.1, temperature=0.5),
        Critic(iql, scale=0.1),
        0.5 * Policy(Mean(-0.3), name="inner", fields=None) + Critic(Mean(), name="other"),
        Value(VALUE, scale=0.01),
    ]
    found = explained(make(*guides), behaviour=cloning)
    agents = {"policy": Mean(), "critic": iql, "inner": Mean(-0.3), "other": Mean()}
    agents["behaviour"] = cloning
    assert set(found.guided.log_prob) == set(agents)
    for outcome in _both(found):
        states, actions = (
            torch.from_numpy(a).float() for a in (outcome.observations, outcome.actions)
        )
        for name, agent in agents.items():
            with torch.no_grad():
                expected = agent.log_prob(states, actions).mean(dim=1)
            np.testing.assert_allclose(outcome.log_prob[name], expected, rtol=1e-4, atol=1e-5)


def test_all_actions_of_chunks_are_reported_and_the_first_of_each_is_judged(tmp_path: Path) -> None:
    model = tiny_model(EPISODES, fields=CHUNKS)
    cloning = stir(Cloning.from_episodes(EPISODES, members=1, width=16))
    cloning.save_pretrained(tmp_path / "cloning")
    found = explained(make(model=model), behaviour=tmp_path / "cloning").guided
    assert found.actions is not None and found.actions.shape == (4, 18, 2)
    states, actions = (torch.from_numpy(a).float() for a in (found.observations, found.actions))
    with torch.no_grad():
        expected = cloning.log_prob(states, actions[:, ::3]).mean(dim=1)
    np.testing.assert_allclose(found.log_prob["behaviour"], expected, rtol=1e-4)


def test_all_actions_that_lead_to_tokens_are_reported_too() -> None:
    model = tiny_model(EPISODES, fields=("observations", "previous_actions"))
    agent = Mean()
    found = explained(make(Policy(agent, scale=0.1), model=model), action_space=SPACE).guided
    assert found.actions is not None and found.actions.shape == (4, 15, 2)
    assert found.outside is not None
    actions = torch.from_numpy(found.actions[:, ::3]).float()
    expected = agent.log_prob(torch.zeros(0), actions).mean(dim=1)
    np.testing.assert_allclose(found.log_prob["policy"], expected, rtol=1e-4)


def test_bounds_are_the_environments_else_an_agents() -> None:
    planner = make(Policy(Mean(space=None), scale=0.1))
    assert explained(planner).guided.outside is None
    found = explained(planner, action_space=SPACE)
    assert found.low is not None and found.high is not None
    np.testing.assert_array_equal([found.low, found.high], [SPACE.low, SPACE.high])
    for outcome in _both(found):
        actions = outcome.actions
        beyond = np.stack([SPACE.low - actions, actions - SPACE.high])
        np.testing.assert_allclose(outcome.excess, beyond.max(axis=(0, 2, 3)).clip(min=0))
        np.testing.assert_allclose(outcome.outside, (beyond.max(axis=(0, 3)) > 0).mean(axis=1))
    assert 0 < found.guided.outside.mean() < 1
    agent = stir(IQL.from_episodes(EPISODES, members=1, width=16, action_low=[-0.2] * 2))
    by_agent = explained(make(Critic(agent, scale=0.1)))
    assert by_agent.low is not None
    np.testing.assert_allclose(by_agent.low, [-0.2, -0.2])


def test_rounding_is_not_out_of_bounds() -> None:
    """With `clip` plans reach the data's bounds, which are the space's, up to a normaliser."""
    low, high = EPISODES.actions.min(axis=0), EPISODES.actions.max(axis=0)
    wild = Policy(Mean(100.0), scale=50.0)
    found = explained(make(wild), action_space=Box(low, high))
    assert found.guided.actions is not None and found.guided.outside is not None
    assert np.isclose(found.guided.actions, high).mean() > 0.5
    assert (found.guided.outside == 0).all()


@pytest.fixture
def few_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """Compute likelihoods with few steps, which are quick and not exact."""
    quick = partialmethod(TrajectoryDiffusion.log_likelihood, steps=3)
    monkeypatch.setattr(TrajectoryDiffusion, "log_likelihood", quick)


@pytest.mark.usefixtures("few_steps")
def test_the_models_own_density_is_estimated() -> None:
    model = tiny_model(EPISODES, fields=ACTIONS, horizon=3)
    planner = make(model=model)
    plain, found = explained(planner), explained(planner, likelihood=True)
    assert plain.guided.log_likelihood is None
    for outcome in _both(found):
        segment = model.codec.layout.segment(
            torch.from_numpy(
                np.concatenate([outcome.observations, outcome.actions], axis=-1)[[found.best]]
            ).float()
        )
        batch = SimpleNamespace(
            observations=segment.observations, actions=segment.actions, mask=torch.ones(1, 3)
        )
        exact = model.log_likelihood(batch, method="exact")
        assert outcome.standard_error > 0
        error = abs(float(exact.value) - outcome.log_likelihood)
        print(f"\nexact {float(exact.value):.2f}, {outcome.log_likelihood:.2f}, {error:.2f}")
        assert error < 5 * outcome.standard_error


# ------------------------------------------------------------------------------- goals, and text


@pytest.mark.usefixtures("few_steps")
def test_goals_are_followed() -> None:
    guide = Goal(scale=0.1)
    for options in ({}, {"arrivals": (3, 5)}):
        planner = make(guide, model=GOALS, **options)
        found = explained(planner, condition={"goal": (0.5, -0.2)})
        plan = planner.plan(OBSERVATION, seed=3, condition={"goal": (0.5, -0.2)})
        np.testing.assert_array_equal(found.guided.observations, plan.candidates)
        assert np.isfinite(found.push[:, 1:]).all()
    steered = tiny_model(EPISODES, conditions=[GoalCondition(goal_features=(0, 1))])
    planner = make(Value(VALUE, scale=0.05), model=steered)
    found = explained(planner, condition={"goal": (0.5, -0.2)}, likelihood=True)
    assert np.isfinite(found.guided.log_likelihood)


@pytest.mark.usefixtures("few_steps")
def test_table_and_dictionary_hold_the_results() -> None:
    planner = make(
        Policy(Mean(), scale=0.3), Value(VALUE, scale=0.05), steps=30, trust_region=TrustRegion()
    )
    found = explained(planner, behaviour=Mean(0.0), action_space=SPACE, likelihood=True)
    lines = found.table().splitlines()
    assert "policy x 0.3, value x 0.05" in lines[0]
    assert lines[1].split() == ["step", "level", "policy", "value", "kept"]
    assert [int(line.split()[0]) for line in lines[2:14]][::11] == [1, 30]
    best, push = found.best, found.push[0, -1]
    assert lines[13].split()[2:4] == [f"{push[best]:.3g}", f"({push.mean():.3g})"]
    labels = [line[:36].strip() for line in lines[16:]]
    assert labels == [
        "objective, policy",
        "objective, value",
        "log-density of an action, policy",
        "log-density of an action, behaviour",
        "share of actions out of bounds",
        "largest excess of an action",
        "log-density of the plan, model",
        "moved by the guides",
    ]
    content = json.loads(json.dumps(found.as_dict(), allow_nan=False))
    assert content["guides"] == ["policy", "value"] and content["best"] == best
    np.testing.assert_array_equal(
        content["guided"]["log_prob"]["behaviour"], (found.guided.log_prob["behaviour"])
    )
    tokens = np.array(content["push_tokens"], dtype=float)  # None is NaN
    np.testing.assert_array_equal(tokens, found.push_tokens)


# --------------------------------------------------------------------------------------- bad input


class Wide(Mean):
    """An actor of another task."""

    observation_space = action_space = Box(-1, 1, (7,))


@pytest.mark.usefixtures("unchecked")
def test_bad_input_is_named() -> None:
    cases: list[tuple[dict[str, Any], dict[str, Any], str]] = [
        ({"guides": []}, {}, r"`guides` must hold a guide with a scale above 0.* Got none"),
        ({"guides": [Value(VALUE, scale=0.0)]}, {}, r"scale above 0 .* Got value x 0"),
        (
            {"guides": [Value(VALUE), Policy(Mean(), name="value")]},
            {},
            r"`guides` must have distinct names. Got 'value' twice",
        ),
        (
            {"solver": DDPM(), "resample": Resample()},
            {},
            r"`particles` must be None to explain",
        ),
        ({}, {"behaviour": nn.Linear(2, 2)}, r"`agent` must be .* method log_prob. Got a Linear"),
        ({}, {"behaviour": "nowhere.zip"}, r"'nowhere.zip' does not exist"),
        ({}, {"behaviour": Wide()}, r"`behaviour` must be of the model's task. Got .* \(7,\)"),
        ({"model": BARE}, {"behaviour": Mean()}, r"must hold 'actions' .* for 'behaviour'"),
        ({}, {"action_space": Box(-1, 1, (3,))}, r"`action_space` must be a Box of shape \(2,\)"),
        ({}, {"action_space": Discrete(2)}, r"`action_space` must be a Box .* Got Discrete"),
        ({}, {"seed": -1}, r"`seed` must be an integer"),
        ({"guides": [Goal(scale=0.1)]}, {}, r"`goal` must be given to the guide goal"),
        (
            {"model": GOALS, "arrivals": (3, 5)},
            {"condition": {"goal": (0.5, -0.2)}, "likelihood": True},
            r"`goals.tokens` must be None for the likelihood",
        ),
    ]
    for planner, options, message in cases:
        settings: dict[str, Any] = {"model": BOTH, "guides": [Value(VALUE, scale=0.05)]} | planner
        made = flat_planner(candidates=2, steps=2, **settings)
        with pytest.raises(PgdiffError, match=message):
            pgdiff.explain(made, OBSERVATION, **options)


def test_a_user_defined_guide_is_explained() -> None:
    class Slow:
        name, gradient_at, scale = "slow", "x0", 0.5

        def objective(self, segment: Segment, level: Tensor) -> Tensor:
            return -segment.observations[..., 2:].square().mean(dim=(1, 2))

    found = explained(make(Slow(), model=BARE))
    assert found.guides == ("slow",) and found.guided.actions is None
    assert (found.push[0, 1:] > 0).all() and found.low is None
    assert found.guided.objective[0, -1].mean() > found.unguided.objective[0, -1].mean()
