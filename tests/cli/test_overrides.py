"""Settings on the command line: keys, choices, quoting."""

from itertools import cycle
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf

from pgdiff.cli.compose import _keys, settings
from pgdiff.cli.environments import make_env
from pgdiff.cli.main import COMMANDS
from pgdiff.cli.overrides import parse
from pgdiff.cli.path_settings import is_path
from pgdiff.cli.places import choices
from pgdiff.validation import PgdiffError


@pytest.mark.parametrize(
    ("command", "word", "near"),
    [
        ("train", "seeed=1", "'seed'"),
        ("train", "batch_size=3", "'trainer.batch_size'"),
        ("train", "trainer.batchsize=3", "'trainer.batch_size'"),
        ("train", "recipe.stages.value.argumnts.discount=0.9", "'recipe.stages.value.arguments"),
        ("evaluate", "episods=3", "'episodes'"),
        ("evaluate", "candidates=3", "'planner.candidates'"),
        ("plan", "planer=run", "'planner'"),
        ("collect", "task.step=3", "'task.steps'"),
    ],
)
def test_an_unknown_key_names_the_nearest(pgdiff, command, word, near, tmp_path: Path) -> None:
    result = pgdiff(command, word)
    assert result.code == 1
    assert f"Did you mean {near}" in result.error
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("command", "word", "near"),
    [
        ("train", "task=maze2d-umze-v1", "maze2d-umaze-v1"),
        ("collect", "task=maze2d-umze-v1", "maze2d-umaze-v1"),
        ("train", "recipe=stridd", "strided"),
        ("train", "diffusion=cosin", "cosine"),
        ("evaluate", "guide=valeu", "value"),
        ("plan", "planner=runn", "run"),
    ],
)
def test_an_unknown_choice_names_the_nearest(pgdiff, command, word, near, tmp_path: Path) -> None:
    result = pgdiff(command, word)
    assert result.code == 1
    key, value = word.split("=")
    assert result.error.startswith(f"error: `{key}` must be one of")
    assert f"Did you mean '{near}'? Got '{value}'." in result.error
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("seed", "`seed` is no setting"),
        ("--seed=1", "`--seed=1` is no setting"),
        ("seed=0,1", "Add -m"),
        ("~seed", "`seed` must stay"),
        ("~task", "`task` must stay"),
        ("+sead=1", "Did you mean 'seed'"),
        ("task@foo=maze2d-umaze-v1", "Leave out '@'"),
        ("seed=[1", "is no setting"),
        ("hydra.job.chdir=true", "has no setting 'hydra.job.chdir'"),
        ("seed=${nothing}", "nothing"),
        ("recipe.planner={step: 3}", "`recipe.planner.step` is no setting yet. Put +"),
    ],
)
def test_a_malformed_word(pgdiff, word: str, message: str) -> None:
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


@pytest.mark.parametrize("command", WITH_SETTINGS)
def test_every_path_of_every_command_is_taken_as_it_is(command: str) -> None:
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
            "recipe.stages.model.arguments.horizon=7",
            "task=maze2d-large-v1",
        ],
    )
    assert list(found["recipe"]["stages"]) == ["model", "value"]
    assert found["recipe"]["stages"]["value"]["arguments"]["normalizer"] == "standard"
    assert found["recipe"]["stages"]["model"]["arguments"]["horizon"] == 7
    assert found["recipe"]["stages"]["value"]["arguments"]["stride"] == found["task"]["stride"]


def test_every_task_of_the_environments_has_a_configuration() -> None:
    from pgdiff_envs import TASKS

    assert set(choices("task")) == {*TASKS, "hopper", "walker2d", "halfcheetah", "custom"}
    for name, task in TASKS.items():
        found = settings("collect", [f"task={name}"])["task"]
        assert found["name"] == name
        assert found["id"] == f"pgdiff_envs:{name}"
        assert (found["horizon"] - 1) * found["stride"] <= task.steps
    make_env(found["id"]).close()


@pytest.mark.parametrize("diffusion", choices("diffusion"))
@pytest.mark.parametrize("recipe", choices("recipe"))
def test_every_recipe_composes(recipe: str, diffusion: str) -> None:
    found = settings("train", [f"recipe={recipe}", f"diffusion={diffusion}"])
    assert found["recipe"]["name"] == recipe
    assert set(found["recipe"]["guides"]) <= set(found["recipe"]["stages"])
    assert found["recipe"]["guide"] in {None, *found["recipe"]["guides"]}


@pytest.mark.parametrize("env_id", ["Nothing-v0", "no_such_module:Maze-v0", "", "a b", 3])
def test_an_unknown_environment(env_id: object) -> None:
    with pytest.raises(PgdiffError, match="environment id must be"):
        make_env(env_id)
