import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pgdiff.core.validation import PgdiffError
from pgdiff.evaluation import (
    comparison_table,
    evaluate,
    interval,
    load_evaluation,
    load_evaluations,
)


@pytest.fixture
def evaluation(make_env: Any, constant: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setenv("GOMP_SPINCOUNT", "17")
    monkeypatch.delenv("OMP_WAIT_POLICY", raising=False)
    return evaluate(constant, make_env, episodes=6, seed=3, progress=False)


def test_summary_states_mean_interval_seeds_speed_and_machine(evaluation: Any) -> None:
    summary = json.loads(json.dumps(evaluation.summary(), allow_nan=False))
    assert summary["episodes"] == 6
    assert summary["seeds"] == [3, 8]
    assert summary["return"]["mean"] == pytest.approx(np.mean([6, 12, 20, 6, 12, 20]))
    assert summary["return"]["interval"] == list(interval(evaluation.returns))
    assert summary["normalized_score"]["mean"] == pytest.approx(10 * 76 / 6)
    assert summary["success_rate"]["mean"] == pytest.approx(4 / 6)
    assert summary["plans_per_second"] > 0
    assert summary["settings"]["env"] == "Counter"
    assert summary["settings"]["agent"] == "Constant"
    assert summary["machine"]["cores"] >= 1
    assert summary["machine"]["torch"]
    assert summary["machine"]["load"] >= 0
    assert summary["machine"]["variables"]["GOMP_SPINCOUNT"] == "17"
    assert "OMP_WAIT_POLICY" not in summary["machine"]["variables"]
    assert summary["machine"]["versions"]["gymnasium"]
    assert summary["steps_to_goal"]["mean"] == 3 and summary["steps_to_goal"]["episodes"] == 4
    assert summary["milliseconds_per_plan"] == pytest.approx(1000 / summary["plans_per_second"])
    assert summary["agent_seconds"] <= summary["seconds"]


def test_json_holds_every_episode_and_is_written_whole(evaluation: Any, tmp_path: Path) -> None:
    path = evaluation.to_json(tmp_path / "deep" / "evaluation.json")
    content = json.loads(path.read_text())
    assert content["per_episode"]["returns"] == evaluation.returns.tolist()
    assert content["per_episode"]["successes"] == [False, True, True] * 2
    assert content["per_episode"]["steps_to_goal"] == [None, 3, 3] * 2
    assert content["per_episode"]["seeds"] == [3, 4, 5, 6, 7, 8]
    assert [file.name for file in path.parent.iterdir()] == ["evaluation.json"]


def test_what_is_read_is_what_was_written(evaluation: Any, tmp_path: Path) -> None:
    path = evaluation.to_json(tmp_path / "a" / "evaluation.json")
    for where in (path, path.parent):
        found = load_evaluation(where)
        assert found.summary() == evaluation.summary()
        for name in ("returns", "normalized_scores", "successes", "lengths", "steps_to_goal"):
            one, other = getattr(found, name), getattr(evaluation, name)
            np.testing.assert_array_equal(one, other)
            assert one.dtype == other.dtype
        np.testing.assert_array_equal(found.environment_seeds, np.arange(3, 9))
    again = found.to_json(tmp_path / "again.json")
    assert again.read_bytes() == path.read_bytes()


def test_a_folder_of_several_is_read_in_order(evaluation: Any, tmp_path: Path) -> None:
    for name in ("run_1", "run_0"):
        evaluation.settings["training_seed"] = name
        evaluation.to_json(tmp_path / name / "evaluation.json")
    found = load_evaluations(tmp_path)
    assert [e.settings["training_seed"] for e in found] == ["run_0", "run_1"]
    assert len(load_evaluations(tmp_path / "run_0")) == 1


def test_files_from_before_the_format_was_stated_are_read(evaluation: Any, tmp_path: Path) -> None:
    path = evaluation.to_json(tmp_path / "evaluation.json")
    content = json.loads(path.read_text())
    for name in ("format", "agent_seconds", "milliseconds_per_plan", "steps_to_goal"):
        del content[name]
    for name in ("seeds", "steps_to_goal", "goals"):
        del content["per_episode"][name]
    content["settings"]["goal"] = "told at each reset"
    path.write_text(json.dumps(content))
    found = load_evaluation(path)
    assert found.plans_per_second == pytest.approx(evaluation.plans_per_second)
    assert found.steps_to_goal is None and found.goals is None
    assert found.settings["goal"] == "from each reset"
    np.testing.assert_array_equal(found.environment_seeds, np.arange(3, 9))


def test_a_failed_write_leaves_the_old_file(
    evaluation: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = evaluation.to_json(tmp_path / "evaluation.json")
    before = path.read_bytes()

    def fail(*_: Any) -> None:
        raise OSError("disk full")

    monkeypatch.setattr("os.fsync", fail)
    with pytest.raises(PgdiffError, match="disk full"):
        evaluation.to_json(path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_tables_have_one_row_per_agent(evaluation: Any) -> None:
    lines = evaluation.table().splitlines()
    assert len(lines) == 4
    assert lines[2].startswith("Constant")
    assert lines[3].startswith("environment seeds ")
    both = comparison_table({"unguided": evaluation, "guided, 64 candidates": evaluation})
    header, rule, first, second = both.splitlines()
    assert header.index("return") == first.index("12.7 [") == second.index("12.7 [")
    assert set(rule) == {"-", " "}
    with pytest.raises(PgdiffError, match="at least one"):
        comparison_table({})


def test_what_is_missing_is_a_dash(make_plain: Any) -> None:
    class Silent:
        def predict(self, observation: Any, **_: Any) -> tuple[np.ndarray, None]:
            return np.ones((len(observation), 1)), None

    found = evaluate(Silent(), make_plain, episodes=2, progress=False)
    assert found.table("silent").splitlines()[2].split()[-3:] == ["-", "-", "-"]
    assert found.summary()["normalized_score"] is None
