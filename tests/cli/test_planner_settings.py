"""A planner's settings on the command line, in a recipe and in the library: the same planner."""

import json
from pathlib import Path
from typing import Any

import gymnasium as gym
import pytest

from pgdiff.cli.hydra_config import settings
from pgdiff.cli.planners import controller_name, make_planner
from pgdiff.core.settings import merge, plain
from pgdiff.core.validation import PgdiffError
from pgdiff.dynamics import InverseDynamics
from pgdiff.planning import Planner
from pgdiff.runs.load import SETTINGS, load_planner
from pgdiff.runs.run import read_run

ENV = "pgdiff_envs:maze2d-umaze-v1"


def made(run: Path, *words: str) -> Planner:
    """The planner of `evaluate` with these words."""
    chosen = settings("evaluate", [f"run={run}", *words])
    return make_planner(chosen, read_run(run), gym.make(ENV))


def said(run: Path, **planner: Any) -> Path:
    """The run, with these settings of its planner in run.json."""
    file = run / "run.json"
    content = json.loads(file.read_text())
    content["planner"] = merge(content["planner"], planner)
    file.write_text(json.dumps(content))
    return run


CHOICES: list[tuple[str, Any, Any]] = [
    # The setting, a value, and that of the recipe.
    ("selection.keep_previous", True, False),
    ("selection.plausibility", {"name": "denoiser", "limit": 2.0, "features": [0, 1]}, None),
    ("replanning.every", None, 10),
    ("replanning.warm_start", {"name": "plan", "level": 0.25, "share": 0.5}, None),
    ("goals.hold", False, True),
    ("sampling.clip", None, "auto"),
    ("sampling.solver", {"name": "ddim", "eta": 0.5}, {"name": "dpm_solver", "order": 2}),
    ("filter.noise_level", 0.1, 0.0),
    ("candidates", 2, 8),
]


def read(planner: Planner, key: str) -> Any:
    """The plain value of a setting of a planner, such as "sampling.steps"."""
    found = {key: plain(getattr(planner, key)) for key in (*SETTINGS, "candidates")}
    for part in key.split("."):
        found = found[part]
    if key == "selection.plausibility" and found:  # without its defaults
        found = {name: found[name] for name in ("name", "limit", "features")}
    return found


def nested(key: str, value: Any) -> dict[str, Any]:
    """Settings as a run has them."""
    group, _, name = key.rpartition(".")
    return {group: {name: value}} if group else {name: value}


def word(key: str, value: Any) -> str:
    """A setting on the command line; YAML is JSON."""
    return f"planner.{key}={json.dumps(value)}".replace('"', "")


def test_a_setting_comes_from_everywhere(own_run: Path) -> None:
    """From the command line, from the library and from the run, whose setting it undoes."""
    content = json.loads((own_run / "run.json").read_text())
    plainly = made(own_run)
    for key, value, default in CHOICES:
        (own_run / "run.json").write_text(json.dumps(content))
        assert read(plainly, key) == default != value
        assert read(load_planner(own_run, **nested(key, value)), key) == value
        assert read(made(own_run, word(key, value)), key) == value
        said(own_run, **nested(key, value))
        assert read(load_planner(own_run), key) == value
        assert read(made(own_run, word(key, default)), key) == default


def test_a_mapping_keeps_the_rest_of_the_runs_settings(own_run: Path) -> None:
    planner = made(own_run, "planner.sampling.steps=2")
    assert read(planner, "sampling.spacing")["high"] == 6.0
    assert read(planner, "sampling.solver") == {"name": "dpm_solver", "order": 2}


def test_controllers(own_run: Path) -> None:
    for planner in (made(own_run), load_planner(own_run)):
        assert isinstance(planner.controller, InverseDynamics)
    for word in ("inverse_dynamics", "tracker"):
        found = type(made(own_run, f"planner.controller={word}").controller).__name__
        assert found.lower() == word.replace("_", "")
    other = {"run": str(own_run), "stage": "inverse_dynamics"}
    for controller in ("inverse_dynamics", {"stage": "inverse_dynamics"}, other):
        found = load_planner(own_run, controller=controller).controller
        assert isinstance(found, InverseDynamics) and not found.training
        assert not any(weight.requires_grad for weight in found.parameters())
    with pytest.raises(PgdiffError, match=r"must have a method act.* is a TransitionValue"):
        load_planner(own_run, controller="value")
    # What the run's recipe says of it, if the model can serve it.
    said(own_run, controller="actions")
    chosen = settings("evaluate", [f"run={own_run}"])
    assert controller_name(chosen, read_run(own_run)) == "actions"
    with pytest.raises(PgdiffError, match="`controller` can be 'actions' for a model whose tokens"):
        made(own_run)
    assert isinstance(
        made(own_run, "planner.controller=inverse_dynamics").controller, InverseDynamics
    )


def test_a_run_without_inverse_dynamics(pgdiff, data: Path, tmp_path: Path, tiny) -> None:
    words = [f"data={data}", "out=run", "~recipe.stages.inverse_dynamics", *tiny]
    assert pgdiff("train", *words).code == 0
    assert load_planner(tmp_path / "run").controller is None
    result = pgdiff("evaluate", "run=run", "planner.controller=inverse_dynamics")
    assert result.code == 1
    assert "`planner.controller` must be one of {actions, model, " in result.error
    assert "Got 'inverse_dynamics'" in result.error


def test_bad_settings_write_nothing(pgdiff, run_folder: Path, tmp_path: Path) -> None:
    for setting, message in (
        ("selection.keep_previous=maybe", "`keep_previous` must be true or false. Got 'maybe'"),
        ("replanning.warm_start={level: 2}", "`level` must be a number in (0.0, 1.0)"),
        ("sampling.clip=0", "`clip` must be a number in (0.0"),
        ("goals.tokens=[3]", "tokens` must be None for a model that was trained with"),
        ("controller=actions", "Got a model of observations at stride 10"),
        ("replanning.lookahead=2", "`lookahead` must be at most 1 way-points of stride 10"),
        ("selection.keep_previos=true", "Did you mean 'planner.selection.keep_previous'"),
        ("keep_previous=true", "Did you mean 'planner.selection.keep_previous'"),
    ):
        result = pgdiff("evaluate", f"run={run_folder}", f"planner.{setting}")
        assert result.code == 1
        assert message in result.error
    assert list(tmp_path.iterdir()) == []


def test_a_recipe_is_checked_before_it_is_trained(pgdiff, data: Path, tmp_path: Path, tiny) -> None:
    for setting, message in (
        ("replanning.warm_start={level: 2}", "`level` must be a number"),
        (
            "controller=tracker",
            "`controller` must be 'actions', another registered controller, or a stage of the ",
        ),
        ("selection.keep_previous=1", "`keep_previous` must be true or false"),
        ("goals.tokens=[0]", "`tokens` must be"),
    ):
        result = pgdiff("train", f"data={data}", "out=run", f"+recipe.planner.{setting}", *tiny)
        assert result.code == 1
        assert message in result.error
    assert list(tmp_path.iterdir()) == []
