"""The recipes of agents that learn offline: a run of their own, or added to a run."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from pgdiff import load_learner
from pgdiff.agents import IQL, TD3BC, Cloning, FittedQ
from pgdiff.cli.hydra_config import settings

STEPS = ["trainer.steps=6", "trainer.batch_size=8"]
LEARNERS = {"iql": IQL, "td3_bc": TD3BC, "cloning": Cloning}


def small(recipe: str, *, members: int | None = 2) -> list[str]:
    where = f"recipe.stages.{recipe}.arguments"
    words = ["train", f"recipe={recipe}", f"{where}.width=16", *STEPS]
    return [*words, f"{where}.members={members}"] if members else words


@pytest.mark.parametrize("recipe", sorted(LEARNERS))
def test_a_run_of_its_own(pgdiff, data: Path, tmp_path: Path, recipe: str) -> None:
    result = pgdiff(*small(recipe), f"data={data}", "out=run")
    assert result.code == 0, result.err
    assert f"{recipe} ({recipe}): finished, 6 steps" in result.out
    run = json.loads((tmp_path / "run" / "run.json").read_text())
    assert (run["recipe"], run["status"], run["guide"]) == (recipe, "finished", None)
    assert (run["planner"], run["guides"]) == ({}, {})
    agent = load_learner(tmp_path / "run" / recipe, device="cpu")
    assert isinstance(agent, LEARNERS[recipe]) and (agent.members, agent.width) == (2, 16)
    action, _ = agent.member(1).predict(np.zeros(4))
    assert agent.action_space.contains(action)
    assert pgdiff("info", "run").code == 0
    assert f"kind: {recipe}" in pgdiff("info", f"run/{recipe}").out
    result = pgdiff("plan", "run=run")
    assert result.code == 1
    assert "must have the stage 'model'" in result.error
    assert "`pgdiff evaluate` acts with the agent" in result.error


def test_members_have_the_seeds_of_the_run_and_on(pgdiff, data: Path, tmp_path: Path) -> None:
    for seed, members in ((3, 2), (4, 1)):
        words = [*small("cloning", members=members), "trainer.learning_rate=1e-12"]
        assert pgdiff(*words, f"data={data}", f"seed={seed}", f"out=s{seed}").code == 0
    many, one = (
        load_learner(tmp_path / f"s{seed}" / "cloning", device="cpu").state_dict()
        for seed in (3, 4)
    )
    for name, value in one.items():
        np.testing.assert_allclose(many[name][1:], value, atol=1e-9)


def test_base_adds_the_stage(pgdiff, own_run: Path, snapshot) -> None:
    before = snapshot(own_run / "model")
    result = pgdiff(*small("iql"), f"base={own_run}")
    assert result.code == 0, result.err
    run = json.loads((own_run / "run.json").read_text())
    assert [stage["name"] for stage in run["stages"]][-1] == "iql"
    assert (run["guide"], run["recipe"], run["status"]) == ("value", "strided", "finished")
    assert run["stages"][-1]["arguments"]["discount"] == 0.99
    assert snapshot(own_run / "model") == before
    assert load_learner(own_run / "iql", device="cpu").members == 2
    result = pgdiff(*small("iql"), f"base={own_run}")
    assert result.code == 1
    assert "already has a stage 'iql'" in result.error


def test_agents_of_a_run_are_evaluated_from_its_recording(pgdiff, own_run: Path) -> None:
    assert pgdiff(*small("iql"), f"base={own_run}").code == 0
    policies = f"recipe.stages.fitted_q.arguments.policies=[{own_run}/iql]"
    result = pgdiff(*small("fitted_q", members=None), f"base={own_run}", policies)
    assert result.code == 0, result.err
    fitted = load_learner(own_run / "fitted_q", device="cpu")
    assert isinstance(fitted, FittedQ) and fitted.members == 2
    estimates = fitted.estimates(np.zeros((3, 4)), policies=[own_run / "iql"])
    assert estimates.shape == (2,) and np.isfinite(estimates).all()


def test_resume_ends_with_the_same_weights(
    pgdiff, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    after_step, count = TD3BC.after_step, [0]

    def killed(self):
        after_step(self)
        count[0] += 1
        if count[0] == 5:
            raise KeyboardInterrupt

    words = [*small("td3_bc"), f"data={data}", "trainer.checkpoint_every=3"]
    assert pgdiff(*words, "out=whole").code == 0
    with monkeypatch.context() as patch:
        patch.setattr(TD3BC, "after_step", killed)
        assert pgdiff(*words, "out=cut").code == 130
    assert pgdiff(*words, "out=cut", "resume=true").code == 0
    whole, cut = (
        (tmp_path / name / "td3_bc" / "model.safetensors").read_bytes() for name in ("whole", "cut")
    )
    assert whole == cut


def test_the_papers_settings() -> None:
    """Kostrikov et al. (2022) and Fujimoto and Gu (2021), in D4RL's locomotion tasks."""
    iql, td3_bc = (
        settings("train", [f"recipe={name}"])["recipe"]["stages"][name]
        for name in ("iql", "td3_bc")
    )
    same = {"discount": 0.99, "tau": 0.005, "width": 256, "depth": 2, "normalizer": "standard"}
    own = [
        (iql, {"expectile": 0.7, "temperature": 3.0}),
        (td3_bc, {"alpha": 2.5, "policy_noise": 0.2, "noise_clip": 0.5, "policy_delay": 2}),
    ]
    for stage, expected in own:
        for name, value in (same | expected).items():
            assert stage["arguments"][name] == value, name
        assert (stage["trainer"]["batch_size"], stage["trainer"]["learning_rate"]) == (256, 3e-4)
        assert (stage["trainer"]["ema_decay"], stage["trainer"]["clip_norm"]) == (0.0, 0)


def test_a_bad_setting_writes_nothing(pgdiff, data: Path, tmp_path: Path) -> None:
    for recipe, word, message in (
        ("iql", "arguments.expectile=1", "`expectile`"),
        ("iql", "arguments.normalize_returns=true", "`normalize_returns` must be false"),
        ("iql", "arguments.action_low=[0]", "`action_low` must be 2 numbers"),
        ("td3_bc", "arguments.normalizer=standart", "Did you mean 'standard'"),
        ("cloning", "arguments.width=0", "`width`"),
        ("fitted_q", "arguments.width=16", "`policies` must be a list of agents"),
        ("fitted_q", "arguments.policies=[nowhere]", "'nowhere' does not exist"),
        ("fitted_q", "learner=fited_q", "Did you mean 'fitted_q'"),
    ):
        given = f"recipe.stages.{recipe}.{word}"
        result = pgdiff("train", f"recipe={recipe}", f"data={data}", "out=deep/run", given)
        assert result.code == 1, word
        assert message in result.error
    assert list(tmp_path.iterdir()) == []


def test_a_damaged_agent_is_named(pgdiff, own_run: Path) -> None:
    shutil.rmtree(own_run / "value")
    (own_run / "value").mkdir()
    policies = f"recipe.stages.fitted_q.arguments.policies=[{own_run}/value]"
    result = pgdiff("train", "recipe=fitted_q", f"base={own_run}", policies)
    assert result.code == 1
    assert "has no manifest.json" in result.error
