"""Recordings of several agents and noise levels."""

import json
from pathlib import Path

import gymnasium as gym
import h5py
import numpy as np
import pytest

from pgdiff.core.validation import PgdiffError
from pgdiff.data import check, load_episodes
from pgdiff.workflows.recording.collect import collect
from pgdiff.workflows.recording.collect_mix import (
    Mix,
    NoisyAgent,
    Part,
    collect_mix,
    episode_returns,
)

SPACE = gym.spaces.Box(np.array([-1.0, 0.0], np.float32), np.array([1.0, 4.0], np.float32))


class Line(gym.Env):
    """A point on a line, rewarded by the step's action; 3 ends an episode."""

    made = 0
    closed = 0

    observation_space = gym.spaces.Box(-np.inf, np.inf, (1,), np.float64)
    action_space = gym.spaces.Box(-1.0, 1.0, (1,), np.float32)

    def __init__(self) -> None:
        Line.made += 1

    def close(self) -> None:
        Line.closed += 1

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.place = self.np_random.uniform(-1, 1, 1)
        return self.place.copy(), {}

    def step(self, action):
        assert self.action_space.contains(action)
        self.place = self.place + 0.1 * action
        return self.place.copy(), float(action[0]), bool(self.place[0] > 3), False, {}


class Rewriting(Line):
    """The line with one array for all observations, which clips actions in place."""

    seen = np.zeros(1)

    def reset(self, **settings):
        self.seen[:] = super().reset(**settings)[0]
        return self.seen, {}

    def step(self, action):
        observation, reward, *rest = super().step(action)
        self.seen[:] = observation
        action[:] = np.nan
        return self.seen, np.array([reward], np.float32), *rest


class InPlace:
    """An agent that scales its input in place, and returns one array for all actions."""

    def __init__(self) -> None:
        self.actions = np.zeros((64, 1), np.float32)

    def predict(self, observation, state=None, episode_start=None, deterministic=False):
        rows = self.actions[: len(observation)] if observation.ndim > 1 else self.actions[0]
        rows[:] = 0.5 * np.sin(7 * observation)
        observation *= 100.0
        return rows, state


class Constant:
    """An agent with a constant mean; stochastic actions are drawn from torch's global generator."""

    def __init__(self, *action: float) -> None:
        self.action = np.array(action, np.float32)
        self.starts = 0

    def predict(self, observation, state=None, episode_start=None, deterministic=False):
        import torch

        self.starts += int(np.sum(episode_start))
        drawn = 0.0 if deterministic else 0.01 * torch.randn(1).numpy()
        action = np.broadcast_to(self.action, (*np.shape(observation)[:-1], len(self.action)))
        return action + drawn, 1


def make(limit: int = 50) -> gym.Env:
    return gym.wrappers.TimeLimit(Line(), limit)


def mix(*parts: Part, name: str = "some") -> Mix:
    return Mix(name=name, parts=parts)


EXPERT = mix(Part())
HALVES = mix(Part(agent="first", share=0.5), Part(agent="last", noise=0.5, share=0.5))


@pytest.fixture
def record(tmp_path: Path):
    def run(*agents, name: str = "a.hdf5", steps: int = 1000, seed: int = 0, **options):
        env = options.pop("env", None) or make()
        options = {"mix": EXPERT, **options}
        path = tmp_path / name
        return path, collect_mix(
            env, path, agents=agents, steps=steps, seed=seed, progress=False, **options
        )

    return run


# ------------------------------------------------------------------------------------- the noise


def test_noise_is_in_units_of_half_the_range_and_clipped() -> None:
    agent = NoisyAgent(Constant(0.0, 2.0), action_space=SPACE, noise=0.1, seed=0)
    actions, _ = agent.predict(np.zeros((20_000, 3)), None, np.ones(20_000, bool))
    assert actions.dtype == np.float32
    np.testing.assert_allclose(actions.mean(axis=0), [0, 2], atol=0.01)
    np.testing.assert_allclose(actions.std(axis=0), [0.1, 0.2], rtol=0.03)
    assert abs(np.corrcoef(actions.T)[0, 1]) < 0.03
    loud = NoisyAgent(Constant(0.0, 2.0), action_space=SPACE, noise=5.0, seed=0)
    actions, _ = loud.predict(np.zeros((1000, 3)), None, np.ones(1000, bool))
    assert all(SPACE.contains(action) for action in actions)
    assert (actions == SPACE.high).mean() > 0.3


def test_noise_comes_from_its_seed_alone() -> None:
    def drawn(seed: int) -> np.ndarray:
        agent = NoisyAgent(Constant(0.0, 2.0), action_space=SPACE, noise=0.1, seed=seed)
        np.random.default_rng().random()
        return np.array([agent.predict(np.zeros(3), None, True)[0] for _ in range(5)])

    np.testing.assert_array_equal(drawn(3), drawn(3))
    assert (drawn(3) != drawn(4)).all()


def test_an_episodes_noise_does_not_depend_on_its_neighbours() -> None:
    def noisy() -> NoisyAgent:
        return NoisyAgent(Constant(0.0, 2.0), action_space=SPACE, noise=0.1, seed=5)

    alone, together = noisy(), noisy()
    none = np.zeros(3, bool)
    episodes = [
        [alone.predict(np.zeros(3), None, [step == 0])[0] for step in range(4)] for _ in range(4)
    ]
    first, _ = together.predict(np.zeros((3, 3)), None, ~none)
    second, _ = together.predict(np.zeros((3, 3)), None, none)
    third, _ = together.predict(np.zeros((3, 3)), None, np.array([False, True, False]))
    for row in (0, 1, 2):
        np.testing.assert_array_equal([first[row], second[row]], episodes[row][:2])
    np.testing.assert_array_equal(third, [episodes[0][2], episodes[3][0], episodes[2][2]])


def test_deterministic_calls_leave_the_noise_out() -> None:
    agent = NoisyAgent(
        Constant(0.5, 9.0), action_space=SPACE, noise=1.0, seed=0, deterministic=False
    )
    action, state = agent.predict(np.zeros(3), None, True, deterministic=True)
    np.testing.assert_array_equal(action, np.array([0.5, 4.0], np.float32))
    assert state == 1


def test_an_agent_without_noise_is_as_it_is() -> None:
    agent = NoisyAgent(Constant(0.3, 1.7), action_space=SPACE, noise=0.0, seed=0)
    action, _ = agent.predict(np.zeros(3), None, True)
    np.testing.assert_array_equal(action, np.array([0.3, 1.7], np.float32))


def test_bad_noise_and_actions() -> None:
    unbounded = gym.spaces.Box(-np.inf, np.inf, (2,))
    for options, message in (
        ({"noise": -0.1}, r"`noise` must be a number in \[0"),
        ({"noise": np.nan}, "`noise`"),
        ({"seed": -1}, "`seed`"),
        ({"action_space": unbounded}, "`action_space` must have finite bounds"),
    ):
        settings = {"action_space": SPACE, "noise": 0.1, "seed": 0, **options}
        with pytest.raises(PgdiffError, match=message):
            NoisyAgent(Constant(0, 0), **settings)
    for action in ((0.0,), (0.0, np.nan), (np.inf, 0.0), (0.0, 0.0, 0.0)):
        agent = NoisyAgent(Constant(*action), action_space=SPACE, noise=0.1, seed=0)
        with pytest.raises(PgdiffError, match=r"finite actions of shape \(2,\)"):
            agent.predict(np.zeros(3), None, True)


# ------------------------------------------------------------------------------------- the parts


def test_which_agent_and_how_noisy() -> None:
    part = Part(agent="first", noise=0.1, noise_alone=0.4)
    assert [part.index(1), part.index(3)] == [0, 0]
    assert [part.noise_of(1), part.noise_of(2)] == [0.4, 0.1]
    assert [Part().index(3), Part(agent=-1).index(3), Part(agent=-3).index(3)] == [2, 2, 0]
    assert Part(noise=0.2).noise_of(1) == 0.2
    with pytest.raises(PgdiffError, match=r"`agent` must be at least -2.* Got -3"):
        Part(agent=-3).index(2)


def test_shares_of_the_rows() -> None:
    fifths = mix(*(Part(noise=noise, share=0.2) for noise in (0, 0.25, 0.5, 0.75, 1)))
    for steps in (5, 7, 999, 1000):
        stops = fifths.stops(steps)
        assert stops[-1] == steps
        assert np.abs(np.diff([0, *stops]) - steps / 5).max() <= 1
    thirds = mix(*(Part(share=1 / 3) for _ in range(3)))
    assert thirds.stops(9) == [3, 6, 9]


def test_bad_parts() -> None:
    for options, message in (
        ({"agent": "best"}, "`agent` must be 'first', 'last'"),
        ({"agent": 0}, "`agent`.*Got 0"),
        ({"agent": True}, "`agent`.*Got True"),
        ({"agent": None}, "`agent`"),
        ({"noise": -1.0}, "`noise`.*Got -1.0"),
        ({"noise": "much"}, "`noise`.*Got 'much'"),
        ({"noise_alone": -1.0}, "`noise_alone`"),
        ({"deterministic": "yes"}, "`deterministic` must be true or false. Got 'yes'"),
        ({"share": 0.0}, "`share`"),
        ({"share": 1.5}, "`share`"),
    ):
        with pytest.raises(PgdiffError, match=message):
            Part(**options)
    for shares in ((), (0.5,), (0.5, 0.6), (0.3, 0.3, 0.3)):
        with pytest.raises(PgdiffError, match=r"'some' must sum to 1. Got"):
            mix(*(Part(share=share) for share in shares))


# -------------------------------------------------------------------------------- the recordings


def test_parts_follow_each_other_in_whole_episodes(record) -> None:
    worse, better = Constant(-0.5), Constant(0.9)
    path, parts = record(worse, better, mix=HALVES, steps=1030)
    assert check(path) == []
    episodes = load_episodes(path)
    rows = episodes.rewards[:515], episodes.rewards[515:]
    np.testing.assert_allclose(rows[0], -0.5)
    assert rows[1].std() > 0.1 and rows[1].mean() > 0.5
    assert [(part.agent, part.noise, part.rows) for part in parts] == [(0, 0.0, 515), (1, 0.5, 515)]
    # An episode ends by the environment or at the end of a part: 515 = 10 * 50 + 15.
    assert episodes.ends[:11].tolist() == [*range(50, 501, 50), 515]
    assert episodes.timeouts[514] and not episodes.terminals[514]
    assert worse.starts == 11
    assert not (episodes.terminals & episodes.timeouts).any()
    jumps = np.abs(np.diff(episodes.observations[:, 0])) > 0.11
    assert set(np.flatnonzero(jumps)) <= set(episodes.ends[:-1] - 1)


@pytest.fixture
def registered():
    """Register an id from which copies of the line can be made."""
    gym.register("MixedLine-v0", entry_point=Line, max_episode_steps=50)
    yield "MixedLine-v0"
    del gym.registry["MixedLine-v0"]


@pytest.mark.parametrize("steps", [20, 333])
def test_environments_together_record_what_one_would(record, registered, steps: int) -> None:
    """Episodes have 20 to 50 steps: in the order of their ends, short ones would come first."""
    agent = Constant(1.0)
    noisy = mix(Part(noise=0.4, share=0.4), Part(noise=0.9, share=0.6))
    recorded = []
    for parallel in (1, 3, 16):
        env = gym.make(registered)
        Line.made = Line.closed = 0
        path, parts = record(
            agent, env=env, mix=noisy, steps=steps, parallel=parallel, name=f"{parallel}.hdf5"
        )
        assert Line.made == Line.closed == parallel - 1  # the given one stays open
        recorded.append((path.read_bytes(), [part.returns.tolist() for part in parts]))
    assert recorded[0] == recorded[1] == recorded[2]
    lengths = load_episodes(path).lengths
    assert steps == 20 or len(np.unique(lengths)) > 3


def test_arrays_that_are_rewritten_in_place(record, tmp_path: Path) -> None:
    """Environment and agent both reuse their arrays; the recording does not change."""
    contents = []
    for number, env in enumerate((Line, Rewriting)):
        gym.register("Rewritten-v0", entry_point=env, max_episode_steps=50)
        try:
            made = gym.make("Rewritten-v0", disable_env_checker=True)
            path, _ = record(InPlace(), env=made, steps=np.int64(300), seed=np.int64(0), name="m")
            alone = tmp_path / f"alone{number}"
            collect(made, alone, steps=np.int32(300), seed=np.int64(0), expert=InPlace(),
                    progress=False)  # fmt: skip
        finally:
            del gym.registry["Rewritten-v0"]
        contents.append([path.read_bytes(), alone.read_bytes()])
        path.unlink()
        episodes = load_episodes(alone)
        moves = episodes.next_observations - episodes.observations
        np.testing.assert_allclose(moves, 0.1 * episodes.actions, atol=1e-6)
    assert contents[0] == contents[1]


def test_physics_come_from_each_environment(record, tmp_path: Path) -> None:
    env = gym.make("pgdiff_envs:hopper-v5")
    contents = [
        record(Constant(0.3, -0.2, 0.1), env=env, steps=200, parallel=parallel, name=name)[0]
        for parallel, name in ((1, "a"), (5, "b"))
    ]
    assert contents[0].read_bytes() == contents[1].read_bytes()


def test_rewards_are_of_the_step_from_their_row(record) -> None:
    path, _ = record(Constant(0.9), mix=mix(Part(noise=1.0)))
    episodes = load_episodes(path)
    np.testing.assert_array_equal(episodes.rewards, episodes.actions[:, 0])
    inside = np.setdiff1d(np.arange(999), episodes.ends - 1)
    moves = episodes.observations[inside + 1] - episodes.observations[inside]
    np.testing.assert_allclose(moves, 0.1 * episodes.actions[inside], atol=1e-6)
    # Of every row, including the last of an episode.
    assert episodes.terminals.any()
    led_to = episodes.next_observations - episodes.observations
    np.testing.assert_allclose(led_to, 0.1 * episodes.actions, atol=1e-6)
    np.testing.assert_array_equal(
        episodes.next_observations[inside], episodes.observations[inside + 1]
    )


def test_returns_are_those_of_whole_episodes(record) -> None:
    path, parts = record(Constant(0.8), mix=mix(Part(noise=0.3)), steps=1010)
    episodes = load_episodes(path)
    sums = [
        episodes.rewards[start:end].sum(dtype=np.float64)
        for start, end in zip(episodes.starts, episodes.ends, strict=True)
    ]
    assert len(sums) > 20 and episodes.lengths[-1] < 30  # the last one is cut
    np.testing.assert_allclose(parts[0].returns, sums[:-1], rtol=1e-12)


def test_an_episode_that_ends_with_the_rows_is_whole(record) -> None:
    path, parts = record(Constant(-0.5), steps=100)
    assert len(parts[0].returns) == len(load_episodes(path)) == 2
    path, parts = record(Constant(-0.5), steps=40, name="b.hdf5")
    assert len(parts[0].returns) == 0
    assert json.loads(attributes(path)["parts"])[0]["mean_return"] is None


def attributes(path: Path) -> dict:
    with h5py.File(path) as file:
        return dict(file.attrs)


def test_what_the_file_says(record, tmp_path: Path) -> None:
    path, parts = record(
        Constant(-0.5), Constant(0.9), mix=HALVES, seed=7, names=["w.zip sha256:12", "b.zip"]
    )
    written = attributes(path)
    described = json.loads(written.pop("parts"))
    assert written == {"env_id": "Line", "seed": 7, "mix": "some", "reward_of": "transition"}
    assert described[0] == {
        "agent": "w.zip sha256:12", "noise": 0.0, "deterministic": True, "rows": 500,
        "episodes": 10, "mean_return": pytest.approx(-25.0),
    }  # fmt: skip
    assert (described[1]["agent"], described[1]["noise"]) == ("b.zip", 0.5)
    assert described[1]["episodes"] == len(parts[1].returns)
    assert str(tmp_path) not in json.dumps(described)


def test_same_seed_same_bytes(record) -> None:
    drawing = mix(Part(noise=0.2, share=0.5), Part(noise=0.1, deterministic=False, share=0.5))
    contents = [
        record(Constant(0.5), mix=drawing, seed=seed, name=name)[0].read_bytes()
        for name, seed in (("a", 3), ("b", 3), ("c", 4))
    ]
    assert contents[0] == contents[1] != contents[2]


def test_parts_differ_in_their_starts_and_noise(record) -> None:
    twice = mix(Part(noise=0.2, share=0.5), Part(noise=0.2, share=0.5))
    path, _ = record(Constant(0.0), mix=twice)
    episodes = load_episodes(path)
    assert (episodes.actions[:500] != episodes.actions[500:]).all()
    assert episodes.observations[0] != episodes.observations[500]


def test_global_random_states_are_left_alone(record) -> None:
    import torch

    before = torch.random.get_rng_state()
    record(Constant(0.5), mix=mix(Part(deterministic=False)))
    assert torch.equal(before, torch.random.get_rng_state())


def test_hoppers_state_can_be_set_from_a_row(record) -> None:
    env = gym.make("pgdiff_envs:hopper-v5")
    path, _ = record(Constant(0.3, -0.2, 0.1), env=env, mix=mix(Part(noise=0.5)), steps=300)
    assert attributes(path)["env_id"] == "hopper-v5"
    episodes = load_episodes(path)
    task = env.unwrapped
    assert episodes.terminals.any()
    np.testing.assert_array_equal(task.ends_episode(episodes.next_observations), episodes.terminals)
    rows = np.setdiff1d(np.arange(299), episodes.ends - 1)
    for row in rows[::10]:
        task.set_state(episodes.infos["qpos"][row], episodes.infos["qvel"][row])
        by_state, reward, *_ = task.step(episodes.actions[row])
        np.testing.assert_allclose(by_state, episodes.next_observations[row], atol=1e-4)
        assert reward == pytest.approx(episodes.rewards[row], abs=1e-3)
        task.set_observation(episodes.observations[row])
        by_observation, *_ = task.step(episodes.actions[row])
        np.testing.assert_allclose(by_observation, by_state, atol=1e-4)


def test_bad_input_leaves_nothing_behind(record, tmp_path: Path) -> None:
    for agents, options, message in (
        ((), {}, "`agents` must hold at least one"),
        ((Constant(0.5),), {"steps": 0}, "`steps`"),
        ((Constant(0.5),), {"steps": 1, "mix": HALVES}, "`steps` must give each of the 2 parts"),
        ((Constant(0.5),), {"seed": -1}, "`seed`"),
        ((Constant(0.5),), {"parallel": 0}, "`parallel`"),
        ((Constant(0.5),), {"names": ["a", "b"]}, "Got 1 agents and 2 names"),
        ((object(),), {}, "`agents` must have a method `predict`. 'object' has none"),
        ((Constant(0.5),), {"mix": mix(Part(agent=-2))}, "`agent` must be at least -1.*Got -2"),
        ((Constant(0.5, 0.5),), {}, "finite actions"),
        ((Constant(np.nan),), {}, "finite actions"),
        ((Constant(0.5),), {"env": gym.make("CartPole-v1")}, "`env.action_space` must be a flat"),
    ):
        with pytest.raises(PgdiffError, match=message):
            record(*agents, **options)
        assert list(tmp_path.iterdir()) == [], message


def test_spaces_that_differ(record, tmp_path: Path) -> None:
    agent = Constant(0.5)
    agent.observation_space = gym.spaces.Box(-1, 1, (17,))
    with pytest.raises(PgdiffError, match=r"'b.zip': .*observation.*\(17,\).*\(1,\)"):
        record(Constant(0.5), agent, names=["a.zip", "b.zip"])
    del agent.observation_space
    agent.action_space = gym.spaces.Box(-1, 1, (3,))
    with pytest.raises(PgdiffError, match=r"'b.zip': .*action.*\(3,\).*\(1,\)"):
        record(Constant(0.5), agent, names=["a.zip", "b.zip"])
    assert list(tmp_path.iterdir()) == []


def test_existing_file_is_kept(record) -> None:
    path, _ = record(Constant(0.5))
    before = path.read_bytes()
    with pytest.raises(PgdiffError, match="overwrite=True"):
        record(Constant(0.6))
    assert path.read_bytes() == before
    record(Constant(0.6), overwrite=True)
    assert path.read_bytes() != before


def test_interrupted_recording_leaves_nothing_behind(record, tmp_path: Path, monkeypatch) -> None:
    def interrupt(self, action):
        raise KeyboardInterrupt

    monkeypatch.setattr(Line, "step", interrupt)
    with pytest.raises(KeyboardInterrupt):
        record(Constant(0.5))
    assert list(tmp_path.iterdir()) == []


def test_returns_of_marked_rows() -> None:
    rewards = np.array([1, 2, 4, 8, 16, 32], np.float32)
    ended = np.array([0, 1, 0, 0, 1, 0], bool)
    np.testing.assert_array_equal(episode_returns(rewards, ended), [3, 28])
    assert episode_returns(rewards, np.zeros(6, bool)).shape == (0,)


def test_progress_bar(tmp_path: Path, capsys) -> None:
    path = tmp_path / "a.hdf5"
    collect_mix(make(), path, agents=[Constant(0.5)], mix=HALVES, steps=2500, seed=0)
    assert "2500/2500" in capsys.readouterr().err
