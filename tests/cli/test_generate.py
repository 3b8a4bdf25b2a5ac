"""`pgdiff generate`: from a run to a data set that trains an agent."""

import contextlib
import shutil
from collections.abc import Iterator
from pathlib import Path

import gymnasium as gym
import pytest
from joblib.externals.loky import get_reusable_executor
from stable_baselines3 import SAC

import pgdiff as package
from pgdiff.cli import main
from pgdiff.diffusion import Churn, Heun, KarrasSpacing, Sampling
from pgdiff.synthesis import ShardSampler

SMALL = ["transitions=300", "batch=16", "sampling.steps=2"]
SHORT = ["trainer.steps=20", "trainer.batch_size=8", "denoiser.width=16"]


@pytest.fixture(scope="module")
def runs(made: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("synthesis")
    words = ["task=maze2d-umaze-v1", f"data={made / 'data.hdf5'}", *SHORT]
    small = {"synthesis": ["denoiser.depth=1"], "transitions": ["denoiser.embedding=16"]}
    for recipe, extra in small.items():
        assert main(["train", f"recipe={recipe}", f"out={folder / recipe}", *words, *extra]) == 0
    return folder


@pytest.mark.parametrize("recipe", ["synthesis", "transitions"])
def test_rows_that_an_agent_learns_from(pgdiff, runs: Path, recipe: str) -> None:
    result = pgdiff("generate", f"run={runs / recipe}", *SMALL, "out=made.hdf5")
    assert result.code == 0, result.err
    assert "data: made.hdf5" in result.out
    episodes = package.load_episodes("made.hdf5")
    assert f"{episodes.steps} transitions, {len(episodes)} trajectories" in result.out
    assert pgdiff("check", "made.hdf5").code == 0
    words = ["recipe=iql", "recipe.stages.iql.arguments.width=16", "trainer.steps=3"]
    result = pgdiff("train", *words, "task=maze2d-umaze-v1", "data=made.hdf5", "out=agent")
    assert result.code == 0, result.err


def test_a_policy_steers_and_a_sweep_names_its_outputs(pgdiff, runs: Path, made: Path) -> None:
    words = ["recipe=cloning", "recipe.stages.cloning.arguments.width=16", "trainer.steps=3"]
    data = f"data={made / 'data.hdf5'}"
    assert pgdiff("train", *words, "task=maze2d-umaze-v1", data, "out=agent").code == 0
    policy = "policy=agent"  # of a run with one agent, or its folder, agent/cloning
    result = pgdiff("generate", f"run={runs / 'synthesis'}", *SMALL, policy, "out=guided.hdf5")
    assert result.code == 0, result.err
    assert pgdiff("generate", f"run={runs / 'synthesis'}", *SMALL, "out=plain.hdf5").code == 0
    guided, plain = (package.load_episodes(f"{name}.hdf5") for name in ("guided", "plain"))
    assert guided.actions.shape[1:] == plain.actions.shape[1:]
    assert not (guided.actions[:50] == plain.actions[:50]).all()
    result = pgdiff("generate", "-m", f"run={runs / 'synthesis'}", *SMALL, "seed=1,2")
    assert result.code == 0, result.err
    assert len(list(Path("data").glob("*.hdf5"))) == 2


@pytest.fixture
def no_workers_left() -> Iterator[None]:
    """joblib keeps its processes for minutes, in case of more jobs; other tests count processes."""
    yield
    get_reusable_executor().shutdown(wait=True)


@pytest.mark.slow
@pytest.mark.usefixtures("no_workers_left")
def test_jobs_of_a_launcher_share_a_data_set(pgdiff, runs: Path) -> None:
    words = [f"run={runs / 'synthesis'}", "transitions=600", "batch=4", "sampling.steps=2"]
    jobs = ["-m", "hydra/launcher=joblib", "hydra.launcher.n_jobs=2", "part=0,1", "parts=2"]
    result = pgdiff("generate", *jobs, *words, "out=shared.hdf5")
    assert result.code == 0, result.err
    assert not Path("shared.hdf5").exists()
    # Jobs of other processes did make them, each its own.
    assert {"00000.hdf5", "00001.hdf5"} <= {
        file.name for file in Path("shared.hdf5.shards").iterdir()
    }
    bad = pgdiff("generate", *jobs[:3], "seed=1,-1", *words)
    assert bad.code == 1
    assert pgdiff("generate", *words, "out=shared.hdf5", "resume=true").code == 0
    assert pgdiff("generate", *words, "out=whole.hdf5").code == 0
    assert Path("shared.hdf5").read_bytes() == Path("whole.hdf5").read_bytes()


def test_trajectories_of_a_task_end_by_its_rule(pgdiff) -> None:
    env = gym.make("pgdiff_envs:hopper-v5")
    SAC("MlpPolicy", env, device="cpu", buffer_size=1, seed=0).save("agent.zip")
    words = ["task=hopper", "data=data.hdf5"]
    result = pgdiff("collect", "task=hopper", "policy=agent.zip", "steps=600", "out=data.hdf5")
    assert result.code == 0, result.err
    small = ["trainer.steps=150", "trainer.batch_size=16", "denoiser.width=32", "denoiser.depth=1"]
    assert pgdiff("train", "recipe=synthesis", *words, *small, "out=run").code == 0
    made = {}
    for name, rule in (("drawn", "null"), ("ruled", "pgdiff_envs:hopper-v5")):
        out = f"out={name}.hdf5"
        large = ["transitions=300", "batch=256", "sampling.steps=8"]
        result = pgdiff("generate", "run=run", *large, out, f"termination={rule}")
        assert result.code == 0, result.err
        made[name] = package.load_episodes(f"{name}.hdf5")
    ends = env.unwrapped.ends_episode  # type: ignore[attr-defined]
    assert ends(made["drawn"].observations).any()
    assert not ends(made["ruled"].observations).any()
    assert made["ruled"].terminals[ends(made["ruled"].next_observations)].all()
    result = pgdiff(
        "generate", "run=run", *SMALL, "out=no.hdf5", "termination=pgdiff_envs:maze2d-umaze-v1"
    )
    assert result.code == 1
    assert "`termination` must be an environment with ends_episode" in result.error


def test_left_out_settings_of_the_sampling_keep_their_defaults(
    pgdiff, runs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[Sampling] = []
    monkeypatch.setattr(ShardSampler, "shard", lambda self, number: drawn.append(self.sampling))
    words = [f"run={runs / 'synthesis'}", "transitions=1"]
    for own in ([], ["sampling.steps=2", "sampling.solver=heun"], ["sampling.solver.churn=5"]):
        with contextlib.suppress(TypeError):  # no shard was sampled
            pgdiff("generate", *words, *own, "overwrite=true")
    default, changed = drawn
    assert default == Sampling(steps=32, solver=Churn(churn=80.0), spacing=KarrasSpacing())
    assert changed == default.replace(steps=2, solver=Heun())


def test_bad_words_are_named(pgdiff, runs: Path) -> None:
    for words, message in (
        (["part=1"], "`part` and `parts` must be given together"),
        (["parts=2", "part=2"], "`part` must be 0 to 1"),
        (["parts=2", "part=0", "overwrite=true"], "`overwrite` must be false"),
        (["transitions=0"], "`transitions` must be"),
        (["sampling.solver=euler"], "`sampling.solver` must be"),
        (["sampling.step=3"], "Did you mean 'sampling.steps'"),
        (["sampling.trust_region={name: own_step, radius: -1.0}"], "`radius` must be"),
        (["guide.scale=2"], "`guide` must be named"),
        (["policy=nowhere.zip"], "nowhere.zip"),
        (["guide=policy"], "policy"),
        (["condition=3"], "`condition` must map names"),
        (["condition={return: 3}"], "condition"),
        (["resume=maybe"], "`resume` must be true or false"),
        (["workers=1.5"], "`processes` must be"),
        (["out=."], "`out` must be a file"),
    ):
        result = pgdiff("generate", f"run={runs / 'synthesis'}", *SMALL, *words)
        assert result.code == 1, words
        assert message in result.error
    assert not list(Path.cwd().rglob("*.hdf5"))


def test_other_runs_and_agents_are_refused(pgdiff, runs: Path, made: Path) -> None:
    result = pgdiff("generate", f"run={made / 'run'}", *SMALL)
    assert result.code == 1
    assert "without actions, rewards, terminals" in result.error
    SAC("MlpPolicy", gym.make("Pendulum-v1"), device="cpu").save("other.zip")
    result = pgdiff("generate", f"run={runs / 'synthesis'}", *SMALL, "policy=other.zip")
    assert result.code == 1
    assert "`policy` must be of the model's task" in result.error
    result = pgdiff("generate", *SMALL)
    assert "`run` must be given" in result.error


def test_an_agent_learns_from_what_it_steers(pgdiff, runs: Path, made: Path) -> None:
    shutil.copytree(runs / "synthesis", "run")
    words = ["agent=iql", "agent.stages.iql.arguments.width=16", "trainer.steps=4"]
    sizes = [
        *("recipe.stages.agent.synthetic.trajectories=8", "recipe.stages.agent.synthetic.every=2"),
        "recipe.stages.agent.synthetic.sampling.steps=2",
    ]
    result = pgdiff("train", "recipe=pgd_agent", "base=run", *words, *sizes)
    assert result.code == 0, result.err
    assert "agent (iql): finished, 4 steps" in result.out
    assert package.load_learner("run/agent").members == 4  # type: ignore[attr-defined]
