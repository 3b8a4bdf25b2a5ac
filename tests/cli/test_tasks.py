"""Tasks: of the data, of an environment's id, of a run; and what is refused."""

import json
import shutil
from pathlib import Path

import gymnasium as gym
import h5py
import numpy as np
import pytest

from pgdiff.agents import TD3BC, load
from pgdiff.cli.config_paths import choices, tables
from pgdiff.cli.environments import env_id_of
from pgdiff.cli.hydra_config import settings
from pgdiff.core.validation import PgdiffError
from pgdiff.data import write_hdf5
from pgdiff.runs.run import read_run

AGENT = ["recipe=td3_bc", "recipe.stages.td3_bc.arguments.width=8", "trainer.steps=4"]


@pytest.fixture(scope="module")
def pendulum(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Random actions in Pendulum-v1, in the fields and with the note of `pgdiff collect`."""
    rng = np.random.default_rng(0)
    rows: list[tuple[np.ndarray, np.ndarray, float]] = []
    with gym.make("Pendulum-v1") as env:
        observation, _ = env.reset(seed=0)
        for _ in range(400):
            action = rng.uniform(-0.5, 0.5, 1).astype(np.float32)
            after, reward, _, cut, _ = env.step(action)
            rows.append((observation, action, float(reward)))
            observation = env.reset()[0] if cut else after
    names = ("observations", "actions", "rewards")
    fields = {
        name: np.array(values) for name, values in zip(names, zip(*rows, strict=True), strict=True)
    }
    ends = np.arange(1, 401) % 200 == 0
    fields |= {"terminals": np.zeros(400, bool), "timeouts": ends}
    folder = tmp_path_factory.mktemp("pendulum")
    return write_hdf5(folder / "p=1.hdf5", fields, {"env_id": "Pendulum-v1"})


def unnamed(source: Path, target: Path, env_id: str | None = None) -> Path:
    """A copy that does not say where it was recorded, or says something else."""
    shutil.copy(source, target)
    with h5py.File(target, "r+") as file:
        del file.attrs["env_id"]
        if env_id is not None:
            file.attrs["env_id"] = env_id
    return target


def test_an_environment_of_ones_own_from_data_to_evaluation(
    pgdiff, pendulum: Path, tmp_path: Path
) -> None:
    """No word names the task: it is the data's, its bounds are the agent's, and it is acted in."""
    trained = pgdiff("train", *AGENT, f"data={pendulum}", "out=run")
    assert trained.code == 0, trained.err
    assert trained.out.startswith("task: Pendulum-v1 (horizon 16, stride 1, discount 0.99;")
    run = json.loads((tmp_path / "run" / "run.json").read_text())
    assert (run["task"]["name"], run["task"]["id"]) == ("Pendulum-v1", "Pendulum-v1")
    agent = load("run", device="cpu")
    assert isinstance(agent, TD3BC)
    assert (agent.action_low, agent.action_high) == ((-2.0,), (2.0,))
    acted = pgdiff("evaluate", "run=run", "member=1", "episodes=2", "record=0", "gallery=1")
    assert acted.code == 0, acted.err
    found = json.loads((tmp_path / "run" / "evaluation" / "evaluation.json").read_text())
    assert found["settings"]["env"] == "Pendulum-v1"
    assert found["settings"]["agent"] == "td3_bc, td3_bc, member 1 of 4"
    expected, environment = 0.0, gym.make("Pendulum-v1")
    observation, ended = environment.reset(seed=0)[0], False
    while not ended:
        action, _ = agent.member(1).predict(observation)
        observation, reward, _, ended, _ = environment.step(action)
        expected += float(reward)
    assert found["per_episode"]["returns"][0] == pytest.approx(expected, rel=1e-4)
    # Whatever takes an agent takes the folder; the recording is called by its environment.
    words = ["task.id=Pendulum-v1", "policy=run", "steps=30"]
    recorded = pgdiff("collect", *words)
    assert recorded.code == 0, recorded.err
    assert recorded.out.splitlines()[-1] == "data: data/Pendulum-v1-expert.hdf5"
    # A stage that is added has the task of the run.
    added = pgdiff("train", "recipe=cloning", "base=run", "trainer.steps=2")
    assert added.code == 0, added.err
    refused = pgdiff("evaluate", "run=run", "out=e")
    assert refused.code == 1 and "one of td3_bc, cloning" in refused.error
    assert (
        pgdiff("evaluate", "run=run", "stage=cloning", "episodes=1", "pictures=false", "out=e").code
        == 0
    )


def test_data_that_name_a_task_of_this_package(pgdiff, data: Path, tmp_path: Path) -> None:
    words = ["recipe=cloning", "trainer.steps=2"]
    named = unnamed(data, tmp_path / "a.hdf5", "maze2d-medium-v1")
    result = pgdiff("train", *words, f"data={named}", "out=run")
    assert result.code == 0, result.err
    assert read_run("run").task == settings("train", ["task=maze2d-medium-v1"])["task"]
    # A recording of the same sizes may be of another task, if the user says so.
    result = pgdiff("train", *words, f"data={named}", "task=maze2d-open-v0", "out=other")
    assert result.code == 0 and "was recorded in 'maze2d-medium-v1'" in result.err


def test_data_that_name_no_task(pgdiff, data: Path, tmp_path: Path) -> None:
    for env_id in (None, "no_such_module:Env-v0", "Nothing-v0"):
        source = unnamed(data, tmp_path / "a.hdf5", env_id)
        result = pgdiff("train", "data=a.hdf5", "out=run")
        assert result.code == 1
        assert result.error.startswith("error: `task` must be given")
        assert "task.id=ID" in result.error
        assert list(tmp_path.iterdir()) == [source]


def test_a_task_of_other_sizes(pgdiff, data: Path, tmp_path: Path) -> None:
    for word in ("task=hopper", "task.id=Pendulum-v1", "task.id=CartPole-v1"):
        result = pgdiff("train", word, f"data={data}", "out=run")
        assert result.code == 1
        assert "`task` must be the task in which the data were recorded" in result.error
        assert "Got 4 and 2 in" in result.error and "'maze2d-umaze-v1'" in result.error
    assert list(tmp_path.iterdir()) == []


def test_the_environment_of_a_run(own_run: Path) -> None:
    """A registered id, or one of this package's tasks; no module is imported for a file."""
    file = own_run / "run.json"
    content = json.loads(file.read_text())
    assert env_id_of(read_run(own_run), "Any-v0") == "Any-v0"
    for name, env_id, fits in [
        ("mine", "Pendulum-v1", True),
        ("mine", "pgdiff_envs:hopper-v5", True),
        ("maze2d-umaze-v1", "Pendulum-v1", True),
        ("maze2d-umaze-v1", "evil:Env-v0", False),
        ("maze2d-umaze-v1", "Nothing-v0", False),
        ("mine", None, False),
    ]:
        content["task"] |= {"name": name, "id": env_id}
        file.write_text(json.dumps(content))
        if fits:
            assert env_id_of(read_run(own_run), None) == env_id
            continue
        with pytest.raises(PgdiffError, match=r"`env` must be given for the run .* env=ID"):
            env_id_of(read_run(own_run), None)


# ------------------------------------------------------------------------ rewards and logarithms


def test_only_values_in_log_space_are_guided_by_their_logarithm() -> None:
    for recipe, task in (
        ("chunks", "custom"),
        ("forcing", "maze2d-large-v1"),
        ("segment_value", "hopper"),
        ("strided", "maze2d-large-v1"),
        ("value", "custom"),
    ):
        found = settings("train", [f"recipe={recipe}", f"task={task}", "task.id=Pendulum-v1"])
        (guide,) = found["recipe"]["guides"].values()
        log_space = task == "maze2d-large-v1"
        if "value" in found["recipe"]["stages"]:
            arguments = found["recipe"]["stages"]["value"]["arguments"]
            assert arguments["log_space"] == log_space
        assert guide["transform"] == ("log" if log_space else "none")
        assert guide["normalize_gradient"] == (None if log_space else "plan")


def test_only_values_of_mazes_guide_by_their_logarithm() -> None:
    """Rewards of mazes are never negative; in the other tasks nothing is known of them."""
    for task in choices("task"):
        row = tables()["value"].get(task, {})
        expected = "log" if "2d-" in task else "none"
        assert row.get("guides", {}).get("value", {}).get("transform", "none") == expected, task
        log_space = row.get("stages", {}).get("value", {}).get("arguments", {}).get("log_space")
        assert not log_space or expected == "log", task


def test_a_logarithm_of_negative_rewards_is_refused(
    pgdiff, pendulum: Path, tmp_path: Path, own_run: Path, quick
) -> None:
    for recipe in ("strided", "segment_value"):
        guide = "value" if recipe == "strided" else recipe
        words = [f"recipe={recipe}", f"recipe.guides.{guide}.transform=log"]
        result = pgdiff("train", *words, f"data={pendulum}", "out=run")
        assert result.code == 1
        assert f"`transform` of the guide '{guide}' must be 'none'" in result.error
        assert "Set transform=none" in result.error
        assert not (tmp_path / "run").exists()
    content = json.loads((own_run / "run.json").read_text())
    assert content["data"]["least_reward"] == 0.0
    content["data"]["least_reward"] = -3.5
    (own_run / "run.json").write_text(json.dumps(content))
    result = pgdiff("plan", f"run={own_run}", "out=p", *quick)
    assert result.code == 1 and "Got 'log', and rewards down to -3.5" in result.error
    assert not (tmp_path / "p").exists()


# ---------------------------------------------------------------------------------- wrong lines


def test_runs_that_neither_plan_nor_act(pgdiff, own_run: Path, tmp_path: Path) -> None:
    fitted = ["recipe=fitted_q", f"base={own_run}", "trainer.steps=2"]
    cloned = ["recipe=cloning", f"base={own_run}", "trainer.steps=2"]
    policies = f"recipe.stages.fitted_q.arguments.policies=[{own_run}/cloning]"
    assert pgdiff("train", *cloned).code == 0
    assert pgdiff("train", *fitted, policies).code == 0
    alone = tmp_path / "alone"
    shutil.copytree(own_run, alone)
    content = json.loads((alone / "run.json").read_text())
    content["stages"] = [stage for stage in content["stages"] if stage["name"] == "fitted_q"]
    (alone / "run.json").write_text(json.dumps(content))
    before = sorted(alone.rglob("*"))
    for words, message in [
        (["evaluate", "run=alone"], "`run` must hold a model that plans or an agent that acts"),
        (["plan", "run=alone"], "must have the stage 'model'"),
        (["generate", "run=alone"], "must have the stage 'model'"),
        (["evaluate", f"run={own_run}", "member=0"], "`stage` must be given with `member`"),
        (["evaluate", f"run={own_run}", "stage=value"], "`stage` must be one of {cloning}"),
        (["evaluate", f"run={own_run}", "stage=cloning", "member=4"], "`member` must be below 4"),
        (["evaluate", f"run={own_run}", "stage=cloning", "guide=value"], "must be left out when"),
        (
            ["evaluate", f"run={own_run}", "stage=cloning", "planner.sampling.steps=2"],
            "`planner.sampling` must",
        ),
        (["evaluate", f"run={own_run}", "stage=cloning", "ablation=true"], "`ablation` must be"),
        (["plan", f"run={own_run}", "guide=policy", f"guide.agent={own_run}/fitted_q"], "FittedQ"),
    ]:
        result = pgdiff(*words)
        assert result.code == 1
        assert message in result.error, result.error
    assert sorted(alone.rglob("*")) == before


WRONG = [
    # One line of each command, and each kind of value: paths, ids, lists, choices.
    ("train task.id=Pendlum-v1 data=DATA", "`task.id` must be an environment"),
    ("train task=custom data=DATA", "`task.id` or `task.name` must be given"),
    ("train data=[DATA,DATA]", "`data` must be a path"),
    ("train data=nowhere/v0", "does not exist"),
    ("train data=DATA out=DATA/run", "DATA/run"),
    ("collect task.name=mine", "`task.id` must be the id of an environment"),
    ("collect task=hopper policy=RUN", "must be the folder of an agent"),
    ("collect task=hopper policy=RUN/model", "Got a TrajectoryDiffusion"),
    ("generate run=DATA", "`run` must be a run folder"),
    ("compare real=DATA", "`synthetic` must be given"),
    ("compare real=DATA synthetic=DATA target=RUN", "`target`:"),
    ("convert data=DATA to=json out=a", "`to` must be one of"),
    ("evaluate run=RUN env=Pendulum-v1", "`env` must have the spaces"),
    ("evaluate run=RUN stage=iql", "`stage` must be left out"),
    ("plan run=RUN guide.agent=a=b.zip", "has no 'agent'"),
    ("plan run=RUN explain=true explain_behaviour=é.zip", "'é.zip' does not exist"),
]


def test_a_wrong_line_is_one_message_and_writes_nothing(
    pgdiff, data: Path, run_folder: Path, tmp_path: Path, snapshot
) -> None:
    before = snapshot(run_folder.parent)
    for line, message in WRONG:
        words = line.replace("DATA", str(data)).replace("RUN", str(run_folder)).split()
        result = pgdiff(*words)
        assert result.code == 1, line
        assert message.replace("DATA", str(data)) in result.error, result.error
    assert list(tmp_path.iterdir()) == []
    assert snapshot(run_folder.parent) == before
