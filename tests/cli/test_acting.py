"""`plan` and `evaluate`, and the planner that both of them and the library make of a run."""

import json
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
from matplotlib.figure import Figure

from pgdiff.cli.hydra_config import settings
from pgdiff.cli.planners import make_planner
from pgdiff.core.validation import PgdiffError
from pgdiff.evaluation import evaluate
from pgdiff.guides import Value
from pgdiff.runs.load import load_planner
from pgdiff.runs.run import read_run

ENV = "pgdiff_envs:maze2d-umaze-v1"


def test_plan(pgdiff, run_folder: Path, tmp_path: Path, quick) -> None:
    result = pgdiff("plan", f"run={run_folder}", "out=p", "reach=5", *quick)
    assert result.code == 0
    assert result.out.splitlines()[-1] == "plan: p"
    assert {file.name for file in (tmp_path / "p").iterdir()} == {
        "plan.json",
        "plan.png",
        "denoising.gif",
        "guided_vs_unguided.png",
        "reach.png",
    }
    content = json.loads((tmp_path / "p" / "plan.json").read_text())
    assert len(content["scores"]) == 3
    assert content["best"] == int(np.argmax(content["scores"]))
    assert content["waypoints"] == content["candidates"][content["best"]]
    assert (content["guide"], content["stride"]) == ("value", read_run(run_folder).task["stride"])
    # The table: the best first.
    rows = [line.split() for line in result.out.splitlines()[2:-1]]
    assert [int(row[0]) for row in rows] == list(np.argsort(content["scores"])[::-1])


def test_pictures_name_the_task_and_the_guide_and_show_chosen_features(
    pgdiff, run_folder: Path, quick, monkeypatch: pytest.MonkeyPatch
) -> None:
    figures = []
    save = Figure.savefig

    def keep(self: Figure, *words: object, **options: object) -> None:
        figures.append(self)
        save(self, *words, **options)

    monkeypatch.setattr(Figure, "savefig", keep)
    chosen = "features=[velocity x, 0]"
    assert pgdiff("plan", f"run={run_folder}", "out=p", chosen, *quick).code == 0
    place, time = figures[:2]
    assert Path("p/features.png").is_file()
    scale = read_run(run_folder).guides["value"]["scale"]
    for said in (place.axes[0].get_title(loc="left"), time.get_suptitle()):
        assert said.startswith(f"maze2d-umaze-v1: guided by value x {scale:g}\n")
    assert [axes.get_ylabel() for axes in time.axes[:2]] == ["velocity x", "x"]
    refused = pgdiff("plan", f"run={run_folder}", "out=q", "features=[velocity z]", *quick)
    assert refused.code == 1 and "Did you mean 'velocity" in refused.error
    assert not Path("q").exists()


def test_plan_is_that_of_the_library(pgdiff, run_folder: Path, tmp_path: Path, quick) -> None:
    assert pgdiff("plan", f"run={run_folder}", "out=p", "seed=4", *quick).code == 0
    content = json.loads((tmp_path / "p" / "plan.json").read_text())
    planner = load_planner(run_folder, candidates=3, sampling={"steps": 2})
    observation, _ = gym.make(ENV).reset(seed=4)
    plan = planner.plan(observation, seed=4)
    np.testing.assert_array_equal(np.float32(content["candidates"]), plan.candidates)


def test_a_chosen_plan_that_is_not_the_best_scored_leads_the_table(
    pgdiff, run_folder: Path, tmp_path: Path, quick
) -> None:
    refusing = "planner.selection.plausibility={name: denoiser, limit: 1e-6}"
    result = pgdiff("plan", f"run={run_folder}", "out=p", refusing, *quick)
    content = json.loads((tmp_path / "p" / "plan.json").read_text())
    assert content["best"] == int(np.argmin(content["moves"]))  # none is within such a limit
    rows = [line.split() for line in result.out.splitlines()[2:-1]]
    assert int(rows[0][0]) == content["best"]
    assert len({row[0] for row in rows}) == 3


def test_plan_without_a_guide(pgdiff, run_folder: Path, tmp_path: Path, quick) -> None:
    result = pgdiff("plan", f"run={run_folder}", "guide=none", "out=p", *quick)
    assert result.code == 0
    assert not (tmp_path / "p" / "guided_vs_unguided.png").exists()
    content = json.loads((tmp_path / "p" / "plan.json").read_text())
    assert (content["guide"], content["scores"], content["best"]) == (None, [None] * 3, 0)


def test_evaluate(pgdiff, run_folder: Path, tmp_path: Path, quick) -> None:
    result = pgdiff("evaluate", f"run={run_folder}", "episodes=2", "seed=5", "out=e", *quick)
    assert result.code == 0
    assert result.out.splitlines()[-1] == "evaluation: e"
    scale = read_run(run_folder).guides["value"]["scale"]
    assert "score [95 %]" in result.out
    assert f"inverse_dynamics, value x {scale:g}, 3 cand." in result.out
    assert {file.name for file in (tmp_path / "e").iterdir()} == {
        "evaluation.json",
        "episode.gif",
        "histogram.png",
        "value_map.png",
    }
    content = json.loads((tmp_path / "e" / "evaluation.json").read_text())
    assert content["seeds"] == [5, 6]
    assert content["settings"]["candidates"] == 3
    assert content["settings"]["guide"] == "value"
    assert len(content["per_episode"]["normalized_scores"]) == 2


def test_load_planner_is_the_planner_of_evaluate(run_folder: Path, quick) -> None:
    chosen = settings("evaluate", [f"run={run_folder}", *quick, "seed=3"])
    of_the_command = make_planner(chosen, read_run(run_folder), gym.make(ENV))
    of_the_library = load_planner(run_folder, candidates=3, sampling={"steps": 2}, seed=3)
    observation = gym.make(ENV).reset(seed=3)[0]
    states = [None, None]
    for _ in range(12):  # beyond one replanning
        found = []
        for number, planner in enumerate((of_the_command, of_the_library)):
            action, states[number] = planner.predict(observation, states[number])
            found.append(action)
        np.testing.assert_array_equal(*found)
    results = [
        evaluate(planner, lambda: gym.make(ENV), episodes=1, progress=False, record=1)
        for planner in (of_the_command, of_the_library)
    ]
    np.testing.assert_array_equal(results[0].trajectories[0], results[1].trajectories[0])


def test_load_planner_with_and_without_changes(run_folder: Path) -> None:
    planner = load_planner(run_folder, device="cpu")
    said = read_run(run_folder)
    assert planner.candidates == said.planner["candidates"]
    assert planner.replanning.every == said.planner["replanning"]["every"]
    (guide,) = planner.guides
    assert isinstance(guide, Value)
    assert (guide.name, guide.scale) == ("value", said.guides["value"]["scale"])
    changed = load_planner(
        run_folder,
        guide={"scale": 2.0, "transform": "log", "gradient_at": "x"},
        replanning={"every": None},
        candidates=1,
    )
    (guide,) = changed.guides
    assert (guide.scale, guide.transform, guide.gradient_at) == (2.0, "log", "x")
    assert (changed.replanning.every, changed.candidates) == (None, 1)
    assert load_planner(run_folder, guide="none").guides == ()
    assert load_planner(run_folder, guides=[guide]).guides == (guide,)
    with pytest.raises(PgdiffError, match="Did you mean 'value'"):
        load_planner(run_folder, guide="valeu")
    with pytest.raises(PgdiffError, match="`candidates`"):
        load_planner(run_folder, candidates=0)
    with pytest.raises(PgdiffError, match="Did you mean 'sampling'"):
        load_planner(run_folder, samplin={})


def test_choices_at_sampling_time(pgdiff, run_folder: Path, quick) -> None:
    for number, words in enumerate(
        (
            ["planner.controller=tracker", "planner.replanning.every=null"],
            ["planner.sampling.solver={name: ddpm}", "guide=none"],
            ["planner.sampling.solver={name: ddim, eta: 0.5}", "guide.transform=log"],
        )
    ):
        chosen = [f"run={run_folder}", "episodes=1", "pictures=false", f"out=e{number}"]
        result = pgdiff("evaluate", *chosen, *quick, *words)
        assert result.code == 0, result.err
        assert ("open loop" in result.out) == (number == 0)
        assert ("no guide" in result.out) == (number == 1)


def test_ablation(pgdiff, run_folder: Path, tmp_path: Path, quick) -> None:
    result = pgdiff("evaluate", f"run={run_folder}", "episodes=2", "ablation=true", "out=a", *quick)
    assert result.code == 0, result.err
    for label in (
        "no guide, 1 candidate",
        "gradient, 1 candidate",
        "no gradient, best of 3",
        "gradient, best of 3",
        "the gradient, to one candidate",
        "selection, to no guide",
        "the gradient, to selection",
        "selection, to the gradient",
    ):
        assert label in result.out
    rows = ("no_guide", "gradient", "selection", "both")
    assert {file.name for file in (tmp_path / "a").iterdir()} == {
        "ablation.json",
        *(f"ablation_{row}.json" for row in rows),
    }
    content = json.loads((tmp_path / "a" / "ablation.json").read_text())
    assert set(content["rows"]) == set(rows)
    assert all(found["seeds"] == [0, 1] for found in content["rows"].values())
    assert len(content["differences"]) == 4


REFUSED = {
    "guide=segment_value": "Did you mean 'value'",
    "guide.scale=-1": "`scale`",
    "planner.candidates=0": "`candidates`",
    "planner.sampling.steps=0": "`steps`",
    "planner.replanning.every=never": "`every`",
    "planner.controller=hand": "`planner.controller`",
    "planner.sampling.solver=dpm": "solver` must be one of",
    "planner.sampling.solver=consistency": "'consistency' needs a model",
    "planner.sampling.spacing={name: karras, rho: 0.5}": "`rho`",
    "planner.sampling.level_schedule=pyramids": "Did you mean 'pyramid'",
    "planner.condition={return: 3}": "`condition`",
    "planner.sampling.classifier_free=much": "`sampling.classifier_free` must be",
    "seed=-1": "`seed`",
    "env=Pendulum-v1": "observations of shape [4]. Got 'Pendulum-v1' with [3]",
    "env=Nothing-v0": "Got 'Nothing-v0'",
    "device=abacus": "`device`",
}


def test_bad_settings_write_nothing(pgdiff, run_folder: Path, tmp_path: Path, snapshot) -> None:
    before = snapshot(run_folder)
    for number, (word, message) in enumerate(REFUSED.items()):
        command = ("plan", "evaluate")[number % 2]
        result = pgdiff(command, f"run={run_folder}", word)
        assert result.code == 1, word
        assert message in result.error
    for command in ("plan", "evaluate"):
        for words, message in (
            ([], "`run` must be given"),
            (["run=nowhere"], "`run` must be a run folder"),
            ([f"run={run_folder}/model"], "contains a saved network"),
        ):
            result = pgdiff(command, *words)
            assert result.code == 1
            assert message in result.error
    for words, message in (
        (["episodes=0"], "`episodes`"),
        (["record=-1"], "`record`"),
        (["ablation=maybe"], "`ablation`"),
        (["ablation=true", "guide=none"], "`guide` must name a guide"),
        (["ablation=true", "planner.candidates=1"], "`planner.candidates` must be at least 2"),
        (["ablation=true", "guide.scale=0"], "`guide.scale` must be above 0"),
    ):
        result = pgdiff("evaluate", f"run={run_folder}", *words)
        assert result.code == 1
        assert message in result.error
    assert list(tmp_path.iterdir()) == []
    assert snapshot(run_folder) == before


def test_a_flipped_byte_is_found(pgdiff, own_run: Path, tmp_path: Path) -> None:
    for stage in ("inverse_dynamics", "value", "model"):  # the last one is read first
        file = own_run / stage / "model.safetensors"
        content = bytearray(file.read_bytes())
        content[-5] ^= 16
        file.write_bytes(content)
        result = pgdiff("evaluate", f"run={own_run}", "out=e")
        assert result.code == 1
        assert f"{stage}/model.safetensors' is damaged" in result.error
    assert not (tmp_path / "e").exists()


def test_an_environment_never_comes_from_a_file(pgdiff, own_run: Path) -> None:
    file = own_run / "run.json"
    run = json.loads(file.read_text())
    for change in ({"id": "evil:Env-v0"}, {"name": "../../evil", "id": "evil-v0"}):
        file.write_text(json.dumps({**run, "task": {**run["task"], **change}}))
        result = pgdiff("plan", f"run={own_run}")
        assert result.code == 1
        assert "`env` must be given" in result.error


def test_a_sweep_over_guides(pgdiff, own_run: Path, quick) -> None:
    words = ["episodes=1", "pictures=false", *quick, "guide=none,value"]
    result = pgdiff("evaluate", "-m", f"run={own_run}", *words)
    assert result.code == 0, result.err
    for guide in ("none", "value"):
        found = json.loads((own_run / f"evaluation-guide={guide}" / "evaluation.json").read_text())
        assert found["settings"]["guide"] == (None if guide == "none" else guide)
