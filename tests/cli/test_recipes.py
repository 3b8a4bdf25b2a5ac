"""The recipes `diffuser` and `chunks` from training to scores, tiny."""

import json
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest

from pgdiff import Planner, TrajectoryDiffusion
from pgdiff.cli import main
from pgdiff.cli.compose import settings

OPEN_LOOP = ["episodes=2", "record=0", "out=e"]
SMALL = ["trainer.steps=4", "trainer.batch_size=4"]
UNET = ["denoiser.width=8", "task.diffuser.horizon=16", "task.diffuser.steps=3"]
MULTI = "pgdiff_envs:multi2d-umaze-v1"


@pytest.fixture(scope="module")
def diffuser(made: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("diffuser") / "run"
    words = ["recipe=diffuser", f"data={made / 'data.hdf5'}", f"out={folder}", *SMALL, *UNET]
    assert main(["train", *words]) == 0
    return folder


@pytest.fixture(scope="module")
def chunks(made: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("chunks") / "run"
    words = ["recipe=chunks", f"data={made / 'data.hdf5'}", f"out={folder}", *SMALL]
    words += ["denoiser.width=16", "denoiser.depth=1", "task.horizon=4"]
    assert main(["train", *words]) == 0
    return folder


# --------------------------------------------------------------------------------------- diffuser


@pytest.mark.parametrize(
    ("maze", "horizon", "steps"), [("umaze", 128, 64), ("medium", 256, 256), ("large", 384, 256)]
)
@pytest.mark.parametrize("kind", ["maze2d", "multi2d"])
def test_the_papers_setting(kind: str, maze: str, horizon: int, steps: int) -> None:
    """Janner et al. (2022) and its code: the network, the horizons, the sampling."""
    found = settings("train", ["recipe=diffuser", f"task={kind}-{maze}-v1"])["recipe"]
    model = found["stages"]["model"]
    assert (model["arguments"]["horizon"], model["arguments"]["stride"]) == (horizon, 1)
    network = {"width": 32, "mults": [1, 4, 8], "kernel": 5, "groups": 8, "level_scale": 1000.0}
    assert model["arguments"]["denoiser"] == {"name": "temporal_unet", **network}
    assert found["planner"]["steps"] == steps
    assert found["planner"]["solver"] == {"name": "ddpm"}
    assert (model["trainer"]["learning_rate"], model["trainer"]["ema_decay"]) == (2e-4, 0.995)
    other = settings("train", ["recipe=diffuser", "denoiser=transformer"])["recipe"]
    assert other["stages"]["model"]["arguments"]["denoiser"]["name"] == "transformer"


def test_diffuser_plans_to_the_goal_and_rests_there(pgdiff, diffuser: Path, tmp_path: Path) -> None:
    model = TrajectoryDiffusion.from_pretrained(diffuser / "model")
    assert model.layout.fields == (("observations", 4), ("actions", 2))
    planner = Planner.from_run(diffuser)
    assert planner.wants_goal and planner.guides == ()
    assert (planner.replan_every, planner.candidates, planner.lookahead) == (None, 1, 5)
    for number, env in enumerate((None, MULTI)):
        words = [] if env is None else [f"env={env}"]
        assert pgdiff("plan", f"run={diffuser}", f"out=p{number}", "seed=3", *words).code == 0
        found = json.loads((tmp_path / f"p{number}" / "plan.json").read_text())["waypoints"]
        made = gym.make(env or "pgdiff_envs:maze2d-umaze-v1")
        observation, info = made.reset(seed=3)
        made.close()
        np.testing.assert_allclose(found[0], observation, atol=1e-5)
        np.testing.assert_allclose(found[-1], [*info["goal"], 0, 0], atol=1e-5)


@pytest.mark.parametrize("controller", [None, "inverse_dynamics", "actions", "tracker"])
@pytest.mark.parametrize("env", [None, MULTI])
def test_diffuser_acts(
    pgdiff, diffuser: Path, tmp_path: Path, controller: str | None, env: str | None
) -> None:
    words = [] if env is None else [f"env={env}"]
    if controller is not None:
        words.append(f"planner.controller={controller}")
    result = pgdiff("evaluate", f"run={diffuser}", *OPEN_LOOP, *words)
    assert result.code == 0, result.err
    assert f"diffuser, {controller or 'inverse_dynamics'}, no guide, 1 cand., open loop" in (
        result.out
    )
    content = json.loads((tmp_path / "e" / "evaluation.json").read_text())
    assert np.isfinite(content["per_episode"]["normalized_scores"]).all()


def test_diffusers_value_is_added(pgdiff, made: Path, tmp_path: Path) -> None:
    data = made / "data.hdf5"
    words = [f"data={data}", "out=run", *SMALL, *UNET]
    assert pgdiff("train", "recipe=diffuser", *words).code == 0
    words = ["denoiser.width=16", "denoiser.depth=1", *SMALL]
    assert pgdiff("train", "recipe=segment_value", "base=run", *words).code == 0
    stages = json.loads((tmp_path / "run" / "run.json").read_text())["stages"]
    added = {key: stages[-1]["arguments"][key] for key in ("horizon", "stride")}
    assert added == {"horizon": 16, "stride": 1}
    quick = ["planner.candidates=2", "guide=segment_value"]
    result = pgdiff("evaluate", "run=run", *OPEN_LOOP, *quick)
    assert result.code == 0, result.err
    assert "segment_value x" in result.out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["task.diffuser.horizon=18"], "must be a multiple of 4 for a U-Net of 3 resolutions"),
        (["task.diffuser.horizon=8000"], "`horizon` 8000 at `stride` 1 needs 8000 rows"),
        (["denoiser.width=12"], "`groups` must divide the 12 channels"),
        (["recipe.stages.model.arguments.rest=[2, 7]"], "`rest` must be indices of the 4 features"),
    ],
)
def test_diffuser_refuses(
    pgdiff, data: Path, tmp_path: Path, words: list[str], message: str
) -> None:
    result = pgdiff("train", "recipe=diffuser", f"data={data}", "out=run", *SMALL, *UNET, *words)
    assert result.code == 1
    assert message in result.error
    assert list(tmp_path.iterdir()) == []


# ----------------------------------------------------------------------------------------- chunks


def test_chunks_is_strided_but_for_the_actions() -> None:
    strided, found = (
        settings("train", [f"recipe={name}"])["recipe"] for name in ("strided", "chunks")
    )
    assert found["stages"]["model"]["arguments"].pop("fields") == ["observations", "action_chunks"]
    assert strided["stages"]["model"]["arguments"].pop("fields") == ["observations"]
    assert found["planner"].pop("controller") == "actions"
    strided["planner"].pop("controller", None)
    assert found == {**strided, "name": "chunks"}


@pytest.mark.parametrize("controller", [None, "inverse_dynamics", "tracker"])
def test_chunks_act_by_each_controller(
    pgdiff, chunks: Path, quick, controller: str | None, tmp_path: Path
) -> None:
    words = [] if controller is None else [f"planner.controller={controller}"]
    result = pgdiff("evaluate", f"run={chunks}", *OPEN_LOOP, *quick, *words)
    assert result.code == 0, result.err
    assert f"chunks, {controller or 'actions'}, value" in result.out
    settings_ = json.loads((tmp_path / "e" / "evaluation.json").read_text())["settings"]
    assert settings_["controller"] == (controller or "actions")


def test_chunks_plan_an_action_for_every_step(pgdiff, chunks: Path, quick) -> None:
    assert pgdiff("plan", f"run={chunks}", "out=p", *quick).code == 0
    planner = Planner.from_run(chunks)
    assert planner.controller == "actions"
    plan = planner.plan(np.array([1.0, 1.0, 0.0, 0.0]))
    stride = planner.model.layout.stride
    assert plan.actions is not None and plan.actions.shape == (4 * stride, 2)


@pytest.mark.parametrize("controller", ["actions", "inverse_dynamics"])
def test_the_space_of_actions_is_checked(pgdiff, chunks: Path, controller: str) -> None:
    words = [f"planner.controller={controller}", "env=CartPole-v1"]
    result = pgdiff("evaluate", f"run={chunks}", *words)
    assert result.code == 1
    assert "actions of shape [2]. Got 'CartPole-v1' with []" in result.error
