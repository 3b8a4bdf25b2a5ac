"""The recipe `forcing`: one checkpoint, every schedule; disturbed environments."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pgdiff.cli import main
from pgdiff.cli.hydra_config import settings
from pgdiff.diffusion import ForcingLevels, MonteCarlo
from pgdiff.diffusion.level_schedules import Pyramid
from pgdiff.runs.load import load_planner

QUICK = ["episodes=2", "pictures=false", "planner.sampling.steps=2", "planner.replanning.every=100"]
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
    planner = load_planner(forcing)
    model = planner.model
    assert model.process.level_distribution == ForcingLevels(start=0.5, start_below=0.25, cut=0.0)
    assert model.denoiser.attention == "causal"
    assert dict(model.codec.layout.fields)["previous_actions"] == 2 * model.codec.spec.stride
    assert planner.sampling.level_schedule == Pyramid(slope=1.0)
    assert (planner.sampling.steps, planner.candidates) == (20, 1)
    found = settings("train", ["recipe=forcing", "task=maze2d-large-v1"])["recipe"]
    assert (found["planner"]["sampling"]["level_schedule"], found["guides"]["value"]["scale"]) == (
        "full",
        40.0,
    )
    found = settings("train", ["recipe=forcing", "denoiser=transformer"])["recipe"]
    assert found["stages"]["model"]["arguments"]["denoiser"]["attention"] == "full"


def test_another_law_of_levels_takes_the_place_of_the_recipes() -> None:
    where = "recipe.stages.model.arguments.process.level_distribution"
    words = [f"~{where}", f"+{where}={{name: independent}}"]
    found = settings("train", ["recipe=forcing", *words])["recipe"]["stages"]["model"]
    assert found["arguments"]["process"]["level_distribution"] == {"name": "independent"}


def test_every_schedule_from_one_checkpoint(pgdiff, forcing: Path) -> None:
    written = {"{name: pyramid, slope: 0.5}": "pyramid slope 0.5", "trapezoid": "trapezoid slope 1"}
    for number, schedule in enumerate(SCHEDULES):
        words = [
            f"planner.sampling.level_schedule={schedule}",
            f"planner.controller={('actions', 'inverse_dynamics')[number % 2]}",
            *QUICK,
        ]
        result = pgdiff("evaluate", f"run={forcing}", f"out=e{number}", *words)
        assert result.code == 0, result.err
        assert np.isfinite(scores(f"e{number}")).all()
        stated = json.loads(Path(f"e{number}/evaluation.json").read_text())["settings"]
        assert stated["sampling"]["level_schedule"]["name"] in schedule
        name = "" if schedule == "full" else f", {written.get(schedule, schedule)}"
        assert f", replan 100{name} " in result.out


def test_settings_reach_the_planner(pgdiff, forcing: Path) -> None:
    words = [
        "guide.gradient_at=denoiser",
        "planner.sampling.monte_carlo={name: futures, futures: 2, steps: 1}",
        "planner.sampling.stabilization=0.02",
        "planner.filter.noise_level=0.1",
        "planner.filter.missing_level=0.2",
        "planner.filter.history_tokens=1",
    ]
    result = pgdiff("evaluate", f"run={forcing}", "out=e", *words, *QUICK)
    assert result.code == 0, result.err
    noise = "stabilization 0.02, noise level 0.1, missing level 0.2, history tokens 1"
    assert f"pyramid slope 1, futures 2 steps 1, {noise} " in result.out
    stated = json.loads(Path("e/evaluation.json").read_text())["settings"]
    assert stated["sampling"]["monte_carlo"]["futures"] == 2
    assert stated["sampling"]["stabilization"] == 0.02
    expected = {"noise_level": 0.1, "missing_level": 0.2, "history_tokens": 1}
    assert {key: stated["filter"][key] for key in expected} == expected
    planner = load_planner(forcing, sampling={"monte_carlo": MonteCarlo(futures=3)})
    assert planner.sampling.monte_carlo == MonteCarlo(futures=3)


def test_the_level_matrix_is_drawn_where_there_is_something_to_see(pgdiff, forcing: Path) -> None:
    for schedule, drawn in (("full", False), ("pyramid", True)):
        words = [
            f"planner.sampling.level_schedule={schedule}",
            "planner.sampling.steps=3",
            f"out={schedule}",
        ]
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
def test_bad_input_is_named(pgdiff, forcing: Path) -> None:
    for word, message in (
        ("planner.sampling.level_schedule={name: pyramid, slope: -1}", "`slope` must be"),
        ("planner.sampling.level_schedule=spiral", "level_schedule` must be one of"),
        ("planner.sampling.monte_carlo=much", "monte_carlo` must be one of"),
        ("planner.sampling.monte_carlo={name: futures, futures: 0}", "`futures` must be"),
        ("planner.sampling.stabilization=1", "`stabilization` must be"),
        ("planner.filter.noise_level=-0.1", "`noise_level` must be"),
        ("planner.filter={noise_level: 0.1, history_tokens: 99}", "`history_tokens` must be less"),
        ("env_options=3", "`env_options` must map"),
        ("env_options={force_nose: 1}", "`env_options` must be arguments of"),
        ("env_options={force_noise: -1}", "`force_noise` must be a finite number"),
    ):
        result = pgdiff("evaluate", f"run={forcing}", "out=e", *QUICK, word)
        assert result.code == 1 and message in result.error
    assert not Path("e").exists()


@pytest.mark.usefixtures("unchecked")
def test_bad_training_is_named(pgdiff, made: Path) -> None:
    words = ["recipe=forcing", f"data={made / 'data.hdf5'}", "out=run"]
    levels = "recipe.stages.model.arguments.process.level_distribution"
    for setting, message in (
        (f"{levels}.start=2", "`start` must be"),
        (f"{levels}.cut=-1", "`cut` must be"),
        (f"{levels}.start_below=0", "`start_below` must be"),
    ):
        result = pgdiff("train", *words, setting)
        assert result.code == 1 and message in result.error
        assert not Path("run").exists()
