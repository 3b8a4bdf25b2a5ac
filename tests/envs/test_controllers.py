from collections import deque

import gymnasium
import numpy as np
import pytest
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.monitor import Monitor

from pgdiff_envs import PgdiffEnvsError
from pgdiff_envs.layouts import LAYOUTS, get_layout
from pgdiff_envs.maze import MazeEnv
from pgdiff_envs.tracker import Tracker
from pgdiff_envs.values import greedy_path, q_values


def make(task="maze2d-umaze-v1", **kwargs):
    return gymnasium.make(f"pgdiff_envs:{task}", **kwargs).unwrapped


def record(env, expert, steps, seed=0):
    observation, _ = env.reset(seed=seed)
    observations, actions, goals, reached, abandoned = [], [], [], [], []
    for _ in range(steps):
        action, _ = expert.predict(observation)
        observations.append(observation)
        actions.append(action)
        goals.append(expert.goal)
        reached.append(expert.goal_reached)
        abandoned.append(expert.goal_abandoned)
        observation, *_ = env.step(action)
    return tuple(map(np.array, (observations, actions, goals, reached, abandoned)))


def distances(layout, goal):
    """Return the distances by breadth-first search."""
    found, queue = {goal: 0}, deque([goal])
    while queue:
        w, h = queue.popleft()
        for cell in ((w + 1, h), (w - 1, h), (w, h + 1), (w, h - 1)):
            if layout.is_free(*cell) and cell not in found:
                found[cell] = found[w, h] + 1
                queue.append(cell)
    return found


def test_greedy_paths_are_as_long_as_those_of_breadth_first_search():
    pairs = [(layout, goal) for layout in LAYOUTS.values() for goal in layout.free_cells]
    for layout, goal in pairs:
        q = q_values(layout, goal)
        lengths = distances(layout, goal)
        assert len(lengths) == len(layout.free_cells)
        for start in layout.free_cells:
            path = greedy_path(q, start, goal)
            assert path[-1] == goal
            # The ball stays at a goal where it starts there.
            assert len(path) == max(lengths[start], 1)
            for (w, h), (w2, h2) in zip([start, *path], path, strict=False):
                assert layout.is_free(w2, h2)
                assert abs(w - w2) + abs(h - h2) <= 1


def test_values_equal_a_plain_sweep_over_the_grid():
    layout = get_layout("umaze")
    goal = (1, 1)
    moves = [(0, 0), (0, -1), (0, 1), (-1, 0), (1, 0)]  # D4RL's order, which breaks ties
    values = dict.fromkeys(np.ndindex(layout.shape), 0.0)
    for _ in range(50):
        q = {
            (*cell, a): float(cell == goal)
            + 0.99 * values[to if layout.is_free(*(to := (cell[0] + dw, cell[1] + dh))) else cell]
            for cell in values
            for a, (dw, dh) in enumerate(moves)
        }
        values = {cell: max(q[(*cell, a)] for a in range(5)) for cell in values}
    expected = np.array([q[i] for i in np.ndindex(*layout.shape, 5)]).reshape(*layout.shape, 5)
    np.testing.assert_array_equal(q_values(layout, goal), expected)


def test_values_mirror_with_the_maze():
    layout = get_layout("large")
    mirrored = get_layout(tuple(reversed(layout.rows)))
    q = q_values(layout, (7, 9))
    other = q_values(mirrored, (8 - 7, 9))[::-1][:, :, [0, 1, 2, 4, 3]]
    np.testing.assert_array_equal(q, other)


@pytest.mark.parametrize("name", ["open", "umaze", "large"])
def test_the_expert_reaches_goal_after_goal(name):
    env = make(f"maze2d-{name}-v{0 if name == 'open' else 1}")
    expert = env.expert(0)
    observations, _, goals, reached, abandoned = record(env, expert, 4000)
    changes = np.flatnonzero((goals[1:] != goals[:-1]).any(axis=1)) + 1
    assert len(changes) > 10
    # A goal changes right after it was solved or given up, and at no other time. A way between
    # corners of the open maze exceeds its limit of 150 steps; elsewhere no goal is given up.
    np.testing.assert_array_equal(changes, np.flatnonzero((reached | abandoned)[:-1]) + 1)
    assert abandoned.sum() <= (0.1 * len(changes) if name == "open" else 0)
    # Solved means within 0.1 of the goal's cell, and the goal is within 0.1 of it per axis.
    at = observations[reached, :2]
    assert np.linalg.norm(at - goals[reached].round(), axis=1).max() < 0.1
    assert np.abs(goals - goals.round()).max() <= 0.1
    # No observation is repeated, not even if the goal changes.
    assert (observations[1:] != observations[:-1]).any(axis=1).all()


def test_same_seed_same_actions_and_another_seed_others():
    def actions(seed, noise):
        env = make()
        return record(env, env.expert(seed, noise=noise), 500)[1]

    for noise in (0.0, 0.5):
        np.testing.assert_array_equal(actions(1, noise), actions(1, noise))
        assert (actions(1, noise) != actions(2, noise)).any()
    env = make()
    drawn = record(env, env.expert(np.random.default_rng(1)), 500)[1]
    np.testing.assert_array_equal(drawn, actions(1, 0.0))


def test_noise_is_normal_and_left_out_on_request():
    env = make("maze2d-open-v0")
    quiet, noisy = env.expert(0, goal=(2.0, 3.0)), env.expert(0, goal=(2.0, 3.0), noise=0.05)
    observation = np.array([2.01, 3.0, 0.0, 0.0])
    clean, _ = quiet.predict(observation)
    same, _ = noisy.predict(observation, deterministic=True)
    np.testing.assert_array_equal(clean, same)
    drawn = np.array([noisy.predict(observation)[0] for _ in range(2000)]) - clean
    assert np.abs(drawn.mean(axis=0)).max() < 0.005
    np.testing.assert_allclose(drawn.std(axis=0), 0.05, rtol=0.1)
    loud = env.expert(0, noise=5.0)
    assert np.abs([loud.predict(observation)[0] for _ in range(100)]).max() == 1.0


def test_a_goal_is_given_up_after_the_step_limit():
    env = make("maze2d-open-v0")
    expert = env.expert(0)
    observation = np.array([1.0, 1.0, 0.0, 0.0])
    expert.predict(observation)
    while expert.goal_reached:
        expert.predict(observation)
    goal = expert.goal
    for _ in range(149):
        expert.predict(observation)
        assert not expert.goal_abandoned
    expert.predict(observation)
    # At the prediction that gives up a goal, the goal is still the old one.
    assert expert.goal_abandoned
    np.testing.assert_array_equal(expert.goal, goal)
    expert.predict(observation)
    assert (expert.goal != goal).any()


def test_a_fixed_goal_is_kept_and_scores_above_100():
    env = gymnasium.make("pgdiff_envs:maze2d-umaze-v1")
    expert = env.unwrapped.expert(0, goal=env.unwrapped.goal)
    env.reset(seed=0)
    mean, _ = evaluate_policy(expert, Monitor(env), n_eval_episodes=10)
    assert env.unwrapped.normalized_score(mean) > 110
    np.testing.assert_array_equal(expert.goal, [1.0, 1.0])


def test_episode_start_replans():
    env = make()
    one, other = (env.expert(0, goal=(1.0, 1.0)) for _ in range(2))
    for expert in (one, other):
        expert.predict(np.array([3.0, 1.0, 0, 0]))
        expert.predict(np.array([2.9, 2.9, 0, 0]))
    elsewhere = np.array([1.0, 2.0, 0.0, 0.0])
    action, _ = one.predict(elsewhere, episode_start=np.array([True]))
    assert action[1] == -1.0  # from (1, 2) down to (1, 1)
    assert other.predict(elsewhere)[0][0] == 1.0  # still on the way round


def test_the_expert_finds_its_way_from_the_rim_of_a_cell():
    """At x = 0.42 the ball touches the wall of cell 0, which D4RL's rounding returns."""
    env = make()
    expert = env.expert(0, goal=(3.0, 1.0))
    observation, _ = env.reset(seed=0, options={"location": (0.42, 0.42)})
    success = False
    for _ in range(300):
        observation, *_ = env.step(expert.predict(observation)[0])
        success |= expert.goal_reached
    assert success


def test_bad_observations_say_what_is_wrong():
    for observation in (np.zeros(3), np.zeros((2, 4)), np.full(4, np.nan), np.zeros(())):
        with pytest.raises(PgdiffEnvsError, match="`observation`"):
            make().expert(0).predict(observation)


def test_bad_settings_of_the_expert_say_what_is_wrong():
    with pytest.raises(PgdiffEnvsError, match="`noise`"):
        make().expert(0, noise=-1.0)
    with pytest.raises(PgdiffEnvsError, match="`goal`"):
        make().expert(0, goal=(2.0, 1.0))
    parted = MazeEnv(layout=["#####", "#O#O#", "#####"])
    with pytest.raises(PgdiffEnvsError, match="must be reachable"):
        parted.expert(0, goal=(1.0, 3.0)).predict(np.array([1.0, 1.0, 0.0, 0.0]))


@pytest.mark.parametrize(
    ("task", "stride", "bound"), [("maze2d-umaze-v1", 10, 0.03), ("maze2d-large-v1", 15, 0.04)]
)
def test_the_tracker_follows_a_recording_by_its_strided_states(task, stride, bound):
    env = make(task)
    steps = 2010
    states, *_ = record(env, env.expert(0), steps + 1)
    tracker = env.tracker()
    observation, _ = env.reset(seed=9, options={"location": states[0, :2]})
    gaps = []
    for step in range(steps):
        at = (step // stride + 1) * stride
        action = tracker.act(observation, states[at], at - step)
        observation, *_ = env.step(action)
        gaps.append(np.linalg.norm(observation[:2] - states[step + 1, :2]))
    print(f"{task}, stride {stride}: mean gap {np.mean(gaps):.4f}, largest {max(gaps):.3f}")
    assert np.mean(gaps) < bound
    assert max(gaps) < 0.12


def test_the_tracker_meets_an_easy_waypoint_exactly():
    env = make("maze2d-open-v0")
    observation, _ = env.reset(seed=0, options={"location": (2.0, 2.0)})
    waypoint = np.array([2.3, 2.4, 0.5, 0.2])
    for left in range(60, 0, -1):
        observation, *_ = env.step(env.tracker().act(observation, waypoint, left))
    np.testing.assert_allclose(observation, waypoint, atol=0.01)


def test_the_tracker_takes_batches():
    tracker = Tracker()
    rng = np.random.default_rng(0)
    now, then = rng.uniform(1, 4, (2, 6, 4))
    left = rng.integers(1, 300, 6)
    together = tracker.act(now, then, left)
    assert together.shape == (6, 2)
    assert together.dtype == np.float32
    for i in range(6):
        np.testing.assert_array_equal(together[i], tracker.act(now[i], then[i], int(left[i])))
    np.testing.assert_array_equal(tracker.act(now, then, 5), tracker.act(now, then, np.full(6, 5)))
    # Both axes follow one law: swapping them swaps the action.
    swap = [1, 0, 3, 2]
    np.testing.assert_array_equal(tracker.act(now[:, swap], then[:, swap], left), together[:, ::-1])


def test_bad_arguments_of_the_tracker_say_what_is_wrong():
    for waypoint, left, message in (
        (np.zeros(2), 3, "shape"),
        (np.zeros((2, 4)), 3, "shape"),
        (np.zeros(4), 0, "at least 1"),
        (np.zeros(4), 1.5, "integer"),
        (np.zeros(4), [1, 2], "integer"),
    ):
        with pytest.raises(PgdiffEnvsError, match=message):
            Tracker().act(np.zeros(4), waypoint, left)
