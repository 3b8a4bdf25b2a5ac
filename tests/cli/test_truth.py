"""`evaluate truth=true`: its files, and what is refused before anything is measured."""

import json
from pathlib import Path

QUICK = ["planner.candidates=2", "planner.sampling.steps=2", "truth_starts=6", "truth_likelihood=0"]


def test_the_truth_of_a_run_s_plans(pgdiff, run_folder: Path) -> None:
    words = ["evaluate", f"run={run_folder}", "truth=true", "out=e", "truth_seed=11", *QUICK]
    result = pgdiff(*words)
    assert result.code == 0, result.err
    assert {file.name for file in Path("e").iterdir()} == {"truth.json", "truth.png"}
    content = json.loads(Path("e/truth.json").read_text())
    assert list(content["rows"]) == ["recorded", "unguided", "guided"]
    figures = content["rows"]["guided"]["cut_all"]
    assert 0 <= figures["low"] <= figures["value"] <= figures["high"] <= 1
    assert len(content["rows"]["recorded"]["per_plan"]["achieved"]) == 6
    assert content["value"]["name"] == "value" and content["value"]["states"] == 6
    stated = content["settings"]
    assert (stated["starts"], stated["seed"], stated["candidates"]) == (6, 11, 2)
    assert stated["run"] == str(run_folder) and stated["guide"] == "value"
    assert "it was left out" in content["empty"]["likelihood"]
    assert "infeasible legs" in result.out
    again = pgdiff(*words)
    assert again.code == 1 and "must be a folder without earlier results" in again.error


def test_what_is_refused(pgdiff, own_run: Path, data: Path) -> None:
    words = ["evaluate", f"run={own_run}", "truth=true", *QUICK]
    Path("file").touch()
    assert "must be a path that can be written to" in pgdiff(*words, "out=file/e").error
    assert "`truth_starts` must be" in pgdiff(*words, "truth_starts=0").error
    assert "`truth` must be false with ablation" in pgdiff(*words, "ablation=true").error
    content = json.loads((own_run / "run.json").read_text())
    for path, said in (("gone.hdf5", "does not exist"), (str(data), "Got another recording")):
        content["data"] = {"path": path, "steps": 1, "episodes": 1}
        (own_run / "run.json").write_text(json.dumps(content))
        assert said in pgdiff(*words, "out=e").error
    assert not Path("e").exists()
    assert pgdiff(*words, "out=e", f"data={data}", "pictures=false").code == 0
    assert {file.name for file in Path("e").iterdir()} == {"truth.json"}
