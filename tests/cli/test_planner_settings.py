"""A planner's settings on the command line, in a recipe and in the library: the same planner."""

import json
from pathlib import Path
from typing import Any

import gymnasium as gym
import pytest

from pgdiff.cli.compose import settings
from pgdiff.cli.planners import controller_name, make_planner
from pgdiff.dynamics import InverseDynamics
from pgdiff.planning import Planner
from pgdiff.planning.from_run import read_run
from pgdiff.validation import PgdiffError

ENV = "pgdiff_envs:maze2d-umaze-v1"


def made(run: Path, *words: str) -> Planner:
    """The planner of `evaluate` with these words."""
    chosen = settings("evaluate", [f"run={run}", *words])
    return make_planner(chosen, read_run(run), gym.make(ENV))


def said(run: Path, **planner: Any) -> Path:
    """The run, with these settings of its planner in run.json."""
    file = run / "run.json"
    content = json.loads(file.read_text())
    content["planner"] |= planner
    file.write_text(json.dumps(content))
    return run


CHOICES = [
    ("planner.keep_plan=true", "keep_plan", True, True),
    ("planner.warm_start=0.25", "warm_start", 0.25, 0.25),
    ("planner.warm_share=0.5", "warm_share", 0.5, 0.5),
    ("planner.hold_goal=false", "hold_goal", False, False),
    ("planner.clip=2.5", "clip", 2.5, 2.5),
    ("planner.clip=none", "clip", "none", None),
    ("planner.replan_every=open", "replan_every", "open", None),
    ("planner.candidates=2", "candidates", 2, 2),
]


@pytest.mark.parametrize(("word", "key", "plain", "value"), CHOICES)
def test_a_setting_comes_from_everywhere(
    own_run: Path, word: str, key: str, plain: Any, value: Any
) -> None:
    plainly = made(own_run)
    assert getattr(plainly, key) != value
    assert getattr(made(own_run, word), key) == value
    assert getattr(Planner.from_run(own_run, **{key: value}), key) == value
    assert getattr(Planner.from_run(said(own_run, **{key: plain})), key) == value
    # And the run's own is undone.
    back = {"replan_every": 10, "clip": "auto", "warm_start": None, "warm_share": 1.0}
    back |= {"keep_plan": False, "hold_goal": True, "candidates": 8}
    off = "none" if back[key] is None else back[key]
    assert getattr(made(own_run, f"planner.{key}={str(off).lower()}"), key) == back[key]
    assert getattr(Planner.from_run(own_run, **{key: back[key]}), key) == back[key]


def test_controllers(own_run: Path) -> None:
    for planner in (made(own_run), Planner.from_run(own_run)):
        assert isinstance(planner.controller, InverseDynamics)
    for word in ("inverse_dynamics", "tracker"):
        found = type(made(own_run, f"planner.controller={word}").controller).__name__
        assert found.lower() == word.replace("_", "")
    assert isinstance(
        Planner.from_run(own_run, controller="inverse_dynamics").controller, InverseDynamics
    )
    # What the run's recipe says of it, if the model can serve it.
    said(own_run, controller="actions")
    chosen = settings("evaluate", [f"run={own_run}"])
    assert controller_name(chosen, read_run(own_run)) == "actions"
    with pytest.raises(PgdiffError, match="`controller` may be 'actions' for a model whose tokens"):
        made(own_run)
    assert isinstance(
        made(own_run, "planner.controller=inverse_dynamics").controller, InverseDynamics
    )


def test_a_run_without_inverse_dynamics(pgdiff, data: Path, tmp_path: Path, tiny) -> None:
    words = [f"data={data}", "out=run", "~recipe.stages.inverse_dynamics", *tiny]
    assert pgdiff("train", *words).code == 0
    assert Planner.from_run(tmp_path / "run").controller is None
    result = pgdiff("evaluate", "run=run", "planner.controller=inverse_dynamics")
    assert result.code == 1
    assert "has no stage 'inverse_dynamics'. Got 'inverse_dynamics'" in result.error


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["planner.keep_plan=maybe"], "`keep_plan` must be true or false. Got 'maybe'"),
        (["planner.warm_start=2"], "`warm_start` must be a number in (0.0, 1.0)"),
        (["planner.warm_share=-1"], "`warm_share` must be a number in [0.0, 1.0]"),
        (["planner.clip=0"], "`clip` must be a number in (0.0"),
        (["planner.arrivals=[3]"], "`arrivals` must be None for a model that was trained with"),
        (["planner.arrivals=3"], "`arrivals` must be tokens"),
        (["planner.controller=actions"], "Got a model of observations at stride 10"),
        (["planner.lookahead=2"], "`lookahead` must be at most 1 way-points of stride 10"),
        (["planner.keep_plann=true"], "Did you mean 'planner.keep_plan'"),
    ],
)
def test_bad_settings_write_nothing(
    pgdiff, run_folder: Path, tmp_path: Path, words: list[str], message: str
) -> None:
    result = pgdiff("evaluate", f"run={run_folder}", *words)
    assert result.code == 1
    assert message in result.error
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("+recipe.planner.warm_start=2", "`warm_start` must be a number"),
        ("+recipe.planner.controller=tracker", "`controller` must be one of"),
        ("+recipe.planner.keep_plan=1", "`keep_plan` must be true or false"),
        ("+recipe.planner.arrivals=[0]", "`arrivals` must be an integer"),
    ],
)
def test_a_recipe_is_checked_before_it_is_trained(
    pgdiff, data: Path, tmp_path: Path, tiny, word: str, message: str
) -> None:
    result = pgdiff("train", f"data={data}", "out=run", word, *tiny)
    assert result.code == 1
    assert message in result.error
    assert list(tmp_path.iterdir()) == []
