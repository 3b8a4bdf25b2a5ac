"""Settings on the command line: keys, choices, quoting."""

from itertools import cycle
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf

from pgdiff.cli.config_paths import choices, node_of
from pgdiff.cli.environments import make_env
from pgdiff.cli.hydra_config import _keys, settings
from pgdiff.cli.main import COMMANDS
from pgdiff.cli.overrides import parse
from pgdiff.cli.path_settings import is_path
from pgdiff.core.validation import PgdiffError
from pgdiff.runs.load import check_planner

NEAREST = [
    ("train", "seeed=1", "seed"),
    ("train", "batch_size=3", "trainer.batch_size"),
    ("train", "trainer.batchsize=3", "trainer.batch_size"),
    ("train", "recipe.stages.value.argumnts.discount=0.9", "recipe.stages.value.arguments"),
    ("collect", "task.step=3", "task.steps"),
    ("evaluate", "episods=3", "episodes"),
    ("plan", "planer=run", "planner"),
    # Settings of the planner, which are nested.
    ("evaluate", "candidates=3", "planner.candidates"),
    ("evaluate", "steps=3", "planner.sampling.steps"),
    ("evaluate", "planner.steps=3", "planner.sampling.steps"),
    ("evaluate", "planner.sampling.step=3", "planner.sampling.steps"),
    ("evaluate", "planner.warm_start=0.5", "planner.replanning.warm_start"),
    ("evaluate", "planner.replan_every=3", "planner.replanning.every"),
    ("evaluate", "planner.filter.noise=0.1", "planner.filter.noise_level"),
    ("evaluate", "planner.selection.keep=true", "planner.selection.keep_previous"),
    ("generate", "steps=3", "sampling.steps"),
]


def test_an_unknown_key_names_the_nearest(pgdiff, tmp_path: Path) -> None:
    for command, word, near in NEAREST:
        result = pgdiff(command, word)
        assert result.code == 1
        assert f"Did you mean '{near}" in result.error
    assert "Did you mean" not in pgdiff("evaluate", "planner.xyz=3").error
    assert list(tmp_path.iterdir()) == []


def test_an_unknown_choice_names_the_nearest(pgdiff, tmp_path: Path) -> None:
    for command, word, near in (
        ("collect", "task=maze2d-umze-v1", "maze2d-umaze-v1"),
        ("train", "recipe=stridd", "strided"),
        ("train", "diffusion=cosin", "cosine"),
        ("evaluate", "guide=valeu", "value"),
        ("plan", "planner=runn", "run"),
    ):
        result = pgdiff(command, word)
        assert result.code == 1
        key, value = word.split("=")
        assert result.error.startswith(f"error: `{key}` must be one of")
        assert f"Did you mean '{near}'? Got '{value}'." in result.error
    assert list(tmp_path.iterdir()) == []


def test_a_malformed_word(pgdiff) -> None:
    for word, message in (
        ("seed", "`seed` is not a setting"),
        ("--seed=1", "`--seed=1` is not a setting"),
        ("seed=0,1", "Add -m"),
        ("~seed", "`seed` must not be removed"),
        ("~task", "`task` must be set as task=NAME"),
        ("+sead=1", "Did you mean 'seed'"),
        ("task@foo=maze2d-umaze-v1", "Leave out '@'"),
        ("seed=[1", "is not a setting"),
        ("hydra.job.chdir=true", "has no setting 'hydra.job.chdir'"),
        ("seed=${nothing}", "nothing"),
        ("recipe.planner={step: 3}", "`recipe.planner.step` is not a setting yet. Write +"),
    ):
        result = pgdiff("train", word)
        assert result.code == 1
        assert message in result.error


ODD_PATHS = [
    *("plain/a.hdf5", "a=b,c d[0]{1}(2).hdf5", "it's.hdf5", "runs/x=1,y=2", "1e3", "a\\b", "b\\"),
    *(
        "données/é=ü.zip",
        'say "hi".zip',
        "100%.zip",
        "$HOME${a",
        "a#b:c;d&e!@*?|<>~`^+.zip",
        "null.zip",
    ),
]
WITH_SETTINGS = [name for name, (_, takes_path, _) in COMMANDS.items() if not takes_path]


def read(found: Any, key: str) -> Any:
    for part in key.split("."):
        found = found[part]
    return found


def test_every_path_of_every_command_is_taken_literally() -> None:
    for command in WITH_SETTINGS:
        groups = ["recipe=fitted_q"] if command == "train" else []
        keys = [key for key in sorted(_keys(command, tuple(groups))) if is_path(key)]
        assert "out" in keys
        given = dict(zip(keys, cycle(ODD_PATHS), strict=False))
        found = settings(command, [*groups, *(f"{key}={path}" for key, path in given.items())])
        assert {key: read(found, key) for key in keys} == given


def test_a_path_may_hold_any_character() -> None:
    words = [f"{key}={path}" for path in ODD_PATHS for key in ("data", "guide.agent")]
    for word, override in zip(words, parse(words, sweep=False), strict=True):
        resolved = OmegaConf.to_container(OmegaConf.create({"path": override.value}), resolve=True)
        assert resolved == {"path": word.partition("=")[2]}


def test_paths_in_lists_and_in_settings_of_several_guides() -> None:
    found = settings("generate", ["guide.also={policy: {agent: a=é(1).zip, scale: 0.3}}"])
    assert found["guide"]["also"] == {"policy": {"agent": "a=é(1).zip", "scale": 0.3}}
    found = settings("convert", ["data=[x=1/a.hdf5, é b.hdf5,'c,d.hdf5']", "out=${to}/a.hdf5"])
    assert found["data"] == ["x=1/a.hdf5", "é b.hdf5", "c,d.hdf5"]
    assert found["out"] == "hdf5/a.hdf5"  # an interpolation keeps its meaning
    more = "+recipe.guides.policy.agent=a=b.zip"
    assert settings("train", [more])["recipe"]["guides"]["policy"] == {"agent": "a=b.zip"}


def test_a_sweep_over_paths(pgdiff, tmp_path: Path, data: Path) -> None:
    for name in ("a=1.hdf5", "é(2).hdf5"):
        (tmp_path / name).write_bytes(data.read_bytes())
    result = pgdiff("convert", "-m", "data=a=1.hdf5,é(2).hdf5", "out=o.hdf5", "overwrite=true")
    assert result.code == 0, result.err
    assert "--- convert data=a=1.hdf5" in result.out and "data=é(2).hdf5" in result.out


def test_a_recipe_can_be_given_more_and_less() -> None:
    found = settings(
        "train",
        [
            "+recipe.stages.value.arguments.normalizer=standard",
            "~recipe.stages.inverse_dynamics",
            "recipe.stages.model.arguments.tokens.horizon=7",
            "task=maze2d-large-v1",
        ],
    )
    assert list(found["recipe"]["stages"]) == ["model", "value"]
    assert found["recipe"]["stages"]["value"]["arguments"]["normalizer"] == "standard"
    assert found["recipe"]["stages"]["model"]["arguments"]["tokens"]["horizon"] == 7
    assert found["recipe"]["stages"]["value"]["arguments"]["stride"] == found["task"]["stride"]


def test_every_task_of_the_environments_has_a_configuration() -> None:
    from pgdiff_envs import TASKS

    assert set(choices("task")) == {*TASKS, "hopper", "walker2d", "halfcheetah", "custom"}
    for name, task in TASKS.items():
        found = node_of("task", name)
        assert found["name"] == name
        assert found["id"] == f"pgdiff_envs:{name}"
        assert (found["horizon"] - 1) * found["stride"] <= task.steps
    assert settings("collect", [f"task={name}"])["task"] == found
    make_env(found["id"]).close()


def test_every_recipe_composes() -> None:
    """Its planner is checked too: a name that is unknown is found before a training."""
    words = [f"diffusion={name}" for name in choices("diffusion")]
    words += [f"task={name}" for name in ("hopper", "walker2d", "halfcheetah")]
    assert len(words) <= len(choices("recipe"))
    for recipe, word in zip(choices("recipe"), cycle(words), strict=False):
        found = settings("train", [f"recipe={recipe}", word])
        assert found["recipe"]["name"] == recipe
        assert set(found["recipe"]["guides"]) <= set(found["recipe"]["stages"])
        assert found["recipe"]["guide"] in {None, *found["recipe"]["guides"]}
        check_planner(found["recipe"]["planner"])


def test_an_unknown_environment() -> None:
    for env_id in ("Nothing-v0", "no_such_module:Maze-v0", "", "a b", 3):
        with pytest.raises(PgdiffError, match="environment id must be"):
            make_env(env_id)
