"""Training of the stages of a recipe in a run folder, from Python."""

import json
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from pgdiff.core.serialization import write_json
from pgdiff.core.validation import PgdiffError
from pgdiff.critics import TransitionValue
from pgdiff.data import Episodes
from pgdiff.runs.folders import last_metrics
from pgdiff.runs.load import SETTINGS, planner_defaults
from pgdiff.runs.run import RUN_FORMAT, read_run
from pgdiff.runs.stages import Stage
from pgdiff.training import EvaluationCallback, TrainingInterrupted
from pgdiff.workflows.train import train_stages

TASK = {"name": "walk", "id": "Walk-v0"}
TRAINER = {"steps": 6, "batch_size": 4, "validation": 0.2, "checkpoint_every": 2}
VALUE = Stage(
    name="value",
    learner="transition_value",
    arguments={"stride": 2, "width": 8, "depth": 1},
    trainer=TRAINER,
)
INVERSE = Stage(
    name="inverse_dynamics",
    learner="inverse_dynamics",
    arguments={"stride": 2, "width": 8, "depth": 1},
    trainer=TRAINER,
)


@pytest.fixture(scope="module")
def episodes() -> Episodes:
    rng = np.random.default_rng(0)
    actions = rng.uniform(-1, 1, (200, 1)).astype(np.float32)
    ends = np.zeros(200)
    ends[19::20] = 1
    return Episodes.from_arrays(
        observations=actions.cumsum(axis=0),
        actions=actions,
        rewards=rng.uniform(size=200),
        terminals=np.zeros(200),
        timeouts=ends,
    )


@pytest.fixture
def train(episodes: Episodes, tmp_path: Path):
    def run(*stages: Stage, **options):
        options = {"folder": tmp_path / "run", "task": TASK, "progress": False, **options}
        return train_stages(episodes, stages, **options)

    return run


def test_stages_end_in_a_finished_run(train, episodes: Episodes, tmp_path: Path) -> None:
    guides = {"value": {"scale": 2.0}}
    info = train(VALUE, INVERSE, guides=guides, guide="value", planner={"candidates": 4})
    assert info.finished
    assert read_run(tmp_path / "run") == info
    assert info.data.pop("least_reward") == episodes.rewards.min()
    assert info.data | {"sha256": ""} == {"path": "", "steps": 200, "episodes": 10, "sha256": ""}
    assert isinstance(info.load("value", device="cpu"), TransitionValue)
    assert last_metrics(info, "value")["step"] == 6
    assert last_metrics(info, "nothing") == {}
    expected = {"value": {"name": "value", "scale": 2.0, "value": {"stage": "value"}}}
    assert (info.guides, info.guide) == (expected, "value")
    assert info.planner["candidates"] == 4


def test_weights_follow_from_the_seed(train, tmp_path: Path) -> None:
    def weights(name: str, seed: int) -> bytes:
        train(VALUE, folder=tmp_path / name, seed=seed)
        return (tmp_path / name / "value" / "model.safetensors").read_bytes()

    assert weights("a", 0) == weights("b", 0) != weights("c", 1)


@pytest.mark.parametrize("step", [1, 3])
def test_resume_within_a_stage_is_exact(train, tmp_path: Path, monkeypatch, step: int) -> None:
    whole = train(VALUE, INVERSE, folder=tmp_path / "whole")
    after_step, count = TransitionValue.after_step, [0]

    def killed(self: TransitionValue) -> None:
        after_step(self)
        count[0] += 1
        if count[0] == step:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(TransitionValue, "after_step", killed)
        with pytest.raises(KeyboardInterrupt):
            train(VALUE, INVERSE)
    if step == 1:  # before the end of the first step
        assert not (tmp_path / "run").exists()
    else:
        assert not read_run(tmp_path / "run").finished
        with pytest.raises(PgdiffError, match="unfinished: value, inverse_dynamics"):
            train(VALUE, INVERSE)
    resumed = train(VALUE, INVERSE, resume=True)
    for name in ("value", "inverse_dynamics"):
        parts = [info.path / name / "model.safetensors" for info in (whole, resumed)]
        assert parts[0].read_bytes() == parts[1].read_bytes()
    steps = [
        json.loads(line)["step"]
        for line in (resumed.path / "logs" / "value" / "metrics.jsonl").read_text().splitlines()
    ]
    assert steps == [6]


@pytest.mark.parametrize("where", ["in a stage", "between stages"])
def test_sigterm_ends_a_run_that_can_be_resumed(
    train, tmp_path: Path, monkeypatch, where: str
) -> None:
    import pgdiff.workflows.train as workflow

    whole = train(VALUE, INVERSE, folder=tmp_path / "whole")
    handler = signal.getsignal(signal.SIGTERM)
    after_step, finish, count = TransitionValue.after_step, workflow._finish, [0]

    def signalled(self: TransitionValue) -> None:
        after_step(self)
        count[0] += 1
        if count[0] == 3 and where == "in a stage":
            signal.raise_signal(signal.SIGTERM)

    def finished(*arguments):
        if where == "between stages":
            signal.raise_signal(signal.SIGTERM)
        return finish(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(TransitionValue, "after_step", signalled)
        patch.setattr(workflow, "_finish", finished)
        with pytest.raises(TrainingInterrupted) as stop:
            train(VALUE, INVERSE)
    assert signal.getsignal(signal.SIGTERM) is handler
    assert stop.value.number == signal.SIGTERM
    stages = [stage.finished for stage in read_run(tmp_path / "run").stages]
    if where == "in a stage":
        assert (stop.value.step, stages) == (3, [False, False])
        assert stop.value.checkpoint is not None and stop.value.checkpoint.is_dir()
    else:
        assert "after the stage 'value'" in str(stop.value) and stages == [True, False]
    resumed = train(VALUE, INVERSE, resume=True)
    for name in ("value", "inverse_dynamics"):
        parts = [info.path / name / "model.safetensors" for info in (whole, resumed)]
        assert parts[0].read_bytes() == parts[1].read_bytes()


def test_callbacks_of_a_stage_and_its_best_weights(train, tmp_path: Path) -> None:
    scores = {2: 0.1, 4: 0.7, 6: 0.3}
    evaluate = EvaluationCallback(lambda learner, step: {"eval/score": scores[step]}, every=2)
    best = {"best": "eval/score", "mode": "max", "use_best": True}
    stage = replace(VALUE, trainer=TRAINER | best)
    info = train(stage, INVERSE, callbacks={"value": [evaluate]})
    assert last_metrics(info, "value")["eval/score"] == 0.3
    assert "eval/score" not in last_metrics(info, "inverse_dynamics")
    file = info.path / "logs" / "value" / "best" / "ema.safetensors"
    kept, used = load_file(file), load_file(info.path / "value" / "model.safetensors")
    assert all(torch.equal(used[name], kept[name]) for name in used)
    with pytest.raises(PgdiffError, match="Did you mean 'value'"):
        train(stage, folder=tmp_path / "other", callbacks={"valu": [evaluate]})
    # With `best`, the settings include the records that it is chosen from.
    finer = replace(stage, trainer=stage.trainer | {"log_every": 1})
    with pytest.raises(PgdiffError, match="`log_every` of the stage 'value'"):
        train(finer, INVERSE, resume=True)
    free = replace(INVERSE, trainer=TRAINER | {"log_every": 1, "workers": 2, "on_nan": "skip"})
    assert train(stage, free, resume=True).finished


def test_a_picture_that_cannot_be_written_loses_nothing(train, monkeypatch) -> None:
    import pgdiff.workflows.train as workflow

    def full(*_: object, **__: object) -> None:
        raise PgdiffError("Cannot write 'a.png' (9 bytes): no space.")

    monkeypatch.setattr(workflow, "loss_picture", full)
    with pytest.warns(UserWarning, match="No picture of the losses: Cannot write"):
        assert train(VALUE).finished


def test_a_result_that_was_saved_but_not_noted(train, tmp_path: Path, monkeypatch) -> None:
    import pgdiff.workflows.train as workflow

    def killed(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(workflow, "loss_picture", killed)  # between save_pretrained and run.json
        with pytest.raises(KeyboardInterrupt):
            train(VALUE)
    saved = (tmp_path / "run" / "value" / "model.safetensors").read_bytes()
    assert train(VALUE, resume=True).finished
    assert (tmp_path / "run" / "value" / "model.safetensors").read_bytes() == saved


def test_an_addition_that_fails_at_once_leaves_the_run_as_it_was(
    train, tmp_path: Path, monkeypatch
) -> None:
    train(INVERSE)
    before = (tmp_path / "run" / "run.json").read_bytes()
    with monkeypatch.context() as patch:
        patch.setattr(TransitionValue, "losses", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            train(VALUE, add=True)
    assert (tmp_path / "run" / "run.json").read_bytes() == before
    assert not (tmp_path / "run" / "logs" / "value").exists()
    info = train(VALUE, add=True, guides={"value": {"scale": 1.0}}, guide="value")
    assert [stage.name for stage in info.stages] == ["inverse_dynamics", "value"]
    assert info.guide == "value"


def test_changed_data_are_no_resumption(train, episodes: Episodes, tmp_path: Path) -> None:
    """This also holds if the stages that were trained on the old rows are finished."""
    fields = {name: values.copy() for name, values in episodes.fields().items()}
    fields["observations"][150:156] += 1.0
    train(VALUE)
    options = {"folder": tmp_path / "run", "task": TASK, "progress": False, "resume": True}
    with pytest.raises(PgdiffError, match="`data` must hold the rows"):
        train_stages(Episodes.from_arrays(**fields), [VALUE, INVERSE], **options)
    assert not (tmp_path / "run" / "inverse_dynamics").exists()
    assert train(VALUE, INVERSE, resume=True).finished
    # A run of an earlier version stores only the numbers of rows and episodes.
    content = json.loads((tmp_path / "run" / "run.json").read_text())
    del content["data"]["sha256"]
    write_json(tmp_path / "run" / "run.json", content)
    assert train_stages(Episodes.from_arrays(**fields), [VALUE, INVERSE], **options).finished


def test_a_later_failure_can_be_resumed(train, tmp_path: Path, monkeypatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(TransitionValue, "losses", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            train(INVERSE, VALUE)
    run = read_run(tmp_path / "run")
    assert [stage.finished for stage in run.stages] == [True, False]
    with pytest.raises(PgdiffError, match=r"'value' of the run .* is not finished"):
        run.load("value")
    assert train(INVERSE, VALUE, resume=True).finished


def test_a_run_holds_every_setting_of_its_planner(train, tmp_path: Path) -> None:
    """Defaults included, so that a plan does not depend on the version that makes it."""
    info = train(VALUE, planner={"sampling": {"steps": 3}})
    assert info.planner == planner_defaults({"sampling": {"steps": 3}})
    assert info.planner["sampling"]["solver"] == {"name": "dpm_solver", "order": 2}
    assert info.planner["sampling"]["steps"] == 3
    assert set(info.planner) == {"candidates", "condition", *SETTINGS}
    assert train(VALUE, folder=tmp_path / "no planner").planner == {}


def test_refusals(train, tmp_path: Path) -> None:
    cases: list[tuple[list[Stage], dict[str, Any], str]] = [
        ([], {}, "`stages`"),
        ([VALUE, VALUE], {}, "`stages`"),
        ([VALUE], {"seed": -1}, "`seed`"),
        ([VALUE], {"guide": "value"}, "`guide`"),
        ([VALUE], {"guides": {"value": {"wait": 1}}}, "has no 'wait'"),
        ([VALUE], {"planner": {"plans": 1}}, "`planner` has no 'plans'"),
        ([VALUE], {"planner": {"sampling": {"step": 1}}}, "Did you mean 'steps'"),
        ([VALUE], {"add": True}, "`run` must be a run folder"),
    ]
    for stages, options, message in cases:
        with pytest.raises(PgdiffError, match=message):
            train(*stages, **options)
    assert list(tmp_path.iterdir()) == []


def test_a_bad_stage(train, tmp_path: Path) -> None:
    cases: list[tuple[dict[str, Any], str]] = [
        ({"name": "logs"}, "name of a stage"),
        ({"name": "../up"}, "name of a stage"),
        ({"learner": "value"}, "learner of the stage 'value'"),
        ({"arguments": {"strid": 2}}, "Did you mean 'stride'"),
        ({"arguments": {}}, "needs `stride`"),
        ({"arguments": {"stride": [2]}}, "`stride`"),
        ({"arguments": {"stride": 2, "width": "wide"}}, "`width` must be"),
        ({"arguments": {"stride": 2, "denoiser": {"name": "x"}}}, "has no 'denoiser'"),
        ({"trainer": {}}, "needs `steps`"),
        ({"trainer": {"steps": 2, "seed": 1}}, "has no 'seed'"),
    ]
    for changes, message in cases:
        content = {"name": "value", "learner": "transition_value", "trainer": {"steps": 2}}
        content |= {"arguments": {"stride": 2}}
        with pytest.raises(PgdiffError, match=message):
            train(Stage(**{**content, **changes}))
    assert list(tmp_path.iterdir()) == []


def test_json_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", {"x": 1})
    with pytest.raises(ValueError):
        write_json(tmp_path / "a.json", {"x": float("nan")})
    assert json.loads((tmp_path / "a.json").read_text()) == {"x": 1}
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.json"]


def test_runs_of_older_formats_plan_as_they_did(train, tmp_path: Path) -> None:
    train(VALUE)
    file = tmp_path / "run" / "run.json"
    content = json.loads(file.read_text())
    assert content["format"] == RUN_FORMAT == 4
    for number, old, expected in (
        (1, {}, {"solver": {"name": "ddim"}, "spacing": {"name": "uniform"}}),
        (2, {"levels": "pyramid", "steps": 7}, {"level_schedule": "pyramid", "steps": 7}),
        (3, {"schedule": "pyramid"}, {"level_schedule": "pyramid"}),
    ):
        file.write_text(json.dumps(content | {"format": number, "planner": old}))
        sampling = read_run(tmp_path / "run").planner["sampling"]
        assert {key: sampling[key] for key in expected} == expected
