import subprocess
import sys
from types import SimpleNamespace

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from stable_baselines3.common.env_checker import check_env as sb3_check_env

import pgdiff_envs
from pgdiff_envs import TASKS, PgdiffEnvsError, normalized_score
from pgdiff_envs.layouts import get_layout
from pgdiff_envs.maze import MazeEnv
from pgdiff_envs.tasks import register_tasks


def make(task="maze2d-umaze-v1", **kwargs):
    return gymnasium.make(f"pgdiff_envs:{task}", **kwargs)


def test_gymnasiums_and_stable_baselines3s_checkers_pass():
    for task in TASKS:
        check_env(make(task, render_mode="rgb_array").unwrapped)
        sb3_check_env(make(task))


@pytest.mark.parametrize(
    ("task", "mode"),
    [
        *((task, "sync") for task in TASKS),
        ("maze2d-umaze-v1", "async"),
        ("multi2d-large-v1", "async"),
    ],
)
def test_vector_environments(task, mode):
    envs = gymnasium.make_vec(f"pgdiff_envs:{task}", num_envs=3, vectorization_mode=mode)
    observations, infos = envs.reset(seed=0)
    assert observations.shape == (3, 4)
    assert infos["goal"].shape == (3, 2)
    _, rewards, terminations, _, infos = envs.step(envs.action_space.sample())
    assert rewards.shape == (3,)
    assert not terminations.any()
    assert infos["is_success"].shape == (3,)
    alone, _ = make(task).reset(seed=1)
    np.testing.assert_array_equal(observations[1], alone)
    envs.close()


def test_asynchronous_vector_environments_agree_with_synchronous_ones():
    def run(mode):
        envs = gymnasium.make_vec(
            "pgdiff_envs:multi2d-umaze-v1", num_envs=2, vectorization_mode=mode
        )
        observations, infos = envs.reset(seed=3)
        envs.action_space.seed(0)
        values = [observations, infos["goal"]]
        for _ in range(20):
            observations, *_ = envs.step(envs.action_space.sample())
            values.append(observations)
        envs.close()
        return values

    for one, other in zip(run("sync"), run("async"), strict=True):
        np.testing.assert_array_equal(one, other)


def test_registration_can_be_repeated():
    before = dict(gymnasium.registry)
    register_tasks()
    assert dict(gymnasium.registry) == before


def test_same_seed_same_episode_and_another_seed_another():
    def episode(seed):
        env = make("multi2d-medium-v1")
        observation, info = env.reset(seed=seed)
        rows = [np.concatenate([observation, info["goal"]])]
        rng = np.random.default_rng(0)
        for _ in range(100):
            observation, _, _, _, info = env.step(rng.uniform(-1, 1, 2))
            rows.append(np.concatenate([observation, info["goal"]]))
        rows.append(np.concatenate([env.reset()[0], env.unwrapped.goal]))
        return np.array(rows)

    np.testing.assert_array_equal(episode(5), episode(5))
    assert (episode(5)[0] != episode(6)[0]).any()


@pytest.mark.parametrize("name", ["open", "umaze", "medium", "eval-large"])
def test_starts_lie_within_a_tenth_of_a_free_cell_and_reach_all(name):
    env = MazeEnv(layout=name)
    env.reset(seed=0)
    starts = np.array([env.reset()[0] for _ in range(60 * len(env.layout.free_cells))])
    cells = starts[:, :2].round().astype(int)
    assert np.abs(starts[:, :2] - cells).max() <= 0.1
    seen, counts = np.unique(cells, axis=0, return_counts=True)
    assert [tuple(cell) for cell in seen] == list(env.layout.free_cells)
    # 60 expected in each, standard deviation 7.7.
    assert counts.min() > 25
    assert counts.max() < 100
    assert abs(starts[:, 2:].std() - 0.1) < 0.01
    assert all(env.layout.clearance(*start[:2]) >= 0.1 for start in starts[:50])


def test_the_ball_stops_where_the_layout_says_that_the_walls_are():
    env = make("maze2d-open-v0").unwrapped
    for axis, sign in ((0, 1), (0, -1), (1, 1), (1, -1)):
        env.reset(seed=0, options={"location": (2.0, 3.0)})
        push = np.zeros(2)
        push[axis] = sign
        for _ in range(600):
            observation, *_ = env.step(push)
        length = env.layout.shape[axis]
        # The free cells 1 .. length - 2 span [0.3, length - 1.7]; the ball's radius is 0.1.
        expected = length - 1.7 - 0.1 if sign > 0 else 0.3 + 0.1
        assert observation[axis] == pytest.approx(expected, abs=0.02)
        assert env.observation_space.contains(observation)


def test_observations_stay_in_the_box():
    for task in ("maze2d-open-v0", "maze2d-large-v1"):
        env = make(task).unwrapped
        observation, _ = env.reset(seed=0)
        rng = np.random.default_rng(0)
        for step in range(4000):
            if step % 60 == 0:
                push = np.sign(rng.uniform(-1, 1, 2))
            observation, *_ = env.step(push)
            assert env.observation_space.contains(observation)


def test_random_goals_are_drawn_at_resets_alone():
    env = make("multi2d-large-v1")
    goals = []
    for seed in range(20):
        _, info = env.reset(seed=seed)
        goals.append(info["goal"])
        *_, info = env.step(np.zeros(2, np.float32))
        np.testing.assert_array_equal(info["goal"], goals[-1])
        np.testing.assert_array_equal(env.unwrapped.goal, goals[-1])
    goals = np.array(goals)
    assert len(np.unique(goals.round(), axis=0)) > 10
    assert np.abs(goals - goals.round()).max() <= 0.1


def test_goals_and_success():
    env = make()
    env.reset(seed=0)
    np.testing.assert_array_equal(env.unwrapped.goal, [1.0, 1.0])
    env.unwrapped.goal[:] = 9.0  # a copy
    observation, info = env.reset(options={"location": (3.0, 1.0), "goal": (3.1, 1.2)})
    np.testing.assert_array_equal(observation[:2], [3.0, 1.0])
    np.testing.assert_array_equal(info["goal"], [3.1, 1.2])
    assert info["is_success"] is True
    _, reward, _, _, info = env.step(np.zeros(2, np.float32))
    assert reward == 1.0
    _, info = env.reset(options={"location": (3.0, 1.0)})  # the goal of an option lasts an episode
    np.testing.assert_array_equal(info["goal"], [1.0, 1.0])
    assert info["is_success"] is False
    env.unwrapped.set_goal((3.0, 3.0))
    np.testing.assert_array_equal(env.unwrapped.goal, [3.0, 3.0])
    _, info = env.reset()
    np.testing.assert_array_equal(info["goal"], [3.0, 3.0])


def test_an_option_changes_no_other_draw():
    env = make("multi2d-umaze-v1")
    env.reset(seed=0)
    free, _ = env.reset()
    env.reset(seed=0)
    put, info = env.reset(options={"goal": (1.0, 1.0)})
    np.testing.assert_array_equal(free, put)
    np.testing.assert_array_equal(info["goal"], [1.0, 1.0])


def test_bad_options_say_what_is_wrong():
    for options, message in (
        ({"location": (2.0, 1.0)}, r"options\['location'\].*wall.*\(2, 1\)"),
        ({"location": (0.32, 1.0)}, "radius"),
        ({"location": (90.0, -4.0)}, "wall"),
        ({"location": (1.0, 1.0, 1.0)}, "two finite numbers"),
        ({"location": (np.nan, 1.0)}, "two finite numbers"),
        ({"location": "here"}, "two finite numbers"),
        ({"goal": (2.0, 1.0)}, r"options\['goal'\].*free cell"),
        ({"goal": 3}, "two finite numbers"),
        ({"target": (1.0, 1.0)}, "'location' and 'goal'.*target"),
    ):
        with pytest.raises(PgdiffEnvsError, match=message):
            make().reset(seed=0, options=options)


def test_bad_actions_say_what_is_wrong():
    env = make().unwrapped
    env.reset(seed=0)
    for action in ([0.0], [0.0, np.nan], [[0.0, 0.0]], "up", 1.0, None):
        with pytest.raises(PgdiffEnvsError, match="`action`"):
            env.step(action)
        observation, *_ = env.step(np.zeros(2))
        assert np.isfinite(observation).all()


def test_bad_arguments_say_what_is_wrong():
    for kwargs, message in (
        ({"reward": "none"}, "'sparse' or 'dense'"),
        ({"render_mode": "human"}, "rgb_array"),
        ({"render_size": 8}, "render_size"),
        ({"goal_steps": 0}, "goal_steps"),
        ({"layout": "umase"}, "Did you mean 'umaze'"),
        ({"layout": ["###", "#O", "###"]}, "equal length"),
        ({"layout": ["###", "#X#", "###"]}, "consist of"),
        ({"layout": ["####", "#GG#", "####"]}, "at most one"),
        ({"layout": ["###", "#OO", "###"]}, "walls all around"),
        ({"layout": ["###", "###", "###"]}, "free cell"),
        *(
            ({"force_noise": value}, "`force_noise` must be a finite number")
            for value in (-0.1, float("nan"), float("inf"), True, "much")
        ),
    ):
        with pytest.raises(PgdiffEnvsError, match=message):
            MazeEnv(**kwargs)


def test_scores():
    np.testing.assert_allclose(
        normalized_score("pgdiff_envs:maze2d-umaze-v1", [[23.85], [161.86]]), [[0.0], [100.0]]
    )
    with pytest.raises(PgdiffEnvsError, match="Did you mean 'maze2d-umaze-v1'"):
        normalized_score("maze2d-umaze-v2", 1.0)
    custom = pgdiff_envs.maze.MazeEnv(layout=["####", "#OO#", "####"])
    with pytest.raises(PgdiffEnvsError, match="reference_scores"):
        _ = custom.reference_scores
    np.testing.assert_array_equal(custom.goal, [1.0, 1.0])  # no goal marked: the first free cell


def test_pictures_move_with_the_ball_and_the_goal():
    env = make("maze2d-large-v1", render_mode="rgb_array", render_size=360)
    env.reset(seed=0, options={"location": (1.0, 1.0)})
    first = env.render()
    assert first.shape == (360, 270, 3)
    assert first.dtype == np.uint8
    np.testing.assert_array_equal(first, env.render())
    env.reset(seed=0, options={"location": (7.0, 10.0)})
    second = env.render()
    moved = np.argwhere((first != second).any(axis=-1))
    # x to the right, y upwards, 30 pixels per cell: the ball left (1, 1) and came to (7, 10).
    at = {(row // 30, column // 30) for row, column in moved}
    assert at == {(10, 1), (1, 7)}
    env.reset(seed=0, options={"location": (7.0, 10.0), "goal": (1.0, 1.0)})
    assert (env.render() != second).any()


def test_pictures_need_neither_opengl_nor_a_display():
    code = (
        "import os, sys; os.environ.pop('DISPLAY', None); os.environ['MUJOCO_GL'] = 'disable'\n"
        "import gymnasium\n"
        "env = gymnasium.make('pgdiff_envs:maze2d-umaze-v1', render_mode='rgb_array')\n"
        "env.reset(seed=0); print(env.render().shape)\n"
        "assert not any(name.startswith('OpenGL') for name in sys.modules)\n"
    )
    paths = [p for p in sys.path if p]
    done = subprocess.run(
        [sys.executable, "-c", f"import sys; sys.path[:0] = {paths!r}\n{code}"],
        capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "(400, 400, 3)"


def test_draw_shows_maze_and_plan():
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib.figure import Figure

    env = make("maze2d-medium-v1").unwrapped
    env.reset(seed=0)
    figure = Figure(figsize=(2, 2))
    axes = figure.add_subplot()
    env.draw(axes)
    before = len(axes.collections)
    assert len(axes.collections[0].get_paths()) == env.layout.walls.sum()
    candidates = np.random.default_rng(0).uniform(1, 6, size=(5, 8, 4))
    plan = SimpleNamespace(
        observations=candidates[3], candidates=candidates, scores=np.array([0, 1, 2, 9, 4.0])
    )
    env.draw(axes, plan=plan)
    np.testing.assert_array_equal(axes.lines[-1].get_xydata(), candidates[3, :, :2])
    drawn = axes.collections[-1]
    assert len(drawn.get_segments()) == 5
    # The best is drawn last.
    np.testing.assert_array_equal(drawn.get_segments()[-1], candidates[3, :, :2])
    assert len(axes.collections) > before
    figure.canvas.draw()
    env.draw(axes, plan=SimpleNamespace(observations=candidates[0]))
    with pytest.raises(PgdiffEnvsError, match="observations"):
        env.draw(axes, plan=SimpleNamespace())


def test_a_missing_module_names_its_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "mujoco", None)
    with pytest.raises(PgdiffEnvsError, match=r"pgdiff-rl\[mujoco\]"):
        pgdiff_envs.maze.MazeEnv()


def test_importing_the_package_needs_neither_mujoco_nor_pgdiff():
    code = (
        "import sys; sys.path[:0] = {paths!r}\nimport pgdiff_envs, pgdiff_envs.maze\n"
        "assert not {{'mujoco', 'pgdiff', 'matplotlib', 'torch'}} & set(sys.modules)"
    )
    paths = [p for p in sys.path if p]
    done = subprocess.run(
        [sys.executable, "-c", code.format(paths=paths)],
        capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


def test_geometry_of_the_layouts():
    layout = get_layout("umaze")
    assert layout.goal_cell == (1, 1)
    assert layout.cell(1.0, 1.0) == (1, 1)
    assert layout.cell(0.31, 1.29) == (1, 1)
    assert layout.cell(1.31, 1.0) == (2, 1)
    # From the middle of cell (1, 1), at (0.8, 0.8), the walls around are 0.5 away.
    assert layout.clearance(0.8, 0.8) == pytest.approx(0.5)
    assert layout.clearance(2.0, 1.0) == 0.0
    mirrored = get_layout(tuple(reversed(layout.rows)))
    assert mirrored.free_cells == tuple(sorted((4 - w, h) for w, h in layout.free_cells))


def test_force_noise_pushes_by_the_generators_draws():
    """The mean is D4RL's step, the deviation that of the force over the mass, for one step."""
    env = MazeEnv(layout="open", force_noise=0.4)
    exact = MazeEnv(layout="open")
    action = np.array([0.3, -0.2], np.float32)
    env.reset(seed=0)
    moved = []
    for _ in range(4000):
        env.set_observation([2.0, 3.0, 0.5, -0.5])
        moved.append(env.step(action)[0][2:])
    exact.reset(seed=0)
    exact.set_observation([2.0, 3.0, 0.5, -0.5])
    expected = exact.step(action)[0][2:]
    spread = 0.4 * 100.0 * 0.01 / (1000.0 * 4.0 / 3.0 * np.pi * 0.1**3)
    assert np.std(moved, axis=0) == pytest.approx(spread, rel=0.05)
    off = np.abs(np.mean(moved, axis=0) - expected).max()
    assert off < 4.5 * spread / np.sqrt(4000)


def test_force_noise_follows_the_seed_and_zero_is_none():
    def drive(**settings):
        env = MazeEnv(layout="umaze", **settings)
        env.reset(seed=5)
        return np.array([env.step(np.array([0.5, 0.5], np.float32))[0] for _ in range(50)])

    assert np.array_equal(drive(force_noise=0.3), drive(force_noise=0.3))
    assert not np.array_equal(drive(force_noise=0.3), drive())
    assert np.array_equal(drive(force_noise=0.0), drive())
