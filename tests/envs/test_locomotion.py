"""Gymnasium's tasks without changes, and the exact reset to an observation."""

import os
import subprocess
import sys

import gymnasium
import numpy as np
import pytest

from pgdiff_envs import LOCOMOTION_TASKS, REFERENCE_SCORES, PgdiffEnvsError, normalized_score

GYMNASIUMS = {
    "hopper-v5": "Hopper-v5",
    "walker2d-v5": "Walker2d-v5",
    "halfcheetah-v5": "HalfCheetah-v5",
}
tasks = pytest.mark.parametrize("task", GYMNASIUMS)


def make(task: str) -> gymnasium.Env:
    return gymnasium.make(f"pgdiff_envs:{task}")


def walk(env: gymnasium.Env, steps: int, seed: int = 0):
    """Return every number of an environment under random actions, episode after episode."""
    rng = np.random.default_rng(seed)
    observation, info = env.reset(seed=seed)
    numbers = [observation, *info.values()]
    for _ in range(steps):
        observation, reward, terminated, truncated, info = env.step(
            rng.uniform(-1, 1, env.action_space.shape).astype(np.float32)
        )
        numbers += [observation, reward, terminated, truncated, *info.values()]
        if terminated or truncated:
            observation, info = env.reset()
            numbers += [observation, *info.values()]
    return np.concatenate([np.ravel(value) for value in numbers])


@tasks
def test_equal_to_gymnasiums_bit_for_bit(task: str, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)  # MuJoCo leaves a log of its warnings about Gymnasium's XML
    ours, gymnasiums = make(task), gymnasium.make(GYMNASIUMS[task])
    assert ours.spec.max_episode_steps == gymnasiums.spec.max_episode_steps == 1000
    assert ours.observation_space == gymnasiums.observation_space
    assert ours.action_space == gymnasiums.action_space
    np.testing.assert_array_equal(walk(ours, 1100), walk(gymnasiums, 1100))


@tasks
def test_a_set_observation_is_the_observation(task: str) -> None:
    env = make(task)
    env.reset(seed=0)
    rng = np.random.default_rng(0)
    for _ in range(50):
        wanted = rng.uniform(-9, 9, env.observation_space.shape)
        env.step(env.action_space.high)  # independent of the simulator's earlier state
        np.testing.assert_array_equal(env.unwrapped.set_observation(wanted), wanted)
        assert env.unwrapped.data.qpos[0] == 0 and env.unwrapped.data.time == 0


@tasks
def test_one_step_from_a_recorded_row_gives_the_next_one(task: str) -> None:
    recorder, env = make(task), make(task)
    rng = np.random.default_rng(1)
    observation, _ = recorder.reset(seed=0)
    env.reset(seed=0)
    exact, single = [], []
    clipped = 0
    for _ in range(600):
        action = rng.uniform(-1, 1, recorder.action_space.shape).astype(np.float32)
        seen = task == "halfcheetah-v5" or np.abs(recorder.unwrapped.data.qvel).max() <= 10
        following, reward, terminated, truncated, _ = recorder.step(action)
        clipped += not seen
        if seen:  # the row determines the whole state but the root's x
            for errors, kind in ((exact, np.float64), (single, np.float32)):
                env.unwrapped.set_observation(observation.astype(kind))
                found, env_reward, *_ = env.unwrapped.step(action)
                errors.append([np.abs(found - following).max(), abs(env_reward - reward)])
        observation = following
        if terminated or truncated:
            observation, _ = recorder.reset()
    assert len(exact) > 100
    for name, errors in (("float64", exact), ("float32", single)):
        middle, worst = np.median(errors, axis=0), np.max(errors, axis=0)
        print(f"{task} {name}: median {middle[0]:.0e}, largest {worst[0]:.0e}; {clipped} clipped")
    # The solver starts cold here and warm there, without effect: it converges.
    assert np.max(exact) < 1e-9
    # A recording is rounded to float32; contacts increase the error.
    assert np.median(single) < 1e-5
    assert np.max(single) < 1e-2


def test_velocities_outside_are_set_as_they_are_and_observed_clipped() -> None:
    env = make("walker2d-v5").unwrapped
    wanted = np.zeros(17)
    wanted[0], wanted[-1] = 1.2, 12.0
    returned = env.set_observation(wanted)
    assert env.data.qvel[-1] == 12.0
    np.testing.assert_array_equal(returned, [*wanted[:-1], 10.0])


def test_a_clipped_velocity_does_not_tell_the_state() -> None:
    for task, expected in (("walker2d-v5", False), ("hopper-v5", False), ("halfcheetah-v5", True)):
        env = make(task).unwrapped
        rows = np.zeros((3, *env.observation_space.shape), np.float32)
        rows[1, -1], rows[2, -1] = -10.0, 9.4
        rows[:, 0] = 12.0  # a position
        assert env.tells_state(rows).tolist() == [True, expected, True]


@tasks
def test_which_observations_end_an_episode(task: str) -> None:
    env = make(task).unwrapped
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(2000, *env.observation_space.shape))
    rows[:, 0] = rng.choice([0.6, 0.75, 0.9, 1.5, 2.1], size=2000)
    rows[:, 1] = rng.choice([0.0, 0.1, -0.3, 0.9, 1.1], size=2000)
    rows[::10, 5] = 101.0
    ends = env.ends_episode(rows)
    if task == "halfcheetah-v5":
        assert not ends.any()
        return
    for row, over in zip(rows, ends, strict=True):
        env.set_observation(row)
        assert over == (not env.is_healthy)
    assert 0.1 < ends.mean() < 0.99
    assert env.ends_episode(rows[0]) == ends[0]
    endless = gymnasium.make(f"pgdiff_envs:{task}", terminate_when_unhealthy=False).unwrapped
    assert not endless.ends_episode(rows).any()


def test_bad_observations_say_what_is_wrong() -> None:
    env = make("hopper-v5").unwrapped
    before, _ = env.reset(seed=0)
    for wrong in (np.zeros(12), np.zeros((1, 11)), [np.nan] * 11, [np.inf] * 11, "here", None, 3):
        with pytest.raises(PgdiffEnvsError, match=r"`observation` must be finite .* \(11,\)"):
            env.set_observation(wrong)
        np.testing.assert_array_equal(env._get_obs(), before)


def test_scores() -> None:
    # D4RL, `d4rl/infos.py`.
    d4rls = {
        "hopper-v5": (-20.272305, 3234.3),
        "walker2d-v5": (1.629008, 4592.3),
        "halfcheetah-v5": (-280.178953, 12135.0),
    }
    for task, returns in d4rls.items():
        env = make(task).unwrapped
        assert env.reference_scores == REFERENCE_SCORES[task] == returns
        np.testing.assert_allclose(env.normalized_score(returns), [0, 100], atol=1e-12)
        np.testing.assert_allclose(normalized_score(f"pgdiff_envs:{task}", returns), [0, 100])
    assert set(LOCOMOTION_TASKS) == set(d4rls)


def test_an_asynchronous_vector_environment() -> None:
    envs = gymnasium.make_vec("pgdiff_envs:hopper-v5", num_envs=2, vectorization_mode="async")
    observations, _ = envs.reset(seed=0)
    np.testing.assert_array_equal(observations[1], make("hopper-v5").reset(seed=1)[0])
    envs.close()


def run(code: str, folder, **options) -> subprocess.CompletedProcess:
    paths = [os.path.abspath(path) for path in sys.path if path]
    return subprocess.run(
        [sys.executable, "-c", f"import sys; sys.path[:0] = {paths!r}\n{code}"],
        capture_output=True, text=True, timeout=60, cwd=folder, **options,
    )  # fmt: skip


def test_mujoco_says_nothing_and_leaves_no_log(tmp_path) -> None:
    code = (
        "import gymnasium, mujoco\n"
        "gymnasium.make('pgdiff_envs:halfcheetah-v5').reset(seed=0)\n"
        "assert mujoco.get_mju_user_warning() is None\n"
    )
    done = run(code, tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert list(tmp_path.iterdir()) == []


def test_a_missing_mujoco_names_its_extra(tmp_path) -> None:
    code = (
        "import sys; sys.modules['mujoco'] = None\n"
        "import gymnasium\n"
        "try: gymnasium.make('pgdiff_envs:hopper-v5')\n"
        "except ValueError as error: print(error)\n"
    )
    done = run(code, tmp_path)
    assert "pgdiff-rl[mujoco]" in done.stdout, done.stderr
