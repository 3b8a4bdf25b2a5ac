"""Tasks, recipes and classes from outside the package, and what is never imported."""

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from pgdiff.cli.config_paths import choices, clear_user_texts, tables
from pgdiff.core.serialization import load_folder, save_folder

NETWORK = '''
from dataclasses import dataclass

from pgdiff.core.registry import register
from pgdiff.denoisers import ResidualMLPConfig

@register("denoiser", "my_mlp")
@dataclass(frozen=True, kw_only=True)
class MyConfig:
    """An MLP for each token.

    Attributes:
        width: size of a token inside the network.
    """

    width: int = 16

    def build(self, spec):
        return ResidualMLPConfig(width=self.width, depth=1, embedding=8).build(spec)

class Unregistered:
    pass
'''
EVIL = "from pathlib import Path\nPath('imported').touch()\n"


@pytest.fixture(autouse=True)
def clean(own_registry: None, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Modules and configurations of a test are gone after it."""
    monkeypatch.setattr(sys, "path", list(sys.path))
    before = set(sys.modules)
    yield
    clear_user_texts()
    for name in set(sys.modules) - before:
        if name.startswith("my_") or name == "evil":
            del sys.modules[name]


@pytest.fixture
def composed(pgdiff):
    """Return the settings of `pgdiff train` with the words, as `--cfg job` prints them."""

    def compose(*words: str) -> Any:
        result = pgdiff("train", *words, "--cfg", "job")
        assert result.code == 0, result.err
        return yaml.safe_load(result.out)

    return compose


def write(folder: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        file = folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)


def test_a_task_and_a_recipe_by_path(composed, pgdiff, tmp_path: Path) -> None:
    write(
        tmp_path,
        {
            "my_task.yaml": "id: Pendulum-v1\nhorizon: 8\n",
            "sub/mine.yaml": "# Fewer steps.\ndefaults: [strided, _self_]\n"
            "planner: {candidates: 3}\n"
            "stages:\n  model:\n    trainer: {steps: 5, learning_rate: 3e-4}\n",
        },
    )
    found = composed("task=./my_task.yaml", "recipe=sub/mine.yaml")
    own = {"name": "my_task", "id": "Pendulum-v1", "horizon": 8}
    assert found["task"] == {**own, "stride": 1, "discount": 0.99, "steps": 100000}
    recipe = found["recipe"]
    assert (recipe["name"], recipe["planner"]["candidates"]) == ("mine", 3)
    assert recipe["stages"]["model"]["arguments"]["tokens"]["horizon"] == 8
    assert recipe["stages"]["model"]["trainer"]["steps"] == 5
    assert recipe["stages"]["model"]["trainer"]["learning_rate"] == 3e-4
    # A value of the user's recipe goes before a tuned one of the recipe that it extends.
    found = composed("task=maze2d-large-v1", "recipe=sub/mine.yaml", "task.horizon=7")["recipe"]
    assert found["stages"]["model"]["trainer"]["steps"] == 5
    assert found["stages"]["value"]["trainer"]["steps"] == 10000
    shown = pgdiff("train", "task=./my_task.yaml", "recipe=sub/mine.yaml", "--help").out
    assert "task=my_task extends task=custom" in shown and "  task.horizon: 8" in shown
    assert "recipe=mine extends recipe=strided" in shown and "# Fewer steps." in shown
    # A sweep takes paths too; each job fails because its recording does not exist.
    write(tmp_path, {"other.yaml": "id: Pendulum-v1\n"})
    swept = pgdiff("train", "-m", "task=./my_task.yaml,./other.yaml")
    assert swept.code == 1 and "--- train task=other" in swept.out
    assert "data/my_task.hdf5" in swept.err and "data/other.hdf5" in swept.err


def test_a_folder_of_configurations(composed, pgdiff, tmp_path: Path) -> None:
    write(
        tmp_path,
        {
            "conf/task/my_task.yaml": "id: Pendulum-v1\n",
            "conf/recipe/mine.yaml": "defaults:\n  - strided\n  - _self_\n",
            "conf/tuned/mine.yaml": "my_task: {planner: {candidates: 5}}\n",
            "conf/tuned/strided.yaml": "my_task: {stages: {model: {trainer: {steps: 7}}}}\n"
            "maze2d-large-v1: {planner: {candidates: 2}}\n",
        },
    )
    words = ["--config-dir=conf", "recipe=mine", "task=my_task"]
    found = composed(*words)["recipe"]
    assert found["planner"]["candidates"] == 5
    assert found["stages"]["model"]["trainer"]["steps"] == 7
    # A row of the user replaces the row of the package.
    found = composed("--config-dir", "conf", "task=maze2d-large-v1")["recipe"]
    assert found["planner"]["candidates"] == 2
    assert found["planner"]["selection"]["scale_ladder"] is None
    shown = pgdiff("train", *words, "--help").out
    assert "(with the values of tuned/mine.yaml, tuned/strided.yaml for task=my_task)" in shown
    assert "    candidates: 5" in shown and "{steps: 7, batch_size: 64" in shown
    assert "my_task" not in choices("task") or pgdiff("train", "--help").code == 0
    assert "my_task" not in choices("task")  # of the last command alone


def test_classes_by_module_path(composed, pgdiff, tmp_path: Path) -> None:
    write(tmp_path, {"my_net.py": NETWORK})
    found = composed("denoiser=my_net:MyConfig", "denoiser.width=8")
    assert found["denoiser"] == {"name": "my_mlp", "width": 8}
    assert found["recipe"]["stages"]["model"]["arguments"]["denoiser"] == found["denoiser"]
    assert found["plugins"] == ["my_net"]
    assert composed("denoiser.name=my_net:MyConfig")["denoiser"] == {"name": "my_mlp", "width": 16}
    found = composed("plugins=[my_net]", "denoiser=my_mlp", "recipe=forcing")
    assert found["denoiser"]["name"] == "my_mlp"
    shown = pgdiff("train", "denoiser=my_net:MyConfig", "--help").out
    assert "denoiser=my_mlp, one of: causal, " in shown and " my_mlp, residual_mlp" in shown
    assert "denoiser.width: 16  # size of a token inside the network" in shown
    # Also inside of other values.
    stage = "recipe.stages.segment_value.arguments.denoiser={name: my_net:MyConfig, width: 4}"
    found = composed("recipe=segment_value", stage)["recipe"]["stages"]["segment_value"]
    assert found["arguments"]["denoiser"]["name"] == "my_mlp"


REFUSED = {
    "task=./nothing.yaml": "'nothing.yaml' does not exist",
    "task=./hopper.yaml": "must not be a file with the name of a part of pgdiff",
    "recipe=./broken.yaml": "must be a YAML file",
    "recipe=./list.yaml": "must map names to values. Got list",
    "recipe=./a b.yaml": "letters, digits, - and _",
    "task=./horizn.yaml": "Did you mean 'horizon'?",
    "--config-dir=nowhere": "must be a folder",
    "--config-dir=empty": "must hold YAML files in folders",
    "--config-dir=wrong": "Did you mean 'strided'",
    "--config-dir=row": "Did you mean 'maze2d-umaze-v1'",
    "--cfg=hydra": "must be 'job'",
    "plugins=[my_nothing]": "Python finds. Got 'my_nothing'",
    "plugins=my_broken": "raises an error when it is imported (ZeroDivisionError",
    "plugins=[a/b]": "must be names of modules",
    "denoiser=my_net:Unregistered": "without a registered name",
    "denoiser=my_net:Nothing": "a missing name",
    # A file never imports a module.
    "recipe=./paths.yaml": "must hold registered names. Got 'evil:Config'",
    "task=./elsewhere.yaml": "Set plugins=evil",
}


def test_wrong_parts_are_refused(pgdiff, tmp_path: Path) -> None:
    write(
        tmp_path,
        {
            "hopper.yaml": "id: Hopper-v5\n",
            "broken.yaml": "a: [1\n",
            "list.yaml": "[1]\n",
            "a b.yaml": "a: 1\n",
            "horizn.yaml": "horizn: 3\n",
            "wrong/tuned/stridd.yaml": "maze2d-umaze-v1: {}\n",
            "row/tuned/strided.yaml": "maze2d-umze-v1: {}\n",
            "my_broken.py": "1 / 0\n",
            "my_net.py": NETWORK,
            "evil.py": EVIL,
            "paths.yaml": "defaults: [strided, _self_]\n"
            "stages: {model: {arguments: {denoiser: {name: 'evil:Config'}}}}\n",
            "elsewhere.yaml": "id: evil:Env-v0\n",
        },
    )
    (tmp_path / "empty").mkdir()
    for word, message in REFUSED.items():
        result = pgdiff("train", word)
        assert result.code == 1, word
        assert message in result.error, result.error
    assert not (tmp_path / "imported").exists()


def test_nothing_is_imported_because_a_file_names_it(
    pgdiff, own_run: Path, tmp_path: Path, quick
) -> None:
    """A downloaded run with the names of modules wherever one could stand."""
    write(tmp_path, {"evil.py": EVIL})
    sys.path.append(str(tmp_path))
    file = own_run / "run.json"
    content = json.loads(file.read_text())
    part = {"name": "evil:Config", "import": "evil"}
    changes: list[dict[str, Any]] = [
        {"task": content["task"] | {"id": "evil:Env-v0"}},
        {"planner": content["planner"] | {"sampling": {"solver": part}}},
        {"guides": {"evil": {"kind": "evil:Guide"}}, "guide": "evil"},
        {"stages": [{**content["stages"][0], "learner": "evil:Learner"}]},
        {"stages": [*content["stages"][1:], {**content["stages"][0], "arguments": part}]},
    ]
    for change in changes:
        file.write_text(json.dumps(content | change))
        pgdiff("plan", f"run={own_run}", "out=p", "overwrite=true", *quick)
        pgdiff("train", "recipe=value", f"base={own_run}", "resume=true", "trainer.steps=1")
        pgdiff("info", own_run)
    file.write_text(json.dumps(content | changes[0]))
    refused = pgdiff("train", "recipe=cloning", f"base={own_run}", "trainer.steps=1")
    assert refused.code == 1 and "Set task.id=ID or plugins=evil" in refused.error
    file.write_text(json.dumps(content))
    config, tensors = load_folder(own_run / "model")
    config["learner"]["denoiser"] |= {"name": "my_mlp", "import": "evil"}
    save_folder(own_run / "model", config, tensors)
    refused = pgdiff("plan", f"run={own_run}", "out=q")
    assert refused.code == 1 and "plugins=evil on the command line" in refused.error
    assert "evil" not in sys.modules and not (tmp_path / "imported").exists()


def test_tables_name_settings_of_their_recipes(composed) -> None:
    """A misspelt key of a row would be a new setting without effect."""
    for name, rows in tables().items():
        plain = composed("task=custom", "task.name=x", f"recipe={name}")["recipe"]
        for row in rows.values():
            check(row, plain)
        assert set(rows) <= set(choices("task")) - {"custom"}


def check(row: Any, recipe: Any) -> None:
    for key, value in row.items():
        assert key in recipe, key
        if isinstance(value, dict) and "name" not in value:
            check(value, recipe[key])
