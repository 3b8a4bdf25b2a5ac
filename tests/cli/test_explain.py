"""`pgdiff plan explain=true`: the table, the file, the picture, and what is refused."""

import json
from functools import partialmethod
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest

from pgdiff.cli import main
from pgdiff.model import TrajectoryDiffusion
from pgdiff.planning import explain
from pgdiff.runs.load import load_planner
from pgdiff.runs.run import read_run

ENV = "pgdiff_envs:maze2d-umaze-v1"
STEPS = ["trainer.steps=4", "trainer.batch_size=8"]


@pytest.fixture(scope="module")
def acting(made: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of actions and of a policy that clones the recording."""
    run = tmp_path_factory.mktemp("acting") / "run"
    fields = "recipe.stages.model.arguments.tokens.fields=[observations,actions]"
    words = [f"data={made / 'data.hdf5'}", f"out={run}", fields]
    small = ["denoiser.width=16", "denoiser.depth=1", "task.horizon=6", *STEPS]
    assert main(["train", *words, *small]) == 0
    width = "recipe.stages.cloning.arguments.width=16"
    assert main(["train", "recipe=cloning", f"base={run}", width, *STEPS]) == 0
    return run


def test_it_writes_what_the_library_finds(
    pgdiff, acting: Path, tmp_path: Path, quick, monkeypatch: pytest.MonkeyPatch
) -> None:
    short = partialmethod(TrajectoryDiffusion.log_likelihood, steps=3)
    monkeypatch.setattr(TrajectoryDiffusion, "log_likelihood", short)
    words = [f"run={acting}", "out=p", "seed=4", "guide.scale=0.1", *quick]
    plain = pgdiff("plan", *words)
    files = {file.name for file in (tmp_path / "p").iterdir()}
    plan = (tmp_path / "p" / "plan.json").read_bytes()
    result = pgdiff(
        "plan",
        *words,
        *("explain=true", "explain_behaviour=cloning", "explain_likelihood=true", "overwrite=true"),
    )
    assert result.code == 0, result.err
    assert {file.name for file in (tmp_path / "p").iterdir()} - files == {
        "explanation.json",
        "explanation.png",
    }
    assert (tmp_path / "p" / "plan.json").read_bytes() == plan, "the plan is the same"
    assert (tmp_path / "p" / "explanation.png").read_bytes().startswith(b"\x89PNG")
    env = gym.make(ENV)
    planner = load_planner(acting, guide={"scale": 0.1}, candidates=3, sampling={"steps": 2})
    found = explain(
        planner,
        env.reset(seed=4)[0],
        seed=4,
        behaviour=read_run(acting).load("cloning"),
        action_space=env.action_space,
        likelihood=True,
    )
    assert json.loads((tmp_path / "p" / "explanation.json").read_text()) == json.loads(
        json.dumps(found.as_dict())
    )
    assert f"\n{found.table()}\n" in result.out
    assert "log-density of an action, behaviour" in result.out
    assert "share of actions out of bounds" in result.out
    assert set(plain.out.splitlines()) <= set(result.out.splitlines())


def test_of_a_run_without_actions(pgdiff, run_folder: Path, tmp_path: Path, quick) -> None:
    words = [f"run={run_folder}", "out=p", "planner.sampling.trust_region=own_step", *quick]
    result = pgdiff("plan", *words, "explain=true")
    assert result.code == 0, result.err
    assert "kept" in result.out and "out of bounds" not in result.out
    content = json.loads((tmp_path / "p" / "explanation.json").read_text())
    assert content["low"] is None and content["guided"]["actions"] is None
    assert np.shape(content["kept"]) == (2, 3)


def test_bad_words_write_nothing(pgdiff, acting: Path, tmp_path: Path, quick, snapshot) -> None:
    before = snapshot(acting)
    for words, message in (
        (["explain=true", "guide=none"], "`guides` must"),
        (["explain=true", "guide.scale=0"], "Got value x 0"),
        (["explain=maybe"], "`explain` must be true or false. Got 'maybe'"),
        (["explain_behaviour=cloning"], "`explain` must be true with `explain_behaviour`"),
        (["explain=true", "explain_likelihood=3"], "`explain_likelihood` must be true or false"),
        (["explain=true", "explain_behaviour=clonin"], "'clonin' does not exist"),
        (["explain=true", "explain_behaviour=value"], "with the method log_prob. Got a Transition"),
        (["explan=1"], "Did you mean 'explain'"),
        (
            ["explain=true", "planner.sampling.solver=ddpm", "planner.sampling.particles=twisted"],
            "`particles` must be None",
        ),
    ):
        result = pgdiff("plan", f"run={acting}", *quick, *words)
        assert result.code == 1
        assert message in result.error
    assert list(tmp_path.iterdir()) == [] and snapshot(acting) == before


def test_a_behaviour_needs_actions(pgdiff, run_folder: Path, acting: Path, quick) -> None:
    words = ["explain=true", f"explain_behaviour={acting}/cloning"]
    result = pgdiff("plan", f"run={run_folder}", *words, *quick)
    assert result.code == 1
    assert "`fields` of the model must hold 'actions' or chunks of them for 'behaviour'" in (
        result.error
    )
