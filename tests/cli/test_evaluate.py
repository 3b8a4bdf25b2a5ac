"""`evaluate`: what its file states, its pictures, several training seeds, and comparisons."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from pgdiff.evaluation import aggregate, compare, load_evaluation, load_evaluations
from pgdiff.runs.load import load_planner

QUICK = ["planner.candidates=3", "planner.sampling.steps=2"]


@pytest.fixture
def other_run(run_folder: Path, tmp_path: Path) -> Path:
    """The same networks under another training seed."""
    folder = Path(shutil.copytree(run_folder, tmp_path / "seed 1"))
    content = json.loads((folder / "run.json").read_text())
    (folder / "run.json").write_text(json.dumps({**content, "seed": 1}))
    return folder


def test_the_file_states_all_that_a_score_depends_on(pgdiff, run_folder: Path) -> None:
    words = ["episodes=2", "seed=10000", "pictures=false", "planner.replanning.every=7", *QUICK]
    assert pgdiff("evaluate", f"run={run_folder}", "out=e", *words).code == 0
    content = json.loads(Path("e/evaluation.json").read_text())
    stated = content["settings"]
    planner = load_planner(run_folder)
    (guide,) = planner.guides
    expected = {
        "env": "maze2d-umaze-v1",
        "reference_scores": [23.85, 161.86],
        "run": str(run_folder),
        "training_seed": 0,
        "recipe": "strided",
        "guide": "value",
        "scale": guide.scale,
        "transform": guide.transform,
        "candidates": 3,
        "controller": "inverse_dynamics",
        "condition": None,
        "seed": 10000,
        "parallel": 50,
        "stride": planner.model.codec.spec.stride,
        "horizon": planner.model.codec.tokens,
    }
    assert {key: stated[key] for key in expected} == expected
    assert stated["replanning"]["every"] == 7 and stated["replanning"]["warm_start"] is None
    sampling = stated["sampling"]
    assert sampling["steps"] == 2
    assert sampling["solver"]["name"] == "dpm_solver" and sampling["spacing"]["name"] == "log_snr"
    assert set(stated) >= {"selection", "goals", "filter"}
    assert content["milliseconds_per_plan"] > 0 and content["seconds"] > 0
    assert content["machine"]["versions"]["torch"]
    assert content["per_episode"]["seeds"] == [10000, 10001]
    assert len(content["per_episode"]["goals"]) == 2
    scores = content["per_episode"]["normalized_scores"]
    returns = np.array(content["per_episode"]["returns"])
    np.testing.assert_allclose(scores, 100 * (returns - 23.85) / (161.86 - 23.85))


def test_a_gallery_of_the_worst(pgdiff, run_folder: Path) -> None:
    words = ["episodes=3", "parallel=2", "gallery=2", "record=1", *QUICK]
    result = pgdiff("evaluate", f"run={run_folder}", "out=e", "references={ceiling: 157.7}", *words)
    assert result.code == 0, result.err
    names = {"evaluation.json", "episode.gif", "histogram.png", "failures.png", "value_map.png"}
    assert {file.name for file in Path("e").iterdir()} == names


def test_without_a_value_there_is_no_map(pgdiff, own_run: Path) -> None:
    content = json.loads((own_run / "run.json").read_text())
    content["stages"] = [s for s in content["stages"] if s["learner"] != "transition_value"]
    content |= {"guide": None, "guides": {}}
    (own_run / "run.json").write_text(json.dumps(content))
    result = pgdiff("evaluate", f"run={own_run}", "episodes=1", "record=0", "out=e", *QUICK)
    assert result.code == 0, result.err
    assert {file.name for file in Path("e").iterdir()} == {"evaluation.json", "histogram.png"}


def test_several_training_seeds(pgdiff, run_folder: Path, other_run: Path) -> None:
    runs = f"run=[{run_folder},{other_run}]"
    result = pgdiff("evaluate", runs, "episodes=2", "pictures=false", "out=e", *QUICK)
    assert result.code == 0, result.err
    assert "2 run(s) in maze2d-umaze-v1: 4 episodes in all" in result.out
    found = [load_evaluation(f"e/run_{number}") for number in range(2)]
    assert [e.settings["training_seed"] for e in found] == [0, 1]
    np.testing.assert_array_equal(found[0].returns, found[1].returns)  # the same networks
    content = json.loads(Path("e/aggregate.json").read_text())
    together = aggregate(found).to_dict()
    assert {key: content[key] for key in together} == json.loads(json.dumps(together))
    assert content["evaluations"] == ["run_0", "run_1"]

    result = pgdiff("evaluate", "compare=[e,e/run_1]", "out=c")
    assert result.code == 0, result.err
    assert len([line for line in result.out.splitlines() if line.startswith("e")]) == 4
    content = json.loads(Path("c/comparison.json").read_text())
    expected = compare(found[1], found)
    assert content["differences"]["e/run_1"]["difference"]["value"] == expected.difference.value
    assert "paired by environment seed" in result.out
    assert pgdiff("evaluate", "compare=[e/run_0,e/run_1]").code == 0
    # What an earlier call with more runs, or with one, has left is not taken for these.
    for stale in ("run_7", "."):
        Path("e", stale).mkdir(exist_ok=True)
        for name in ("evaluation.json", "failures.png", "episode_3.gif"):
            shutil.copy("e/run_0/evaluation.json", Path("e", stale, name))
    words = ["evaluate", runs, "episodes=2", "pictures=false", "out=e", *QUICK]
    assert pgdiff(*words).code == 1
    assert len(list(Path("e").rglob("*.gif"))) == 2
    assert pgdiff(*words, "overwrite=true").code == 0
    assert list(Path("e").rglob("*.gif")) == list(Path("e").rglob("*.png")) == []
    assert [len(load_evaluations("e")), len(load_evaluations("e/run_0"))] == [2, 1]


def test_all_three_scores_of_a_maze_are_stated(pgdiff, run_folder: Path, other_run: Path) -> None:
    runs = f"run=[{run_folder},{other_run}]"
    result = pgdiff("evaluate", runs, "episodes=3", "pictures=false", "out=e", *QUICK)
    assert result.code == 0, result.err
    assert "score if stay [95 %]  first touch [95 %]" in result.out
    found = load_evaluations("e")
    assert found[0].scores_if_stay is not None and found[0].first_touch is not None
    arrives = np.isfinite(found[0].first_touch)
    paid = np.where(arrives, 301 - np.nan_to_num(found[0].first_touch), 0)
    np.testing.assert_allclose(found[0].scores_if_stay, 100 * (paid - 23.85) / (161.86 - 23.85))
    np.testing.assert_array_equal(found[0].first_touch, found[0].steps_to_goal)
    metrics = {"score_if_stay", "first_touch"} if arrives.any() else {"score_if_stay"}
    together = json.loads(Path("e/aggregate.json").read_text())
    assert set(together["further"]) == metrics
    assert pgdiff("evaluate", "compare=[e/run_0,e/run_1]", "out=c").code == 0
    (difference,) = json.loads(Path("c/comparison.json").read_text())["differences"].values()
    assert set(difference["further"]) == metrics
    assert difference["further"]["score_if_stay"]["difference"]["value"] == 0


@pytest.mark.parametrize("command", ["evaluate", "plan"])
def test_earlier_results_are_replaced_on_request_alone(
    pgdiff, run_folder: Path, command: str
) -> None:
    pytest.importorskip("matplotlib")
    words = [command, f"run={run_folder}", "out=o", *QUICK]
    words += ["episodes=1"] if command == "evaluate" else []
    more = {"evaluate": ["record=1", "gallery=1"], "plan": ["reach=4"]}[command]
    assert pgdiff(*words, *more).code == 0
    earlier = {file.name: file.read_bytes() for file in Path("o").iterdir()}
    Path("o/notes.txt").write_text("mine")
    for again in (words, [*words, "ablation=true"][: len(words) + (command == "evaluate")]):
        refused = pgdiff(*again)
        assert refused.code == 1 and refused.out == ""
        assert "`out` must be a folder without earlier results. 'o/" in refused.error
        assert "overwrite=true replaces" in refused.error
    assert {name: Path("o", name).read_bytes() for name in earlier} == earlier
    bad = pgdiff(*words, "overwrite=true", "planner.sampling.steps=0")
    assert bad.code == 1
    assert {name: Path("o", name).read_bytes() for name in earlier} == earlier
    less = ["seed=3", *(["record=0"] if command == "evaluate" else ["guide=none"])]
    assert pgdiff(*words, *less, "overwrite=true").code == 0
    left = {file.name for file in Path("o").iterdir()}
    gone = {"evaluate": {"failures.png", "episode.gif"}, "plan": {"reach.png"}}[command]
    assert gone <= set(earlier) and not gone & left and "notes.txt" in left
    name = {"evaluate": "evaluation.json", "plan": "plan.json"}[command]
    assert Path("o", name).read_bytes() != earlier[name]


def test_an_output_that_cannot_be_written_is_refused_before_anything_is_computed(
    pgdiff, run_folder: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("file").write_text("mine")
    run, out = f"run={run_folder}", "out=file/o"

    def computed(*_: object, **__: object) -> None:
        raise AssertionError("computed before the output was checked")

    for place in ("planning.Planner.plan_batch", "cli.compare.fidelity", "cli.convert.write_hdf5"):
        monkeypatch.setattr(f"pgdiff.{place}", computed)
    monkeypatch.setattr("pgdiff.workflows.recording.collect.Recording", computed)
    monkeypatch.setattr("pgdiff.workflows.train.train_stage", computed, raising=False)
    for words in (
        ["evaluate", run, "episodes=1"],
        ["evaluate", run, "episodes=1", "ablation=true"],
        ["evaluate", f"run=[{run_folder}]", "episodes=1"],
        ["plan", run],
        ["compare", f"real={data}", f"synthetic={data}"],
        ["convert", f"data={data}"],
        ["collect", "steps=1000"],
    ):
        refused = pgdiff(*words, out)
        assert refused.code == 1 and "must be a path that can be written to" in refused.error
    refused = pgdiff("train", f"data={data}", out)
    assert refused.code == 1
    assert [file.name for file in Path().iterdir()] == ["file"]


def test_bad_settings_write_nothing(pgdiff, run_folder: Path, other_run: Path, snapshot) -> None:
    before = snapshot(other_run.parent)
    run = f"run={run_folder}"
    for words, message in (
        ([f"run=[{run_folder},{run_folder}]"], "each folder once"),
        ([f"run=[{run_folder},nowhere]"], "`run` must be a run folder"),
        ([f"run=[{run_folder},{other_run}]", "ablation=true"], "one folder with ablation=true"),
        ([f"run=[{run_folder},]"], "a path or a list"),
        ([run, "gallery=2", "pictures=false"], "`pictures` must be true"),
        ([run, "references=[1,2]"], "`references` must map names"),
        ([run, "references={ceiling: high}"], "`references.ceiling`"),
        ([f"compare={run_folder}"], "at least 2 evaluations"),
        ([f"compare=[{run_folder},{run_folder}]"], "each evaluation once"),
        ([f"compare=[{run_folder},{other_run}]"], "must be a saved evaluation"),
    ):
        result = pgdiff("evaluate", *words)
        assert result.code == 1
        assert message in result.error
    assert snapshot(other_run.parent) == before
