"""`train`: the run folder, what it refuses, adding stages, sweeping."""

import json
import shlex
import signal
from pathlib import Path

import h5py
import numpy as np

from pgdiff.model import TrajectoryDiffusion
from pgdiff.runs.run import RUN_FORMAT


def test_the_run_folder(run_folder: Path) -> None:
    assert {entry.name for entry in run_folder.iterdir()} == {
        "model",
        "value",
        "inverse_dynamics",
        "logs",
        "pictures",
        "run.json",
    }
    run = json.loads((run_folder / "run.json").read_text())
    assert run["format"] == RUN_FORMAT
    assert run["status"] == "finished"
    assert [stage["name"] for stage in run["stages"]] == ["model", "value", "inverse_dynamics"]
    assert run["task"]["id"] == "pgdiff_envs:maze2d-umaze-v1"
    assert run["stages"][0]["trainer"]["steps"] == 20
    assert run["data"]["steps"] == 5000
    assert (run_folder / "logs" / "model" / "metrics.jsonl").is_file()
    assert (run_folder / "pictures" / "losses_value.png").is_file()
    model = TrajectoryDiffusion.from_pretrained(run_folder / "model", device="cpu")
    assert model.denoiser.width == 16


def test_same_seed_same_weights(pgdiff, data: Path, run_folder: Path, tiny, tmp_path: Path) -> None:
    for seed in (0, 1):
        assert pgdiff("train", f"data={data}", f"seed={seed}", f"out=s{seed}", *tiny).code == 0
    for stage in ("model", "value", "inverse_dynamics"):
        first = (run_folder / stage / "model.safetensors").read_bytes()
        assert (tmp_path / "s0" / stage / "model.safetensors").read_bytes() == first
        assert (tmp_path / "s1" / stage / "model.safetensors").read_bytes() != first


def test_default_places(pgdiff, data: Path, tmp_path: Path, tiny) -> None:
    target = tmp_path / "data" / "maze2d-umaze-v1.hdf5"
    target.parent.mkdir()
    target.write_bytes(data.read_bytes())
    words = ["train", "recipe=value", *tiny[:2], "seed=3"]
    result = pgdiff(*words)
    assert result.code == 0
    assert result.out.splitlines()[-1] == "run: runs/maze2d-umaze-v1/value/3"
    again = pgdiff(*words)
    assert again.code == 1
    assert "is finished" in again.error and "overwrite=true" in again.error


REFUSED = {
    # Of the task, the data, the trainer and the run.
    "task.horizon=0": "`horizon`",
    "task.horizon=5000": "enough for a horizon of",
    "task.horizon=40": "Change `validation`",
    "task.discount=1.5": "`discount`",
    "trainer.learning_rate=fast": "`learning_rate`",
    "seed=99999999999999999999": "`seed`",
    "device=abacus": "`device`",
    "resume=maybe": "`resume` must be true or false",
    # Of the recipe: learners, parts, unknown and missing settings.
    "denoiser.name=transfomer": "Did you mean 'transformer'",
    "recipe.stages.model.learner=difusion": "learner of the stage 'model'",
    "recipe.stages.model=5": "must have a `learner`",
    "recipe.stages.model.arguments=5": "must be settings by name",
    "recipe.stages.model.arguments.inpainting.patterns=[begin]": "begin",
    "~recipe.stages.model.arguments.tokens.horizon": "`tokens` needs `horizon`",
    "+recipe.stages.model.arguments.tokens.strid=2": "`tokens` has no 'strid'",
    "+recipe.stages.value.arguments.discont=0.9": "Did you mean 'discount'",
    "+recipe.stages.value.trainer.step=3": "Did you mean 'steps'",
    # Of the guides and of the planner.
    "recipe.guide=goal": "`guide`",
    "+recipe.guides.value.scal=3": "Did you mean 'scale'",
    "recipe.guides.value.transform=sqrt": "`transform`",
    "+recipe.planner.candidats=3": "Did you mean 'candidates'",
    "+recipe.planner.sampling.step=3": "Did you mean 'steps'",
    "+recipe.planner.sampling.horizon=4": "`horizon` must be the",
}


def test_a_bad_setting_writes_nothing(pgdiff, data: Path, tmp_path: Path) -> None:
    cases = [([word], message) for word, message in REFUSED.items()]
    cases += [
        (["diffusion=epsilon", "diffusion.noise_schedule.name=cosine"], "`prediction`"),
        (["resume=true", "overwrite=true"], "must not both"),
        (
            ["+recipe.planner.filter={noise_level: 0.1, history_tokens: 1}"],
            "`history_tokens` must be 0",
        ),
    ]
    for words, message in cases:
        result = pgdiff("train", f"data={data}", "out=deep/run", *words)
        assert result.code == 1, words
        assert message in result.error
    assert list(tmp_path.iterdir()) == []


def test_absent_data_gives_the_line_that_records_it(pgdiff, tmp_path: Path) -> None:
    result = pgdiff("train", "task=maze2d-large-v1")
    assert result.code == 1
    assert result.error.endswith("Record it with: pgdiff collect task=maze2d-large-v1")
    result = pgdiff("train", "data=my data.hdf5")
    assert result.error.endswith("pgdiff collect task=maze2d-umaze-v1 'out=my data.hdf5'")
    assert list(tmp_path.iterdir()) == []


def test_nan_in_the_data(pgdiff, data: Path, tmp_path: Path) -> None:
    bad = tmp_path / "bad.hdf5"
    bad.write_bytes(data.read_bytes())
    with h5py.File(bad, "r+") as file:
        file["actions"][11, 0] = np.nan
    result = pgdiff("train", f"data={bad}")
    assert result.code == 1
    assert "`actions`, row 11: is NaN" in result.error
    assert list(tmp_path.iterdir()) == [bad]


def test_a_divergence_at_the_first_step_leaves_no_folder(
    pgdiff, data: Path, tmp_path: Path, monkeypatch, tiny
) -> None:
    losses = TrajectoryDiffusion.losses

    def broken(self, batch, generator):
        return {name: loss * float("nan") for name, loss in losses(self, batch, generator).items()}

    monkeypatch.setattr(TrajectoryDiffusion, "losses", broken)
    result = pgdiff("train", f"data={data}", "out=deep/run", *tiny)
    assert result.code == 1
    assert "stopped at step 1: the loss 'diffusion' is nan" in result.error
    assert list(tmp_path.iterdir()) == []


def test_out_is_no_run_folder(pgdiff, data: Path, tmp_path: Path, tiny, snapshot) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("…")
    (tmp_path / "file").write_text("…")
    before = snapshot(tmp_path)
    for words in (["out=mine"], ["out=mine", "overwrite=true"], ["out=file"]):
        result = pgdiff("train", f"data={data}", *words, *tiny)
        assert result.code == 1
        assert "`out` must be" in result.error
    assert snapshot(tmp_path) == before


def test_a_run_that_was_cut_off_between_stages(
    pgdiff, data: Path, run_folder: Path, tmp_path: Path, monkeypatch, tiny
) -> None:
    import pgdiff.workflows.train as workflow

    finish = workflow._finish

    def killed(info, job):
        finish(info, job)
        raise KeyboardInterrupt

    words = ["train", f"data={data}", "out=run", *tiny]
    with monkeypatch.context() as patch:
        patch.setattr(workflow, "_finish", killed)
        assert pgdiff(*words).code == 130
    assert json.loads((tmp_path / "run" / "run.json").read_text())["status"] == "started"
    result = pgdiff(*words)
    assert result.code == 1
    assert "was interrupted; unfinished: value, inverse_dynamics" in result.error
    assert "resume=true" in result.error
    result = pgdiff("plan", "run=run")
    assert result.code == 1
    assert "'value' of the run 'run' is not finished" in result.error
    assert "resume=true" in result.error
    result = pgdiff(*words, "resume=true", "task.discount=0.5")
    assert result.code == 1
    assert "`discount` of the stage 'value' must be" in result.error
    result = pgdiff(*words, "resume=true", "denoiser.width=32")
    assert result.code == 1
    assert "`denoiser` of the stage 'model' must be" in result.error
    assert pgdiff(*words, "resume=true").code == 0
    for stage in ("model", "value", "inverse_dynamics"):
        expected = (run_folder / stage / "model.safetensors").read_bytes()
        assert (tmp_path / "run" / stage / "model.safetensors").read_bytes() == expected


def test_resume_ends_with_the_same_weights(
    pgdiff, data: Path, run_folder: Path, tmp_path: Path, monkeypatch, tiny
) -> None:
    from pgdiff.critics import TransitionValue

    after_step, count = TransitionValue.after_step, [0]

    def killed(self):
        after_step(self)
        count[0] += 1
        if count[0] == 15:
            raise KeyboardInterrupt

    words = ["train", f"data={data}", "out=run", *tiny, "trainer.checkpoint_every=10"]
    with monkeypatch.context() as patch:
        patch.setattr(TransitionValue, "after_step", killed)
        assert pgdiff(*words).code == 130
    untouched = (tmp_path / "run" / "model" / "model.safetensors").stat().st_mtime_ns
    result = pgdiff(*words, "resume=true")
    assert result.code == 0
    assert (tmp_path / "run" / "model" / "model.safetensors").stat().st_mtime_ns == untouched
    for stage in ("model", "value", "inverse_dynamics"):
        expected = (run_folder / stage / "model.safetensors").read_bytes()
        assert (tmp_path / "run" / stage / "model.safetensors").read_bytes() == expected
    # Nothing is left to do: the same words change nothing.
    assert pgdiff(*words, "resume=true").code == 0
    assert (tmp_path / "run" / "model" / "model.safetensors").stat().st_mtime_ns == untouched


def test_sigterm_gives_the_line_that_goes_on(
    pgdiff, data: Path, run_folder: Path, tmp_path: Path, monkeypatch, tiny
) -> None:
    from pgdiff.critics import TransitionValue

    after_step, count = TransitionValue.after_step, [0]

    def signalled(self):
        after_step(self)
        count[0] += 1
        if count[0] == 13:
            signal.raise_signal(signal.SIGTERM)

    with monkeypatch.context() as patch:
        patch.setattr(TransitionValue, "after_step", signalled)
        result = pgdiff("train", f"data={data}", "out=my run", "overwrite=true", *tiny)
    assert result.code == 128 + signal.SIGTERM == 143
    *_, stopped, line = result.err.splitlines()
    assert "SIGTERM: training stopped after step 13 of 20" in stopped
    assert (tmp_path / "my run" / "logs" / "value" / "checkpoints" / "step-00000013").is_dir()
    assert line.startswith("to continue: pgdiff train ") and "overwrite" not in line
    assert pgdiff(*shlex.split(line)[3:]).code == 0
    for stage in ("model", "value", "inverse_dynamics"):
        expected = (run_folder / stage / "model.safetensors").read_bytes()
        assert (tmp_path / "my run" / stage / "model.safetensors").read_bytes() == expected


def test_workers_give_the_same_weights(
    pgdiff, data: Path, run_folder: Path, tmp_path: Path, tiny
) -> None:
    words = ["train", f"data={data}", "out=run", *tiny, "trainer.workers=1"]
    assert pgdiff(*words, "trainer.on_nan=skip", "trainer.best=eval/loss").code == 0
    for stage in ("model", "value", "inverse_dynamics"):
        expected = (run_folder / stage / "model.safetensors").read_bytes()
        assert (tmp_path / "run" / stage / "model.safetensors").read_bytes() == expected
    assert (tmp_path / "run" / "logs" / "model" / "best" / "ema.safetensors").is_file()


def test_resume_refuses_another_recording(pgdiff, data: Path, own_run: Path, tiny) -> None:
    words = ["train", f"out={own_run}", "resume=true", *tiny]
    assert pgdiff("collect", "steps=900", "out=other.hdf5").code == 0
    result = pgdiff(*words, "data=other.hdf5")
    assert result.code == 1
    assert "`data` must have 5000 steps" in result.error
    result = pgdiff(*words, f"data={data}", "task=maze2d-open-v0")
    assert result.code == 1
    assert "`task` must be 'maze2d-umaze-v1'" in result.error
    result = pgdiff(*words, f"data={data}", "seed=1")
    assert result.code == 1
    assert "`seed` of the stage 'model' must be 0" in result.error


def test_overwrite_starts_anew(pgdiff, data: Path, own_run: Path, tiny) -> None:
    (own_run / "old.txt").write_text("of the old run")
    result = pgdiff("train", f"data={data}", f"out={own_run}", "overwrite=true", "seed=1", *tiny)
    assert result.code == 0
    assert not (own_run / "old.txt").exists()
    assert json.loads((own_run / "run.json").read_text())["seed"] == 1


def test_overwrite_mends_a_damaged_run(pgdiff, data: Path, own_run: Path, tiny) -> None:
    (own_run / "run.json").write_text("{")
    result = pgdiff("train", f"data={data}", f"out={own_run}", "overwrite=true", *tiny)
    assert result.code == 0
    assert json.loads((own_run / "run.json").read_text())["status"] == "finished"


def test_base_adds_a_stage(pgdiff, own_run: Path, tiny, quick, snapshot) -> None:
    words = ["train", "recipe=segment_value", f"base={own_run}", *tiny]
    before = snapshot(own_run / "model")
    result = pgdiff(*words)
    assert result.code == 0
    assert result.out.splitlines()[-1] == f"run: {own_run}"
    run = json.loads((own_run / "run.json").read_text())
    assert [stage["name"] for stage in run["stages"]][-1] == "segment_value"
    assert (run["guide"], run["status"]) == ("value", "finished")
    assert snapshot(own_run / "model") == before
    result = pgdiff(*words)
    assert result.code == 1
    assert "already has a stage 'segment_value'" in result.error
    old = snapshot(own_run / "segment_value")
    assert pgdiff(*words, "overwrite=true", "seed=1").code == 0
    assert snapshot(own_run / "segment_value") != old
    assert pgdiff("plan", f"run={own_run}", "guide=segment_value", "out=plan", *quick).code == 0


def test_base_takes_the_task_of_the_run(pgdiff, data: Path, tiny, tmp_path: Path) -> None:
    # Maze data of one maze serve as those of another: only the names matter here.
    words = [f"data={data}", *tiny, "task.stride=7"]
    assert pgdiff("train", "task=maze2d-open-v0", "recipe=value", "out=run", *words).code == 0
    assert pgdiff("train", "recipe=segment_value", "base=run", *tiny).code == 0
    run = json.loads((tmp_path / "run" / "run.json").read_text())
    assert run["stages"][-1]["arguments"]["stride"] == 7
    result = pgdiff("train", "task=maze2d-large-v1", "recipe=segment_value", "base=run", *words)
    assert result.code == 1
    assert "`task` must be 'maze2d-open-v0', as in" in result.error


def test_base_refuses(pgdiff, own_run: Path, snapshot) -> None:
    before = snapshot(own_run)
    for words, message in (
        (["base=nowhere"], "`run` must be a run folder"),
        (["-m", "base=one,two"], "`base` must be one run"),
        ([f"base={own_run}", "out=elsewhere"], "`out` must be left out with `base`"),
        ([f"base={own_run}/model"], "contains a saved network"),
        ([f"base={own_run}", "task.horizon=5000"], "enough for a horizon of"),
    ):
        result = pgdiff("train", "recipe=segment_value", *words)
        assert result.code == 1
        assert message in result.error
    assert snapshot(own_run) == before


def test_a_sweep_over_seeds(pgdiff, data: Path, tmp_path: Path, tiny) -> None:
    words = ["train", "-m", "recipe=value", f"data={data}", *tiny[:2]]
    result = pgdiff(*words, "seed=0,1")
    assert result.code == 0, result.err
    for seed in (0, 1):
        folder = tmp_path / "runs" / "maze2d-umaze-v1" / "value" / str(seed)
        assert json.loads((folder / "run.json").read_text())["seed"] == seed
    assert {entry.name for entry in (tmp_path / "runs").iterdir()} == {
        "maze2d-umaze-v1",
        "multirun",
    }
    # One job that fails is reported, and the others go on.
    result = pgdiff(*words, "seed=1,2")
    assert result.code == 1
    assert "value/1' is finished" in result.error
    assert (tmp_path / "runs" / "maze2d-umaze-v1" / "value" / "2" / "run.json").is_file()


def test_a_sweep_names_its_folders(pgdiff, data: Path, tmp_path: Path, tiny) -> None:
    result = pgdiff(
        "train", "-m", "recipe=value", f"data={data}", *tiny[:1], "trainer.batch_size=4,8"
    )
    assert result.code == 0, result.err
    names = {entry.name for entry in (tmp_path / "runs" / "maze2d-umaze-v1" / "value").iterdir()}
    assert names == {"0-trainer.batch_size=4", "0-trainer.batch_size=8"}


def test_a_sweep_checks_its_words_first(pgdiff, tmp_path: Path) -> None:
    for word in ("seeed=0,1", "recipe=strided,valu"):
        result = pgdiff("train", "-m", word)
        assert result.code == 1
        assert "Did you mean" in result.error
    assert list(tmp_path.iterdir()) == []
