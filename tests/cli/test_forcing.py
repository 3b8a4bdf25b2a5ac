"""The recipe `forcing`: one checkpoint, every schedule; disturbed environments."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pgdiff import Planner
from pgdiff.cli import main
from pgdiff.cli.compose import settings
from pgdiff.diffusion import ForcingLevels, MonteCarlo
from pgdiff.diffusion.level_schedules import Pyramid

QUICK = ["episodes=2", "pictures=false", "planner.steps=2", "planner.replan_every=100"]
SCHEDULES = ["full", "{name: pyramid, slope: 0.5}", "autoregressive", "trapezoid"]


@pytest.fixture(scope="module")
def forcing(made: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("forcing") / "run"
    words = ["recipe=forcing", f"data={made / 'data.hdf5'}", f"out={folder}", "trainer.steps=4"]
    words += ["trainer.batch_size=4", "denoiser.width=16", "denoiser.depth=1", "task.horizon=5"]
    assert main(["train", *words]) == 0
    return folder


def scores(folder: Path | str) -> Any:
    return json.loads((Path(folder) / "evaluation.json").read_text())["per_episode"]["returns"]


def test_what_it_trains(forcing: Path) -> None:
    planner = Planner.from_run(forcing)
    model = planner.model
    assert model.levels == ForcingLevels(start=0.5, start_below=0.25, cut=0.0)
    assert model.denoiser.attention == "causal"
    assert dict(model.layout.fields)["previous_actions"] == 2 * model.layout.stride
    assert planner.schedule == Pyramid(slope=1.0)
    assert (planner.steps, planner.candidates) == (20, 1)
    found = settings("train", ["recipe=forcing", "task=maze2d-large-v1"])["recipe"]
    assert (found["planner"]["schedule"], found["guides"]["value"]["scale"]) == ("full", 40.0)
    found = settings("train", ["recipe=forcing", "denoiser=transformer"])["recipe"]
    assert found["stages"]["model"]["arguments"]["denoiser"]["attention"] == "full"


def test_another_law_of_levels_takes_the_place_of_the_recipes() -> None:
    where = "recipe.stages.model.arguments.levels"
    words = [f"~{where}", f"+{where}={{name: independent}}"]
    found = settings("train", ["recipe=forcing", *words])["recipe"]["stages"]["model"]
    assert found["arguments"]["levels"] == {"name": "independent"}


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("controller", ["actions", "inverse_dynamics"])
def test_every_schedule_from_one_checkpoint(
    pgdiff, forcing: Path, schedule: str, controller: str
) -> None:
    words = [f"planner.schedule={schedule}", f"planner.controller={controller}", *QUICK]
    result = pgdiff("evaluate", f"run={forcing}", "out=e", *words)
    assert result.code == 0, result.err
    assert np.isfinite(scores("e")).all()
    stated = json.loads(Path("e/evaluation.json").read_text())["settings"]
    assert stated["schedule"]["name"] in schedule
    told = {"{name: pyramid, slope: 0.5}": "pyramid slope 0.5", "trapezoid": "trapezoid slope 1"}
    assert f", replan 100, {told.get(schedule, schedule)} " in result.out


def test_settings_reach_the_planner(pgdiff, forcing: Path) -> None:
    words = [
        "guide.at=denoiser",
        "planner.monte_carlo={name: futures, futures: 2, steps: 1}",
        "planner.stabilization=0.02",
        "planner.observation_level=0.1",
        "planner.missing_level=0.2",
        "planner.context=1",
    ]
    result = pgdiff("evaluate", f"run={forcing}", "out=e", *words, *QUICK)
    assert result.code == 0, result.err
    noise = "stabilization 0.02, observation level 0.1, missing level 0.2, context 1"
    assert f"pyramid slope 1, futures 2 steps 1, {noise} " in result.out
    stated = json.loads(Path("e/evaluation.json").read_text())["settings"]
    assert stated["monte_carlo"]["futures"] == 2
    levels = [stated[name] for name in ("stabilization", "observation_level", "missing_level")]
    assert levels == [0.02, 0.1, 0.2] and stated["context"] == 1
    planner = Planner.from_run(forcing, monte_carlo=MonteCarlo(futures=3), missing_level=0.1)
    assert planner.monte_carlo == MonteCarlo(futures=3)


def test_the_level_matrix_is_drawn_where_there_is_something_to_see(pgdiff, forcing: Path) -> None:
    for schedule, drawn in (("full", False), ("pyramid", True)):
        words = [f"planner.schedule={schedule}", "planner.steps=3", f"out={schedule}"]
        result = pgdiff("plan", f"run={forcing}", *words)
        assert result.code == 0, result.err
        names = {file.name for file in Path(schedule).iterdir()}
        assert ({"levels.png", "levels.gif"} <= names) == drawn


def test_a_pushed_ball(pgdiff, forcing: Path) -> None:
    """The options of the environment are stated; none, and a force of 0, change nothing."""
    options = [[], ["env_options={force_noise: 0.0}"], ["env_options={force_noise: 1.0}"]]
    dense = "env=pgdiff_envs:maze2d-umaze-dense-v1"
    for number, words in enumerate(options):
        result = pgdiff("evaluate", f"run={forcing}", dense, f"out=e{number}", *words, *QUICK)
        assert result.code == 0, result.err
    assert scores("e0") == scores("e1") and scores("e0") != scores("e2")
    stated = [json.loads(Path(f"e{i}/evaluation.json").read_text())["settings"] for i in range(3)]
    assert "env_options" not in stated[0] and stated[2]["env_options"] == {"force_noise": 1.0}
    result = pgdiff("evaluate", "compare=[e0,e2]")
    assert result.code == 1 and "same tasks" in result.error


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["planner.schedule={name: pyramid, slope: -1}"], "`slope` must be"),
        (["planner.schedule=spiral"], "`level_schedule` must be one of"),
        (["planner.monte_carlo=much"], "`monte_carlo` must be one of"),
        (["planner.monte_carlo={name: futures, futures: 0}"], "`futures` must be"),
        (["planner.stabilization=1"], "`stabilization` must be"),
        (["planner.observation_level=-0.1"], "`observation_level` must be"),
        (["planner.missing_level=2"], "`missing_level` must be"),
        (["planner.context=99"], "`context` must be less than"),
        (["env_options=3"], "`env_options` must map"),
        (["env_options={force_nose: 1}"], "`env_options` must be arguments of"),
        (["env_options={force_noise: -1}"], "`force_noise` must be a finite number"),
    ],
)
def test_bad_input_is_named(pgdiff, forcing: Path, words: list[str], message: str) -> None:
    result = pgdiff("evaluate", f"run={forcing}", "out=e", *QUICK, *words)
    assert result.code == 1 and message in result.error
    assert not Path("e").exists()


@pytest.mark.usefixtures("unchecked")
def test_bad_training_is_named(pgdiff, made: Path) -> None:
    words = ["recipe=forcing", f"data={made / 'data.hdf5'}", "out=run"]
    levels = "recipe.stages.model.arguments.levels"
    for setting, message in (
        (f"{levels}.start=2", "`start` must be"),
        (f"{levels}.cut=-1", "`cut` must be"),
        (f"{levels}.start_below=0", "`start_below` must be"),
    ):
        result = pgdiff("train", *words, setting)
        assert result.code == 1 and message in result.error
        assert not Path("run").exists()
