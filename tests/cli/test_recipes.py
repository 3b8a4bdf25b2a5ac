"""The recipes `diffuser` and `chunks` from training to scores, tiny."""

import json
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
from toys import flat_load

from pgdiff import TrajectoryDiffusion
from pgdiff.cli import main
from pgdiff.cli.hydra_config import settings

OPEN_LOOP = ["episodes=2", "record=0"]
SMALL = ["trainer.steps=4", "trainer.batch_size=4"]
UNET = [
    *("denoiser.width=8", "recipe.stages.model.arguments.tokens.horizon=16"),
    "recipe.planner.sampling.steps=3",
]
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


def test_the_papers_setting() -> None:
    """Janner et al. (2022) and its code: the network, the horizons, the sampling."""
    for task, horizon, steps in (
        ("maze2d-umaze", 128, 64),
        ("multi2d-medium", 256, 256),
        ("maze2d-large", 384, 256),
        ("multi2d-large", 384, 256),
    ):
        found = settings("train", ["recipe=diffuser", f"task={task}-v1"])["recipe"]
        model = found["stages"]["model"]
        tokens = model["arguments"]["tokens"]
        assert (tokens["horizon"], tokens["stride"]) == (horizon, 1)
        network = {"width": 32, "mults": [1, 4, 8], "kernel": 5, "groups": 8, "level_scale": 1000.0}
        assert model["arguments"]["denoiser"] == {"name": "temporal_unet", **network}
        assert found["planner"]["sampling"]["steps"] == steps
        assert found["planner"]["sampling"]["solver"] == {"name": "ddpm"}
        assert (model["trainer"]["learning_rate"], model["trainer"]["ema_decay"]) == (2e-4, 0.995)
    other = settings("train", ["recipe=diffuser", "denoiser=transformer"])["recipe"]
    assert other["stages"]["model"]["arguments"]["denoiser"]["name"] == "transformer"


def test_diffuser_plans_to_the_goal_and_rests_there(pgdiff, diffuser: Path, tmp_path: Path) -> None:
    model = TrajectoryDiffusion.from_pretrained(diffuser / "model")
    assert model.codec.layout.fields == (("observations", 4), ("actions", 2))
    planner = flat_load(diffuser)
    assert planner.condition_keys == ("goal",) and planner.guides == ()
    assert (planner.replanning.every, planner.candidates, planner.replanning.lookahead) == (
        None,
        1,
        5,
    )
    for number, env in enumerate((None, MULTI)):
        words = [] if env is None else [f"env={env}"]
        assert pgdiff("plan", f"run={diffuser}", f"out=p{number}", "seed=3", *words).code == 0
        found = json.loads((tmp_path / f"p{number}" / "plan.json").read_text())["waypoints"]
        made = gym.make(env or "pgdiff_envs:maze2d-umaze-v1")
        observation, info = made.reset(seed=3)
        made.close()
        np.testing.assert_allclose(found[0], observation, atol=1e-5)
        np.testing.assert_allclose(found[-1], [*info["goal"], 0, 0], atol=1e-5)
    for number, word in enumerate(("condition={goal: [2, 1.5]}", "+condition.goal=[2, 1.5]")):
        assert pgdiff("plan", f"run={diffuser}", f"out=q{number}", word).code == 0
        found = json.loads((tmp_path / f"q{number}" / "plan.json").read_text())["waypoints"]
        np.testing.assert_allclose(found[-1], [2, 1.5, 0, 0], atol=1e-5)
    assert (
        "`condition` must map names to values"
        in pgdiff("plan", f"run={diffuser}", "condition=[2, 1.5]").err
    )


def test_diffuser_acts(pgdiff, diffuser: Path, tmp_path: Path) -> None:
    """By every controller, and in an environment with another goal each episode."""
    for number, (controller, env) in enumerate(
        ((None, None), ("actions", None), ("tracker", MULTI), ("inverse_dynamics", MULTI))
    ):
        words = [] if env is None else [f"env={env}"]
        if controller is not None:
            words.append(f"planner.controller={controller}")
        out = f"out=e{number}"
        result = pgdiff("evaluate", f"run={diffuser}", *OPEN_LOOP, "pictures=false", *words, out)
        assert result.code == 0, result.err
        expected = controller or "inverse_dynamics"
        assert f"diffuser, {expected}, no guide, 1 cand., open loop" in result.out
        content = json.loads((tmp_path / f"e{number}" / "evaluation.json").read_text())
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
    result = pgdiff("evaluate", "run=run", *OPEN_LOOP, *quick, "out=e")
    assert result.code == 0, result.err
    assert "segment_value x" in result.out


def test_diffuser_refuses(pgdiff, data: Path, tmp_path: Path) -> None:
    tokens = "recipe.stages.model.arguments.tokens"
    for word, message in (
        (
            f"{tokens}.horizon=18",
            "must be a multiple of 4 for a U-Net of 3 resolutions",
        ),
        (
            f"{tokens}.horizon=8000",
            "`horizon` 8000 at `stride` 1 needs 8000 rows",
        ),
        ("denoiser.width=12", "`groups` must divide the 12 channels"),
        (
            "recipe.stages.model.arguments.inpainting.zero_at_goal=[2, 7]",
            "`zero_at_goal` must be indices of the 4 features",
        ),
    ):
        words = ["recipe=diffuser", f"data={data}", "out=run", *SMALL, *UNET, word]
        result = pgdiff("train", *words)
        assert result.code == 1
        assert message in result.error
    assert list(tmp_path.iterdir()) == []


# ----------------------------------------------------------------------------------------- chunks


def test_chunks_is_strided_but_for_the_actions() -> None:
    strided, found = (
        settings("train", [f"recipe={name}"])["recipe"] for name in ("strided", "chunks")
    )
    assert found["stages"]["model"]["arguments"]["tokens"].pop("fields") == [
        "observations",
        "action_chunks",
    ]
    assert strided["stages"]["model"]["arguments"]["tokens"].pop("fields") == ["observations"]
    assert found["planner"].pop("controller") == "actions"
    strided["planner"].pop("controller", None)
    assert found == {**strided, "name": "chunks"}


def test_chunks_act_by_each_controller(pgdiff, chunks: Path, quick, tmp_path: Path) -> None:
    for controller in (None, "inverse_dynamics", "tracker"):
        words = [] if controller is None else [f"planner.controller={controller}"]
        out = f"out={controller}"
        result = pgdiff("evaluate", f"run={chunks}", *OPEN_LOOP, *quick, *words, out)
        assert result.code == 0, result.err
        assert f"chunks, {controller or 'actions'}, value" in result.out
        content = json.loads((tmp_path / str(controller) / "evaluation.json").read_text())
        assert content["settings"]["controller"] == (controller or "actions")


def test_chunks_plan_an_action_for_every_step(pgdiff, chunks: Path, quick) -> None:
    assert pgdiff("plan", f"run={chunks}", "out=p", *quick).code == 0
    planner = flat_load(chunks)
    assert planner.controller == "actions"
    plan = planner.plan(np.array([1.0, 1.0, 0.0, 0.0]))
    stride = planner.model.codec.spec.stride
    assert plan.actions is not None and plan.actions.shape == (4 * stride, 2)


def test_the_space_of_actions_is_checked(pgdiff, chunks: Path) -> None:
    for controller in ("actions", "inverse_dynamics"):
        words = [f"planner.controller={controller}", "env=CartPole-v1"]
        result = pgdiff("evaluate", f"run={chunks}", *words)
        assert result.code == 1
        assert "actions of shape [2]. Got 'CartPole-v1' with []" in result.error
