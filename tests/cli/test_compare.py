"""`pgdiff compare`: figures and pictures for synthetic data."""

import json
from pathlib import Path

import numpy as np

import pgdiff as package

SMALL = ["rows=10", "points=200", "positions=5"]
MAZE = "env=pgdiff_envs:maze2d-umaze-v1"


def test_a_recording_and_a_blurred_one(pgdiff, data: Path, tmp_path: Path) -> None:
    episodes = package.load_episodes(data)
    fields = episodes.fields()
    noise = np.random.default_rng(0).normal(0, 0.02, fields["observations"].shape)
    fields["observations"] = np.float32(fields["observations"] + noise)
    package.write_hdf5("blurred.hdf5", fields)
    words = [f"real={data}", f"synthetic=[{data},blurred.hdf5]", MAZE, *SMALL]
    result = pgdiff("compare", *words, "out=page")
    assert result.code == 0, result.err
    assert "one-step error" in result.out
    found = json.loads(Path("page/fidelity.json").read_text())["columns"]
    assert list(found) == ["real, held out", data.stem, "blurred"]
    errors = [np.sqrt(np.mean(np.square(c["steps"]["observation"]))) for c in found.values()]
    assert errors[0] < 1e-3 and errors[1] < 1e-3 < 0.3 < errors[2]
    assert {file.name for file in Path("page").glob("*.png")} == {"fidelity.png", "marginals.png"}


def test_a_policy_and_no_simulator(pgdiff, data: Path) -> None:
    words = ["recipe=cloning", "recipe.stages.cloning.arguments.width=16", "trainer.steps=3"]
    task = "task=maze2d-umaze-v1"
    assert pgdiff("train", *words, task, f"data={data}", "out=agent").code == 0
    package.write_hdf5("made.hdf5", package.load_episodes(data))
    words = [f"real={data}", "synthetic=made.hdf5", "target=agent/cloning", *SMALL]
    result = pgdiff("compare", *words)
    assert result.code == 0, result.err
    assert "log-likelihood, target" in result.out
    assert Path("made.hdf5.fidelity/fidelity.json").is_file()


def test_an_ensemble_and_the_model_itself(pgdiff, data: Path) -> None:
    task, small = f"data={data}", ["trainer.steps=3", "task=maze2d-umaze-v1"]
    arguments = "recipe.stages.{0}.arguments.width=16"
    for recipe in ("cloning", "ensemble"):
        words = [f"recipe={recipe}", arguments.format(recipe), f"out={recipe}"]
        assert pgdiff("train", *words, task, *small).code == 0
    words = ["recipe=synthesis", "denoiser.width=16", "trainer.batch_size=8", "out=run"]
    assert pgdiff("train", *words, task, *small).code == 0
    package.write_hdf5("made.hdf5", package.load_episodes(data))
    words = [f"real={data}", "synthetic=made.hdf5", "target=cloning/cloning", *SMALL]
    result = pgdiff("compare", *words, "ensemble=ensemble/ensemble", "model=run/model")
    assert result.code == 0, result.err
    assert "log-likelihood, model" in result.out
    found = json.loads(Path("made.hdf5.fidelity/fidelity.json").read_text())["columns"]
    assert list(found) == ["real, held out", "made", "ensemble"]
    assert found["ensemble"]["trajectories"] == 1000
    assert np.isfinite(found["made"]["model_likelihood"]["mean"])
    # Its trajectories of 6 rows are shorter than the model's.
    assert found["ensemble"]["model_likelihood"]["segments"] == 0
    for wrong, message in {
        "ensemble=cloning/cloning": "a stage that holds a DynamicsEnsemble",
        "model=ensemble/ensemble": "a stage that holds a TrajectoryDiffusion",
    }.items():
        result = pgdiff("compare", *words, wrong)
        assert result.code == 1
        assert message in result.error


def test_bad_words_are_named(pgdiff, data: Path) -> None:
    package.write_hdf5("made.hdf5", package.load_episodes(data))
    given = {"real": f"real={data}", "synthetic": "synthetic=made.hdf5", "env": MAZE}
    given |= {word.partition("=")[0]: word for word in SMALL}
    for word, message in (
        ("real=nothing.hdf5", "nothing.hdf5"),
        ("synthetic=null", "`synthetic` must be given"),
        ("synthetic=[made.hdf5,made.hdf5]", "must name each data set once"),
        ("env=Nothing-v0", "Nothing-v0"),
        ("env=Pendulum-v1", "must have set_observation"),
        ("ensemble=nothing", "`target` must be given"),
        ("target=nobody.zip", "nobody.zip"),
        ("held_out=2.0", "`validation` must be"),
        ("points=0", "`points` must be"),
        ("neighbours=1000", "points"),
    ):
        result = pgdiff("compare", *(given | {word.partition("=")[0]: word}).values())
        assert result.code == 1, word
        assert message in result.error
    assert not Path("made.hdf5.fidelity").exists()
