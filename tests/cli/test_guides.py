"""Guides from the command line: policies, critics, several at once; in recipes; refusals."""

import json
import shutil
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.spaces import Box
from stable_baselines3 import SAC

from pgdiff.cli import main
from pgdiff.cli.config_paths import choices
from pgdiff.cli.hydra_config import settings
from pgdiff.cli.planners import make_planner
from pgdiff.core.pretrained import seeded_torch
from pgdiff.guides import Critic, Goal, Policy, Value
from pgdiff.planning import Planner
from pgdiff.runs.load import load_planner
from pgdiff.runs.run import read_run

ENV = "pgdiff_envs:maze2d-umaze-v1"
STEPS = ["trainer.steps=4", "trainer.batch_size=8"]
SCALE = settings("train", ["recipe=strided"])["recipe"]["guides"]["value"]["scale"]
FIELDS = "recipe.stages.model.arguments.tokens.fields=[observations,actions]"


class Room(gym.Env):
    """Never entered: an agent only asks for its spaces."""

    def __init__(self, actions: int = 2) -> None:
        self.observation_space = Box(-np.inf, np.inf, (4,), np.float32)
        self.action_space = Box(-1, 1, (actions,), np.float32)


def saved(path: Path, actions: int = 2) -> Path:
    with seeded_torch(seed=0):
        model = SAC("MlpPolicy", Room(actions), policy_kwargs={"net_arch": [8]}, device="cpu")
    model.save(path)
    return path


@pytest.fixture(scope="module")
def acting(made: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a run of actions and of agents, `run`, and agents: `sac.zip`, `other.zip`."""
    folder = tmp_path_factory.mktemp("acting")
    data, run = f"data={made / 'data.hdf5'}", folder / "run"
    words = [data, f"out={run}", FIELDS, "denoiser.width=16", "denoiser.depth=1", "task.horizon=6"]
    assert main(["train", *words, *STEPS]) == 0
    for recipe in ("iql", "cloning"):
        width = f"recipe.stages.{recipe}.arguments.width=16"
        words = [f"recipe={recipe}", f"base={run}", width, *STEPS]
        assert main(["train", *words]) == 0
    saved(folder / "sac.zip")
    saved(folder / "other.zip", actions=3)
    return folder


def planner_of(run: Path, *words: str) -> Planner:
    chosen = settings("evaluate", [f"run={run}", *words])
    return make_planner(chosen, read_run(run), gym.make(ENV))


def test_every_choice_of_a_guide_has_the_same_keys() -> None:
    """So that a sweep over choices may change any setting."""
    found = {name: settings("plan", [f"guide={name}"])["guide"] for name in choices("guide")}
    assert len({frozenset(keys) for keys in found.values()}) == 1
    for name, content in found.items():
        assert content == {"name": name, "also": None}, "the others are left out"


def test_words_stand_for_guides(acting: Path) -> None:
    sac = f"guide.agent={acting / 'sac.zip'}"
    also = f"guide.also={{policy: {{agent: {acting / 'sac.zip'}, scale: 0.1}}}}"
    value, critic = (Value, "value", SCALE), (Critic, "iql", 1.0)
    cases: list[tuple[list[str], list[Any]]] = [
        ([], [value]),
        (["guide=policy", sac, "guide.scale=0.3"], [(Policy, "policy", 0.3)]),
        (["guide=policy", "guide.agent=cloning"], [(Policy, "policy", 1.0)]),
        (["guide=policy", "guide.agent={stage: cloning}"], [(Policy, "policy", 1.0)]),
        (["guide=critic", sac.replace("agent", "critic")], [(Critic, "critic", 1.0)]),
        (["guide=iql", "guide.where=end"], [critic]),
        (["guide=cloning"], [(Policy, "cloning", 1.0)]),
        (["guide=goal", "guide.goal=[1, 2]"], [(Goal, "goal", 1.0)]),
        (["guide.also={mine: {name: policy, agent: iql}}"], [value, (Policy, "mine", 1.0)]),
        (["guide.also=iql"], [value, critic]),
        (
            ["guide.also=[iql, goal]", "guide.scale=2"],
            [(Value, "value", 2.0), critic, (Goal, "goal", 1.0)],
        ),
        (["guide=value", "guide.scale=5", also], [(Value, "value", 5.0), (Policy, "policy", 0.1)]),
        (["guide=none", sac], []),
    ]
    for words, expected in cases:
        planner = planner_of(acting / "run", *words)
        assert [(type(g), g.name, g.scale) for g in planner.guides] == expected, words


def test_a_plan_is_that_of_the_library(pgdiff, acting: Path, tmp_path: Path, quick) -> None:
    run, sac = acting / "run", acting / "sac.zip"
    also = f"guide.also={{policy: {{agent: {sac}, scale: 0.1}}}}"
    result = pgdiff("plan", f"run={run}", "out=p", "seed=4", "guide.scale=0.01", also, *quick)
    assert result.code == 0, result.err
    content = json.loads((tmp_path / "p" / "plan.json").read_text())
    guide = {"value": {"scale": 0.01}, "policy": {"agent": sac, "scale": 0.1}}
    planner = load_planner(run, guide=guide, candidates=3, sampling={"steps": 2})
    plan = planner.plan(gym.make(ENV).reset(seed=4)[0], seed=4)
    np.testing.assert_array_equal(np.float32(content["candidates"]), plan.candidates)
    assert content["guide"] == "value"
    expected = {"name": "policy", "agent": {"agent": str(sac)}, "scale": 0.1}
    assert content["guides"]["policy"] == expected
    assert content["guides"]["value"]["scale"] == 0.01
    assert (tmp_path / "p" / "guided_vs_unguided.png").exists()


def test_a_guide_to_the_goal_that_the_environment_tells(
    pgdiff, run_folder: Path, tmp_path: Path, quick
) -> None:
    words = [
        f"run={run_folder}",
        "guide=goal",
        "seed=3",
        "planner.selection.scale_ladder=null",
        *quick,
    ]
    assert pgdiff("plan", "out=p", *words).code == 0
    found = json.loads((tmp_path / "p" / "plan.json").read_text())
    _, info = gym.make(ENV).reset(seed=3)
    ends = np.array(found["candidates"])[:, -1, :2]
    expected = -np.square(ends - info["goal"]).sum(axis=1) / 2
    np.testing.assert_allclose(found["scores"], expected, rtol=1e-4)


def test_an_evaluation_says_all_guides(pgdiff, acting: Path, tmp_path: Path, quick) -> None:
    also = f"guide.also={{policy: {{agent: {acting / 'sac.zip'}, scale: 0.1}}}}"
    words = [f"run={acting / 'run'}", "episodes=1", "pictures=false", also, *quick]
    words.append("planner.replanning.every=100")
    result = pgdiff("evaluate", "out=e", *words)
    assert result.code == 0, result.err
    assert f"value x {SCALE:g}, 3 cand., replan 100, also policy x 0.1" in result.out
    found = json.loads((tmp_path / "e" / "evaluation.json").read_text())["settings"]["guides"]
    reference = {"agent": str(acting / "sac.zip")}
    assert found["policy"] == {"name": "policy", "agent": reference, "scale": 0.1}
    assert found["value"]["td_lambda"] == 0.7
    result = pgdiff("evaluate", "out=a", "ablation=true", *words)
    assert result.code == 0, result.err
    rows = {
        name: json.loads((tmp_path / "a" / f"ablation_{name}.json").read_text())["settings"]
        for name in ("no_guide", "gradient", "selection", "both")
    }
    scales = {
        name: [guide["scale"] for guide in said["guides"].values()] for name, said in rows.items()
    }
    assert scales == {
        "no_guide": [],
        "gradient": [SCALE, 0.1],
        "selection": [0.0, 0.0],
        "both": [SCALE, 0.1],
    }


def test_a_sweep_with_and_without_a_policy(pgdiff, acting: Path, tmp_path: Path, quick) -> None:
    shutil.copytree(acting / "run", tmp_path / "own")
    words = ["episodes=1", "pictures=false", *quick, f"guide.agent={acting / 'sac.zip'}"]
    words.append("planner.replanning.every=100")
    result = pgdiff("evaluate", "-m", "run=own", "guide=none,policy", *words)
    assert result.code == 0, result.err
    for guide in ("none", "policy"):
        folder = tmp_path / "own" / f"evaluation-guide={guide}"
        found = json.loads((folder / "evaluation.json").read_text())["settings"]
        assert list(found["guides"]) == [name for name in ("policy",) if name == guide]


def test_a_recipe_may_name_any_guide(pgdiff, acting: Path, tmp_path: Path, quick) -> None:
    shutil.copytree(acting / "run", tmp_path / "own")
    guide = "+recipe.guides.mine={name: policy, agent: iql, scale: 0.2, scale_schedule: sine_bump}"
    words = ["recipe=value", "base=own", "overwrite=true", guide, "recipe.guide=mine", *STEPS]
    assert pgdiff("train", *words).code == 0
    (found,) = planner_of(tmp_path / "own", "guide.name=mine").guides
    assert isinstance(found, Policy) and found.scale == 0.2
    said = json.loads((tmp_path / "own" / "run.json").read_text())["guides"]
    assert said["mine"] == {
        "name": "policy",
        "agent": {"stage": "iql"},
        "scale": 0.2,
        "scale_schedule": "sine_bump",
    }
    assert pgdiff("plan", "run=own", "guide.name=mine", "out=p", *quick).code == 0


# -------------------------------------------------------------------------------------- bad input


def test_bad_guides_write_nothing(pgdiff, acting: Path, tmp_path: Path, snapshot, quick) -> None:
    run, other = acting / "run", acting / "other.zip"
    before = snapshot(run)
    for words, message in (
        (["guide=polcy"], "Did you mean 'policy'"),
        (["guide=policy"], "`guides.policy.agent` must be given: {stage: NAME}"),
        (["guide=policy", "guide.agent=nowhere.zip"], "'nowhere.zip' does not exist"),
        (["guide=policy", f"guide.agent={other}"], "`policy` must"),
        (["guide=critic", "guide.critic=cloning"], "must refer to ActionCritic"),
        (["guide=critic", "guide.critic={stage: iq}"], "Did you mean 'iql'"),
        (["guide.also={iql: {name: plicy}}"], "Did you mean 'policy'"),
        (["guide=iql", "guide.scale=nan"], "`scale` must be a number in [0.0, inf]. Got nan"),
        (["guide=iql", "guide.temperature=1"], "`guides.iql` has no 'temperature'"),
        (["guide=iql", "guide.rule=scores"], "Did you mean 'score'"),
        (["guide=iql", "guide.gradient_at=x2"], "`gradient_at` must be one of"),
        (["guide=iql", "guide.gradient_at=denoiser", "guide.rule=diffuser"], "`gradient_at`"),
        (["guide.also=value"], "`guide` must name each guide once. Got 'value' twice"),
        (["guide.also={run: {scale: 1}}"], "`guide.also` must name guides other than 'run'"),
        (["guide.also=3"], "`guide.also` must be a name, a list of names, or settings by name"),
        (["guide.also={iql: {scal: 3}}"], "`guides.iql` has no 'scal'. "),
        (["guide.agnt=a.zip"], "Did you mean 'guide.agent'"),
    ):
        result = pgdiff("plan", f"run={run}", *quick, *words)
        assert result.code == 1, words
        assert message in result.error
    assert list(tmp_path.iterdir()) == [] and snapshot(run) == before


def test_an_agent_for_a_run_without_actions(pgdiff, run_folder: Path, acting: Path) -> None:
    result = pgdiff("plan", f"run={run_folder}", "guide=policy", f"guide.agent={acting}/sac.zip")
    assert result.code == 1
    assert "`fields` of the model must hold 'actions'" in result.error


def test_a_recipes_guides_are_checked_before_training(
    pgdiff, data: Path, tmp_path: Path, tiny
) -> None:
    for word, message in (
        ("+recipe.guides.critic={critic: {stage: value}}", "must refer to ActionCritic"),
        ("+recipe.guides.critic={critic: {stage: iql}}", "must refer to a stage of the recipe"),
        ("+recipe.guides.policy={agent: nowhere.zip}", "'nowhere.zip' does not exist"),
        ("+recipe.guides.mine={scale: 3}", "`name` of the guide 'mine' must be one of"),
        ("+recipe.guides.value.scale_schedule={name: powr}", "Did you mean 'power'"),
        ("recipe.guides.value.scale=.nan", "`scale` must be a number"),
    ):
        result = pgdiff("train", f"data={data}", "out=run", *tiny, word)
        assert result.code == 1, word
        assert message in result.error
    assert list(tmp_path.iterdir()) == []
