"""`collect` with agents as recorders."""

import hashlib
import json
from pathlib import Path

import gymnasium as gym
import h5py
import numpy as np
import pytest

from pgdiff.cli.config_paths import choices
from pgdiff.cli.hydra_config import settings
from pgdiff.data import check, load_episodes

SIZES = {"hopper": (11, 3), "walker2d": (17, 6), "halfcheetah": (17, 6)}


class Constant:
    """Acts always alike."""

    def __init__(self, observation: int, action: int) -> None:
        self.observation_space = gym.spaces.Box(-np.inf, np.inf, (observation,))
        self.action_space = gym.spaces.Box(-1.0, 1.0, (action,))

    def predict(self, observation, state=None, episode_start=None, deterministic=False):
        return np.full((*observation.shape[:-1], *self.action_space.shape), 0.1), state


@pytest.fixture
def agents(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[tuple[Path, Path | None]]:
    """`pgdiff.agents.load` reads texts that hold the sizes; returns what it was called with."""
    import pgdiff.agents

    calls = []

    def load(path, *, vec_normalize=None, device="auto"):
        calls.append((path, vec_normalize))
        assert device == "cpu"
        return Constant(*map(int, Path(path).read_text().split()[:2]))

    monkeypatch.setattr(pgdiff.agents, "load", load)
    for name in ("agent", "worse", "better"):
        (tmp_path / f"{name}.zip").write_text(f"11 3 {name}")
    (tmp_path / "other.zip").write_text("17 3")
    (tmp_path / "more.zip").write_text("11 4")
    return calls


def attributes(path: Path) -> dict:
    with h5py.File(path) as file:
        return dict(file.attrs)


def test_a_mix_of_one_agent(pgdiff, agents, tmp_path: Path) -> None:
    result = pgdiff("collect", "task=hopper", "policy=agent.zip", "mix=noisy", "steps=500")
    assert result.code == 0, result.err
    lines = result.out.splitlines()
    assert lines[0].startswith("500 steps in")
    assert lines[1].split() == ["part", "noise", "rows", "episodes", "mean", "return", "score"]
    rows = [line.split() for line in lines[2:7]]
    assert [row[:3] for row in rows] == [
        ["agent.zip", noise, "100"] for noise in ("0.00", "0.25", "0.50", "0.75", "1.00")
    ]
    assert lines[-1] == "data: data/hopper-noisy.hdf5"
    data = tmp_path / "data" / "hopper-noisy.hdf5"
    assert check(data) == []
    assert data.with_suffix(".png").exists()
    task = gym.make("pgdiff_envs:hopper-v5").unwrapped
    for row, part in zip(rows, json.loads(attributes(data)["parts"]), strict=True):
        assert int(row[3]) == part["episodes"] > 0
        assert float(row[4]) == pytest.approx(part["mean_return"], abs=0.05)
        assert float(row[5]) == pytest.approx(task.normalized_score(part["mean_return"]), abs=0.05)


def test_an_agent_of_stable_baselines(pgdiff, tmp_path: Path) -> None:
    from stable_baselines3 import SAC

    env = gym.make("pgdiff_envs:hopper-v5")
    model = SAC("MlpPolicy", env, policy_kwargs={"net_arch": [16]}, buffer_size=10, device="cpu")
    model.save(tmp_path / "sac.zip")
    words = ["collect", "task=hopper", "policy=sac.zip", "steps=300"]
    for out in ("a.hdf5", "b.hdf5"):
        assert pgdiff(*words, f"out={out}").code == 0
    assert (tmp_path / "a.hdf5").read_bytes() == (tmp_path / "b.hdf5").read_bytes()
    drawn = load_episodes(tmp_path / "a.hdf5")
    best, _ = model.predict(drawn.observations, deterministic=True)
    assert np.abs(drawn.actions - best).mean() > 0.1
    assert pgdiff(*words, "mix.parts=[{agent: last}]", "out=best.hdf5").code == 0
    episodes = load_episodes(tmp_path / "best.hdf5")
    best, _ = model.predict(episodes.observations, deterministic=True)
    np.testing.assert_allclose(episodes.actions, best, atol=1e-5)


def test_the_file_names_its_agents_by_their_content(pgdiff, agents, tmp_path: Path) -> None:
    folder = tmp_path / "deep" / "in"
    folder.mkdir(parents=True)
    (tmp_path / "better.zip").rename(folder / "better.zip")
    words = ["task=hopper", f"policy=[worse.zip,{folder / 'better.zip'}]", "mix=medium-expert"]
    assert pgdiff("collect", *words, "steps=300", "seed=5").code == 0
    found = attributes(tmp_path / "data" / "hopper-medium-expert.hdf5")
    assert (found["mix"], found["seed"], found["env_id"]) == ("medium-expert", 5, "hopper-v5")
    parts = json.loads(found["parts"])
    digests = [hashlib.sha256(f"11 3 {name}".encode()).hexdigest() for name in ("worse", "better")]
    assert [part["agent"] for part in parts] == [
        f"worse.zip sha256:{digests[0]}",
        f"better.zip sha256:{digests[1]}",
    ]
    assert [part["noise"] for part in parts] == [0.0, 0.0]
    assert str(tmp_path) not in str(found)


def test_a_lone_agent_is_made_mediocre_by_the_tasks_noise(pgdiff, agents, tmp_path: Path) -> None:
    for task, sizes in SIZES.items():
        (tmp_path / "agent.zip").write_text("{} {}".format(*sizes))
        words = [f"task={task}", "policy=agent.zip", "steps=50"]
        assert pgdiff("collect", *words, "mix=medium").code == 0
        (part,) = json.loads(attributes(tmp_path / "data" / f"{task}-medium.hdf5")["parts"])
        expected = settings("collect", [f"task={task}"])["task"]["medium_noise"]
        assert part["noise"] == expected > 0
    assert pgdiff("collect", *words).code == 0  # the default mix
    episodes = load_episodes(tmp_path / "data" / f"{task}-expert.hdf5")
    np.testing.assert_array_equal(episodes.actions, np.float32(0.1))
    assert pgdiff("check", f"data/{task}-expert.hdf5").code == 0


def test_same_seed_same_bytes(pgdiff, agents, tmp_path: Path) -> None:
    words = ["collect", "task=hopper", "policy=agent.zip", "mix=noisy", "steps=100"]
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        assert pgdiff(*words, f"out={name}.hdf5", f"seed={seed}").code == 0
    a, b, c = ((tmp_path / f"{name}.hdf5").read_bytes() for name in "abc")
    assert a == b != c


def test_statistics_go_to_their_agents(pgdiff, agents) -> None:
    words = ["collect", "task=hopper", "steps=20"]
    assert pgdiff(*words, "policy=agent.zip", "vec_normalize=n.pkl").code == 0
    two = ["policy=[worse.zip,better.zip]", "vec_normalize=[a.pkl,b.pkl]", "overwrite=true"]
    assert pgdiff(*words, *two).code == 0
    assert [(path.name, statistics.name) for path, statistics in agents] == [
        ("agent.zip", "n.pkl"),
        ("worse.zip", "a.pkl"),
        ("better.zip", "b.pkl"),
    ]


def test_own_parts(pgdiff, agents, tmp_path: Path) -> None:
    parts = "mix.parts=[{agent:-2,noise:0.1,share:0.25},{share:0.75}]"
    words = ["task=hopper", "policy=[worse.zip,better.zip]", "steps=40", parts, "mix.name=mine"]
    assert pgdiff("collect", *words).code == 0
    found = json.loads(attributes(tmp_path / "data" / "hopper-mine.hdf5")["parts"])
    assert [(part["rows"], part["noise"]) for part in found] == [(10, 0.1), (30, 0.0)]


def test_a_sweep_over_mixes(pgdiff, agents, tmp_path: Path) -> None:
    words = ["-m", "task=hopper", "policy=agent.zip", "steps=50", "mix=expert,medium"]
    assert pgdiff("collect", *words).code == 0
    assert {file.stem for file in (tmp_path / "data").glob("*.hdf5")} == {
        "hopper-expert",
        "hopper-medium",
    }


AGENT = "policy=agent.zip"


def test_collect_refuses(pgdiff, agents, tmp_path: Path, snapshot) -> None:
    before = snapshot(tmp_path)
    for words, message in (
        (["policy=null"], "'pgdiff_envs:hopper-v5', which has none. Set policy=FILE"),
        (["policy=nowhere.zip"], "the file or the folder of an agent. 'nowhere.zip' does"),
        (["policy=[]"], "`policy` must be a path or a list"),
        ([AGENT, "mix=medum"], "Did you mean 'medium'"),
        ([AGENT, "mix.part=[]"], "Did you mean 'mix.parts'"),
        ([AGENT, "mix.parts=3"], "`mix.parts` must be a list"),
        ([AGENT, "mix.parts=[{share:0.5},{share:0.2}]"], "sum is 0.7"),
        ([AGENT, "mix.parts=[{agent:-2}]"], "Got -2"),
        ([AGENT, "mix.parts=[{nose:0.1}]"], "Got ['nose']"),
        ([AGENT, "noise=0.5"], "`noise`"),
        ([AGENT, "vec_normalize=[a.pkl,b.pkl]"], "one file for each of 1 files of `policy`. Got 2"),
        (["policy=other.zip"], "observations of shape (17,). Got 'hopper-v5'"),
        ([AGENT, "task=maze2d-umaze-v1"], "has an expert that records"),
        (["task=maze2d-umaze-v1", "mix=medium"], "`policy` must be given with mix=medium"),
        ([AGENT, "overwrite=2", "out=agent.zip"], "`overwrite` must be true or false"),
        ([AGENT, "out=agent.zip"], "'agent.zip' exists already. Set overwrite=true"),
    ):
        result = pgdiff("collect", "task=hopper", "steps=50", *words)
        assert result.code == 1, words
        assert message in result.error
    assert snapshot(tmp_path) == before


def test_every_mix_composes() -> None:
    for number, mix in enumerate(choices("mix")):
        task = ("hopper", "maze2d-umaze-v1")[number % 2]
        assert settings("collect", [f"task={task}", f"mix={mix}"])["mix"]["name"] == mix


def test_strided_trains_on_a_recording(pgdiff, agents, tiny, tmp_path: Path) -> None:
    (tmp_path / "agent.zip").write_text("17 6")
    words = ["task=halfcheetah", "policy=agent.zip", "mix=noisy", "steps=2000"]
    assert pgdiff("collect", *words, "out=data/halfcheetah.hdf5").code == 0
    result = pgdiff("train", "recipe=strided", "task=halfcheetah", *tiny)
    assert result.code == 0, result.err
    assert result.out.splitlines()[-1] == "run: runs/halfcheetah/strided/0"
