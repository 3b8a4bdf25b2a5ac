"""Acting: Stable-Baselines3's protocol, way-points, and the content of the state."""

from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv
from toys import flat_planner, stir, tiny_model, walk

from pgdiff import InverseDynamics, Planner, TransitionValue
from pgdiff.core.validation import PgdiffError
from pgdiff.guides import Value
from pgdiff.planning import Controller, PlannerState

EPISODES = walk()
MODEL = tiny_model(EPISODES)
VALUE = stir(TransitionValue.from_episodes(EPISODES, stride=3, width=16, depth=1))
RNG = np.random.default_rng(0)
CHUNKS = ("observations", "action_chunks")
WALKS = RNG.uniform(-1, 1, (40, 8, 4)).astype(np.float32)
"""Observations of 8 environments at 40 steps, which do not depend on plans."""


class Recorder:
    """A controller that records its input; its action is the step to the way-point."""

    def __init__(self) -> None:
        self.calls: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []

    def act(self, observation: Any, waypoint: Any, steps_left: Any) -> np.ndarray:
        self.calls.append((observation.copy(), waypoint.copy(), steps_left.copy()))
        return ((waypoint - observation)[:, :2] / steps_left[:, None]).astype(np.float32)


def make(**options: Any) -> Planner:
    settings: dict[str, Any] = {
        "model": MODEL,
        "controller": Recorder(),
        "guides": [Value(VALUE, scale=0.02)],
        "candidates": 3,
        "steps": 4,
        "replan_every": 5,
    }
    return flat_planner(**(settings | options))


def drive(
    planner: Planner, *, starts: dict[int, list[int]] | None = None, steps: int = 20
) -> tuple[list[np.ndarray], list[PlannerState]]:
    """Return actions and states of some steps; environments `starts[t]` are reset at step t."""
    state: Any = None
    actions, states = [], []
    for t in range(steps):
        flags = np.isin(np.arange(8), (starts or {}).get(t, []))
        action, state = planner.predict(WALKS[t], state, flags)
        actions.append(action)
        states.append(state)
    return actions, states


# ----------------------------------------------------------------------------------- environments


def test_resetting_one_of_eight_changes_no_others_plan() -> None:
    planner = make(replan_every=None)
    plain_actions, plain = drive(planner)
    actions, states = drive(planner, starts={0: list(range(8)), 7: [3]})
    others = np.arange(8) != 3
    for t in range(20):
        assert np.array_equal(actions[t][others], plain_actions[t][others])
        assert np.array_equal(states[t].waypoints[others], plain[t].waypoints[others])
        assert np.array_equal(states[t].age[others], plain[t].age[others])
        assert np.array_equal(states[t].plans[others], plain[t].plans[others])
        same = np.array_equal(states[t].waypoints[3], plain[t].waypoints[3])
        assert same == (t < 7)
    assert states[7].age.tolist() == [8, 8, 8, 1, 8, 8, 8, 8]
    assert states[7].plans.tolist() == [1, 1, 1, 2, 1, 1, 1, 1]


def test_a_reset_beside_a_replanning_changes_no_others_plan() -> None:
    """If one call plans for more environments, a plan is equal up to rounding."""
    planner = make()
    _, plain = drive(planner)
    _, states = drive(planner, starts={7: [3]})
    others = np.arange(8) != 3
    difference = max(
        float(np.abs(a.waypoints - b.waypoints)[others].max())
        for a, b in zip(states, plain, strict=True)
    )
    print(f"\nothers' way-points, one of eight reset: largest difference {difference:.1e}")
    assert difference < 1e-4


@pytest.mark.parametrize("replan_every", [None, 5])
def test_no_plan_crosses_a_reset(replan_every: int | None) -> None:
    planner = make(replan_every=replan_every)
    _, states = drive(planner, starts={0: list(range(8)), 7: [3], 8: [3, 4], 11: list(range(8))})
    for t, which in ((7, [3]), (8, [3, 4]), (11, list(range(8)))):
        np.testing.assert_allclose(states[t].waypoints[which, 0], WALKS[t, which], atol=1e-5)
        assert (states[t].age[which] == 1).all()
        change = states[t].waypoints[which, 1:] - states[t - 1].waypoints[which, 1:]
        assert (np.abs(change) > 0).any(axis=(1, 2)).all()


def test_an_environments_actions_do_not_depend_on_the_others() -> None:
    """Each of eight environments acts with its seed alone as it did among the others."""
    planner = make()
    seeds = range(50, 58)
    state: Any = planner.initial_state(seeds)
    together = []
    for t in range(12):
        action, state = planner.predict(WALKS[t], state)
        together.append(action)
    largest = 0.0
    for i, seed in enumerate(seeds):
        state = planner.initial_state([seed])
        for t in range(12):
            action, state = planner.predict(WALKS[t, i], state)
            assert action.shape == (2,)
            largest = max(largest, float(np.abs(action - together[t][i]).max()))
    print(f"\nactions of one of eight against alone: largest difference {largest:.1e}")
    assert largest < 1e-4


@pytest.mark.parametrize("with_actions", [False, True], ids=["way-points", "actions and goals"])
def test_environments_whose_episodes_are_over_leave_the_state(with_actions: bool) -> None:
    """The others continue unchanged; a state of them alone equals a state of any other call."""
    planner = make()
    if with_actions:
        model = tiny_model(EPISODES, fields=CHUNKS, known=("start_goal",))
        planner = make(model=model, guides=(), controller="actions", warm_start=0.5, warm_share=0.5)
    goals = np.arange(16.0).reshape(8, 2) / 16 if with_actions else None
    state: Any = planner.initial_state(range(50, 58), {"goal": goals})
    for t in range(3):
        _, state = planner.predict(WALKS[t], state)
    rows = [1, 4, 6]
    fewer = planner.keep_rows(state, rows)
    assert fewer.seed.tolist() == [51, 54, 56]
    made = planner.plans_made
    for t in range(3, 12):
        action, state = planner.predict(WALKS[t], state)
        alone, fewer = planner.predict(WALKS[t, rows], fewer)
        np.testing.assert_allclose(alone, action[rows], atol=1e-4)
    assert planner.plans_made > made
    np.testing.assert_array_equal(fewer.plans, state.plans[rows])


# ---------------------------------------------------------------------------------- seeds and plans


def test_same_seed_same_actions_and_every_plan_its_own_noise() -> None:
    (first, states), (again, _), (other, _) = (drive(make(seed=seed)) for seed in (0, 0, 1))
    for t in range(20):
        assert np.array_equal(first[t], again[t]) and not np.array_equal(first[t], other[t])
    here = np.zeros((8, 4), np.float32)
    _, state = make().predict(here)
    plans = [plan.tobytes() for plan in state.waypoints]
    planner = make(replan_every=1)
    state = None
    for _ in range(3):
        _, state = planner.predict(here[:1], state)
        plans.append(state.waypoints[0].tobytes())
    assert len(set(plans[:8])) == 8, "environments in one state have different plans"
    assert len(set(plans[8:])) == 3, "and so are successive plans"
    assert len(set(states[0].seed.tolist())) == 8


def test_deterministic_is_accepted_and_changes_nothing() -> None:
    planner = make()
    actions = [planner.predict(WALKS[0], deterministic=flag)[0] for flag in (True, False)]
    assert np.array_equal(*actions)


@pytest.mark.parametrize("with_actions", [False, True], ids=["way-points", "actions and goals"])
def test_states_are_never_changed_in_place(with_actions: bool) -> None:
    planner = make()
    if with_actions:
        model = tiny_model(EPISODES, fields=CHUNKS, known=("start_goal",))
        planner = make(model=model, guides=(), controller="actions", warm_start=0.5, warm_share=0.5)
    goals = np.zeros((8, 2)) if with_actions else None
    _, state = planner.predict(WALKS[0], planner.initial_state(range(8), {"goal": goals}))
    assert (state.goal is not None) == (state.actions is not None) == with_actions
    for t in range(1, 14):
        before = [part.copy() for part in arrays(state)]
        for part in arrays(state):
            part.setflags(write=False)
        flags = np.isin(np.arange(8), [3] if t == 7 else [])
        one = planner.predict(WALKS[t], state, flags)
        two = planner.predict(WALKS[t], state, flags)
        assert all(np.array_equal(a, b) for a, b in zip(arrays(state), before, strict=True))
        assert np.array_equal(one[0], two[0])
        both = zip(arrays(one[1]), arrays(two[1]), strict=True)
        assert all(np.array_equal(a, b) for a, b in both)
        state = one[1]


def arrays(state: PlannerState) -> list[np.ndarray]:
    parts = [*state._replace(condition=None), *state.condition.values()]  # type: ignore[arg-type]
    return [part for part in parts if part is not None]


def test_a_new_plan_is_made_every_number_of_steps() -> None:
    for replan_every in (1, 5, 15, 40, None):
        check_replanning(replan_every)


def check_replanning(replan_every: int | None) -> None:
    planner = make(replan_every=replan_every)
    made = []
    state: Any = None
    for t in range(20):
        before = planner.plans_made
        _, state = planner.predict(WALKS[t], state, np.zeros(8, bool))
        made.append(planner.plans_made - before)
    assert made == [
        8 if t == 0 or (replan_every and t % replan_every == 0) else 0 for t in range(20)
    ]
    if replan_every is None:
        controller = planner.controller
        assert isinstance(controller, Recorder)
        for _, waypoint, steps_left in controller.calls[15:]:
            assert np.array_equal(waypoint, state.waypoints[:, -1])
            assert steps_left.tolist() == [3] * 8


# ------------------------------------------------------------------------------------- way-points


def test_way_points_and_steps_left() -> None:
    """They follow a walk along the plan, step by step: four tokens, and far past their end."""
    for stride, replan_every in ((1, None), (1, 4), (3, None), (3, 4), (10, 25), (10, None)):
        check_way_points(stride, replan_every)


def check_way_points(stride: int, replan_every: int | None) -> None:
    controller = Recorder()
    planner = make(
        model=tiny_model(EPISODES, horizon=4, stride=stride),
        guides=(),
        controller=controller,
        replan_every=replan_every,
    )
    script = [(token, left) for token in (1, 2, 3) for left in range(stride, 0, -1)]
    script += [(3, stride)] * 36  # held: always a stride away
    state: Any = None
    for t in range(36):
        _, state = planner.predict(WALKS[t, :2], state)
        token, left = script[t if replan_every is None else t % replan_every]
        observation, waypoint, steps_left = controller.calls[-1]
        assert np.array_equal(observation, WALKS[t, :2])
        assert np.array_equal(waypoint, state.waypoints[:, token])
        assert steps_left.tolist() == [left, left]


def test_way_points_further_ahead() -> None:
    """Four tokens three steps apart; the controller aims two tokens ahead."""
    for replan_every in (None, 5):
        check_further_ahead(replan_every)


def check_further_ahead(replan_every: int | None) -> None:
    controller = Recorder()
    planner = make(
        model=tiny_model(EPISODES, horizon=4),
        guides=(),
        controller=controller,
        replan_every=replan_every,
        lookahead=2,
    )
    script = [(2, 6), (2, 5), (2, 4), (3, 6), (3, 5), (3, 4), (3, 3), (3, 2), (3, 1)]
    script += [(3, 6)] * 11  # held: always two strides away
    state: Any = None
    for t in range(20):
        _, state = planner.predict(WALKS[t, :2], state)
        token, left = script[t if replan_every is None else t % replan_every]
        _, waypoint, steps_left = controller.calls[-1]
        assert np.array_equal(waypoint, state.waypoints[:, token])
        assert steps_left.tolist() == [left, left]


def test_no_further_ahead_than_the_controller_has_learned() -> None:
    controller = InverseDynamics.from_episodes(EPISODES, stride=7, width=16, depth=1)
    assert make(controller=controller, lookahead=2).replanning.lookahead == 2
    with pytest.raises(PgdiffError, match=r"`lookahead` must be at most 2 way-points of stride 3"):
        make(controller=controller, lookahead=3)
    short = InverseDynamics.from_episodes(EPISODES, stride=1, width=16, depth=1)
    with pytest.raises(PgdiffError, match="trained on targets at most 1 steps away"):
        make(controller=short)
    with pytest.raises(PgdiffError, match="`lookahead` must be an integer of at least 1"):
        make(lookahead=0)


# ------------------------------------------------------------------------------------- the protocol


@pytest.mark.usefixtures("unchecked")
def test_shapes_and_kinds_of_observations() -> None:
    planner = make()
    batch, state = planner.predict(WALKS[0])
    assert batch.shape == (8, 2) and isinstance(batch, np.ndarray)
    assert isinstance(state, PlannerState) and state.waypoints.shape == (8, 6, 4)
    single, state = planner.predict(WALKS[0, 0])
    assert single.shape == (2,) and state.age.tolist() == [1]
    np.testing.assert_allclose(single, batch[0], atol=1e-4)
    one, _ = planner.predict(WALKS[0, :1])
    assert one.shape == (1, 2) and np.array_equal(one[0], single)
    frozen = WALKS[0].astype(np.float64)
    frozen.setflags(write=False)
    for same in (frozen, WALKS[0].tolist(), np.asfortranarray(WALKS[0])):
        assert np.array_equal(planner.predict(same)[0], batch)
    for flag in (True, np.array([True]), [True], np.True_):
        assert np.array_equal(planner.predict(WALKS[0, 0], None, flag)[0], single)


def test_the_learned_controller_acts() -> None:
    controller = InverseDynamics.from_episodes(EPISODES, stride=3, width=16, depth=1)
    assert isinstance(controller, Controller) and isinstance(Recorder(), Controller)
    actions, _ = drive(make(controller=controller))
    assert actions[0].dtype == np.float32 and np.abs(np.stack(actions)).max() <= 1


@pytest.mark.usefixtures("unchecked")
def test_bad_requests_are_named() -> None:
    planner = make()
    with pytest.raises(PgdiffError, match=r"`controller` must be given to act.*tracker\(\)"):
        make(controller=None).predict(WALKS[0])
    for wrong in (WALKS[0, :, :3], WALKS[0, 0, :3], WALKS[:2]):
        with pytest.raises(PgdiffError, match=r"`observation` must have the shape \[4\]"):
            planner.predict(wrong)
    broken = WALKS[0].copy()
    broken[6, 1] = np.nan
    with pytest.raises(PgdiffError, match=r"nan, .* for environment 6"):
        planner.predict(broken)
    with pytest.raises(PgdiffError, match="`observation` must be numbers"):
        planner.predict(np.array([["a"] * 4]))
    _, state = planner.predict(WALKS[0])
    with pytest.raises(PgdiffError, match=r"for these 3 environments, .* Got PlannerState of 8"):
        planner.predict(WALKS[0, :3], state)
    with pytest.raises(PgdiffError, match=r"`state` must be the state .* Got tuple"):
        planner.predict(WALKS[0], (np.zeros(1), np.zeros(1)))
    for flags in (np.zeros(3, bool), np.zeros((8, 1), bool)):
        with pytest.raises(PgdiffError, match="`episode_start` must hold 8 flags"):
            planner.predict(WALKS[0], state, flags)


@pytest.mark.parametrize("environments", [1, 3])
def test_stable_baselines_evaluates_it(environments: int) -> None:
    name = "pgdiff_envs:maze2d-umaze-v1"
    controller = InverseDynamics.from_episodes(EPISODES, stride=3, width=16, depth=1)
    planner = make(controller=controller, replan_every=50)
    if environments == 1:
        env: Any = Monitor(gym.make(name, max_episode_steps=100))
    else:
        env = DummyVecEnv(
            [lambda: Monitor(gym.make(name, max_episode_steps=100)) for _ in range(environments)]
        )
    returns, lengths = evaluate_policy(
        planner, env, n_eval_episodes=environments, return_episode_rewards=True
    )
    env.close()
    assert lengths == [100] * environments and np.isfinite(returns).all()
    assert planner.plans_made == 2 * environments


def test_stable_baselines_takes_a_plain_environment() -> None:
    env = gym.make("pgdiff_envs:maze2d-umaze-v1")
    planner = make(controller=env.unwrapped.tracker(), replan_every=100)  # type: ignore[attr-defined]
    # The model was trained on another, slower walk than this ball's.
    with pytest.warns(UserWarning, match="`observation` is far outside the training data"):
        mean, spread = evaluate_policy(planner, env, n_eval_episodes=1, warn=False)
    env.close()
    assert np.isfinite(mean) and spread == 0
