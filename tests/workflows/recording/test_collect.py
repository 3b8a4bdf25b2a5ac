"""Recording of one long walk of a recorder, and of episodes of other agents."""

from pathlib import Path
from types import SimpleNamespace

import gymnasium as gym
import h5py
import numpy as np
import pytest

from pgdiff.core.validation import PgdiffError
from pgdiff.data import check, load_episodes
from pgdiff.workflows.recording.collect import collect


class Line(gym.Env):
    """A point on a line; the reward is 1 within 0.5 of the goal at 2. `edge` ends an episode."""

    observation_space = gym.spaces.Box(-np.inf, np.inf, (1,), np.float64)
    action_space = gym.spaces.Box(-1.0, 1.0, (1,), np.float32)

    def __init__(self, edge: float = np.inf, random_goal: bool = False, noise: float = 0.0) -> None:
        self.edge, self.random_goal, self.noise = edge, random_goal, noise
        self.goal = np.array([2.0])
        self.data = SimpleNamespace(qpos=np.zeros(1), qvel=np.zeros(1))

    def set_goal(self, goal) -> None:
        self.goal = np.array(goal)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.data.qpos[:], self.data.qvel[:] = self.np_random.uniform(-1, 1), 0
        return self.data.qpos.copy(), {}

    def step(self, action):
        self.data.qvel[:] = action
        self.data.qpos += 0.1 * self.data.qvel
        place = self.data.qpos.copy()
        reward = float(abs(place[0] - self.goal[0]) <= 0.5)
        return place + self.noise, reward, bool(abs(place[0]) > self.edge), False, {}

    def expert(self, seed: int) -> "Recorder":
        return Recorder(seed)


class Recorder:
    """A recorder that draws a new goal in the step after it reaches one."""

    def __init__(self, seed: int) -> None:
        self.draws = np.random.default_rng(seed)
        self.goal = self.draws.uniform(-3, 3, 1)
        self.goal_reached = False

    def predict(self, observation, state=None, episode_start=None, deterministic=False):
        if self.goal_reached:
            self.goal = self.draws.uniform(-3, 3, 1)
        self.goal_reached = bool(abs(observation[0] - self.goal[0]) < 0.1)
        return np.clip(self.goal - observation, -1, 1), state


class Drifter:
    """An agent without a goal; its state counts the steps of the episode."""

    def predict(self, observation, state=None, episode_start=None, deterministic=False):
        assert bool(episode_start[0]) == (state is None)
        return np.array([0.9], np.float32), (state or 0) + 1


class Answering(Line):
    """The environment with another reward or info."""

    def __init__(self, **answers) -> None:
        super().__init__()
        self.answers = answers

    def step(self, action):
        names = ("observation", "reward", "terminated", "truncated", "info")
        return tuple(
            self.answers.get(name, value)
            for name, value in zip(names, super().step(action), strict=True)
        )


@pytest.fixture
def record(tmp_path: Path):
    def run(env: gym.Env, steps: int = 500, seed: int = 0, name: str = "a.hdf5", **options):
        return collect(env, tmp_path / name, steps=steps, seed=seed, progress=False, **options)

    return run


def test_walk_is_one_episode_without_jumps(record) -> None:
    path = record(gym.wrappers.TimeLimit(Line(), 20))
    assert check(path) == []
    episodes = load_episodes(path)
    np.testing.assert_array_equal(episodes.lengths, [500])
    assert not episodes.terminals.any()
    assert np.flatnonzero(episodes.timeouts).tolist() == [499]
    assert len(np.unique(episodes.infos["goal"])) > 5
    moves = np.diff(episodes.observations[:, 0])
    # The action of row t leads to row t + 1, without resets and outdated rows.
    np.testing.assert_allclose(moves, 0.1 * episodes.actions[:-1, 0], atol=1e-5)
    np.testing.assert_array_equal(episodes.infos["qpos"], episodes.observations)


def test_walk_rewards_judge_their_own_row_by_the_task_goal(record) -> None:
    episodes = load_episodes(record(Line()))
    inside = np.abs(episodes.observations[:, 0] - 2.0) <= 0.5
    assert 0 < inside.sum() < 500
    np.testing.assert_array_equal(episodes.rewards, inside)


def test_a_reward_in_an_array_of_one_is_a_number(record) -> None:
    for options in ({}, {"expert": Drifter()}):
        path = record(Answering(reward=np.array([0.5])), overwrite=True, **options)
        assert set(load_episodes(path).rewards.tolist()) <= {0.0, 0.5}


def test_random_goal_rewards_follow_the_recorder(record) -> None:
    episodes = load_episodes(record(Line(random_goal=True)))
    distance = np.abs(episodes.observations[1:, 0] - episodes.infos["goal"][:-1, 0])
    np.testing.assert_array_equal(episodes.rewards[1:], distance <= 0.5)
    assert episodes.rewards.sum() > 20


def test_same_seed_same_bytes(record) -> None:
    contents = [
        record(Line(), seed=seed, name=f"{name}.hdf5").read_bytes()
        for name, seed in (("a", 3), ("b", 3), ("c", 4))
    ]
    assert contents[0] == contents[1] != contents[2]


def test_episodes_of_an_agent(record) -> None:
    env = gym.wrappers.TimeLimit(Line(edge=3.0), 40)
    path = record(env, steps=300, expert=Drifter())
    episodes = load_episodes(path)
    last = episodes.ends - 1
    assert len(episodes) > 5 and (episodes.lengths <= 40).all()
    for end in last[:-1]:
        reached = episodes.observations[end, 0] + 0.09
        assert bool(episodes.terminals[end]) == (reached > 3.0)
        assert bool(episodes.timeouts[end]) == (reached <= 3.0)
    # Here the reward of a row is that of the step from it.
    after = episodes.observations[:-1, 0] + 0.1 * episodes.actions[:-1, 0]
    inside = np.flatnonzero(np.abs(np.abs(after - 2.0) - 0.5) > 1e-3)
    np.testing.assert_array_equal(episodes.rewards[inside], np.abs(after[inside] - 2.0) <= 0.5)
    led_to = episodes.next_observations[:-1, 0]
    np.testing.assert_allclose(led_to, after, atol=1e-6)
    within = np.setdiff1d(np.arange(299), last)
    np.testing.assert_array_equal(led_to[within], episodes.observations[within + 1, 0])
    assert (episodes.next_observations[episodes.terminals] > 3.0).all()
    assert episodes.timeouts[-1] or episodes.terminals[-1]
    assert "goal" not in episodes.infos
    with h5py.File(path) as file:
        assert file.attrs["reward_of"] == "transition"


def test_stable_baselines_agent(record) -> None:
    import torch
    from stable_baselines3 import SAC

    env = gym.wrappers.TimeLimit(Line(), 25)
    agent = SAC("MlpPolicy", env, seed=0, buffer_size=10, device="cpu")
    before = torch.random.get_rng_state()
    contents = [
        record(env, steps=60, expert=agent, name=f"{name}.hdf5").read_bytes() for name in "ab"
    ]
    assert contents[0] == contents[1]
    assert torch.equal(
        before, torch.random.get_rng_state()
    )  # the state of the caller does not change


def test_existing_file_is_kept(record) -> None:
    path = record(Line())
    before = path.read_bytes()
    with pytest.raises(PgdiffError, match="overwrite=True"):
        record(Line(), seed=1)
    assert path.read_bytes() == before
    assert record(Line(), seed=1, overwrite=True).read_bytes() != before


def test_bad_input_leaves_nothing_behind(record, tmp_path: Path) -> None:
    for env, options, message in (
        (Line(), {"steps": 0}, "`steps`"),
        (Line(), {"seed": -1}, "`seed`"),
        (Line(edge=0.5), {}, "must not terminate"),
        (Line(noise=np.nan), {}, "`observations`, row 0"),
        (Line(), {"expert": object()}, "`predict`"),
        (Line(), {"expert": SimpleNamespace(predict=lambda *_, **__: (0.5, None))}, "shape"),
        (Answering(info=None), {}, "info.*'Answering'.*None"),
        (Answering(info=None), {"expert": Drifter()}, "info"),
        (Answering(reward=None), {"expert": Drifter()}, "must be finite"),
        (gym.make("CartPole-v1"), {}, "does not provide a recording expert"),
        (gym.make("CartPole-v1"), {"expert": Drifter()}, "`env.action_space` must be a flat Box"),
    ):
        with pytest.raises(PgdiffError, match=message):
            record(env, **options)
        assert list(tmp_path.iterdir()) == [], message


def test_interrupted_recording_leaves_nothing_behind(record, tmp_path: Path, monkeypatch) -> None:
    def interrupt(self, action):
        raise KeyboardInterrupt

    monkeypatch.setattr(Line, "step", interrupt)
    with pytest.raises(KeyboardInterrupt):
        record(Line())
    assert list(tmp_path.iterdir()) == []


def test_maze_with_its_own_recorder(record) -> None:
    env = gym.make("pgdiff_envs:maze2d-umaze-v1")
    path = record(env, steps=4000)
    assert path.read_bytes() == record(env, steps=4000, name="b.hdf5").read_bytes()
    assert check(path) == []
    episodes = load_episodes(path)
    assert (len(episodes), episodes.steps) == (1, 4000)  # TimeLimit is 300
    near = np.linalg.norm(episodes.observations[:, :2] - env.unwrapped.goal, axis=1) <= 0.5
    np.testing.assert_array_equal(episodes.rewards, near)
    assert len(np.unique(episodes.infos["goal"], axis=0)) > 5
    assert {"goal", "qpos", "qvel"} <= set(episodes.infos)
    # Without jumps and outdated observations: the ball moves by its velocity.
    step = np.diff(episodes.observations[:, :2], axis=0)
    np.testing.assert_allclose(step, 0.01 * episodes.observations[1:, 2:], atol=2e-3)


def test_maze_with_random_goals(record) -> None:
    env = gym.make("pgdiff_envs:multi2d-umaze-v1")
    episodes = load_episodes(record(env, steps=4000))
    distance = np.linalg.norm(episodes.observations[1:, :2] - episodes.infos["goal"][:-1], axis=1)
    np.testing.assert_array_equal(episodes.rewards[1:], distance <= 0.5)


def test_progress_bar(tmp_path: Path, capsys) -> None:
    collect(Line(), tmp_path / "a.hdf5", steps=1500, seed=0)
    assert "1500/1500" in capsys.readouterr().err
