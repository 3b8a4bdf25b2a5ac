"""A run's settings of its planner as plain values: defaults, merging, parts, refusals."""

import json
from pathlib import Path
from typing import Any

import pytest
from toys import tiny_model, walk

from pgdiff import Planner, Sampling
from pgdiff.core.settings import build, merge
from pgdiff.core.validation import PgdiffError
from pgdiff.diffusion import DDIM, DDPM, DPMSolver, LogSnrSpacing, MonteCarlo, UniformSpacing
from pgdiff.diffusion.guidance.classifier_free import ClassifierFree
from pgdiff.diffusion.level_schedules import Pyramid
from pgdiff.planning import (
    PLANNING,
    Goals,
    ObservationFilter,
    Plausibility,
    Replanning,
    Selection,
    WarmStart,
)
from pgdiff.runs import load_planner
from pgdiff.runs.folders import write_run
from pgdiff.runs.load import (
    SETTINGS,
    check_planner,
    planner_arguments,
    planner_defaults,
    planner_keys,
)
from pgdiff.runs.run import RunInfo, StageRecord

GROUPS = {
    "sampling": PLANNING,
    "replanning": Replanning(),
    "selection": Selection(),
    "goals": Goals(),
    "filter": ObservationFilter(),
}


def made(settings: dict[str, Any]) -> dict[str, Any]:
    """Arguments of `Planner` from a run's settings."""
    return planner_arguments(planner_defaults(settings))


def test_defaults_are_those_of_the_planner() -> None:
    """Also once they were written to a file."""
    planner = Planner(tiny_model(walk()), device="cpu")
    defaults = planner_defaults({})
    assert set(SETTINGS) == set(GROUPS)
    assert set(defaults) <= set(planner_keys())
    for settings in (defaults, json.loads(json.dumps(defaults))):
        arguments = planner_arguments(settings)
        for name, default in GROUPS.items():
            assert arguments[name] == default == getattr(planner, name)
        assert arguments["candidates"] == planner.candidates
    assert planner_defaults(defaults) == defaults


def test_plain_values_stand_for_settings() -> None:
    cases: list[tuple[str, str, Any, Any]] = [
        ("replanning", "every", None, None),
        ("replanning", "every", 7, 7),
        ("replanning", "lookahead", 4, 4),
        ("replanning", "warm_start", None, None),
        ("replanning", "warm_start", "plan", WarmStart()),
        ("replanning", "warm_start", {"level": 0.3}, WarmStart(level=0.3)),
        ("sampling", "clip", None, None),
        ("sampling", "clip", "auto", "auto"),
        ("sampling", "clip", 1.5, 1.5),
        ("sampling", "solver", "ddpm", DDPM()),
        ("sampling", "solver", {"name": "ddim", "eta": 0.5}, DDIM(eta=0.5)),
        ("sampling", "solver", {"order": 1}, DPMSolver(order=1)),
        ("sampling", "spacing", "uniform", UniformSpacing()),
        ("sampling", "spacing", {"name": "log_snr", "high": 5.0}, LogSnrSpacing(high=5.0)),
        ("sampling", "level_schedule", {"name": "pyramid", "slope": 0.5}, Pyramid(slope=0.5)),
        ("sampling", "monte_carlo", None, None),
        ("sampling", "monte_carlo", {"name": "futures", "futures": 8}, MonteCarlo(futures=8)),
        ("sampling", "stabilization", 0.01, 0.01),
        ("sampling", "classifier_free", {"weight": 2.0}, ClassifierFree(weight=2.0)),
        ("selection", "keep_previous", True, True),
        ("selection", "scale_ladder", None, None),
        ("selection", "scale_ladder", [0.5, 1], (0.5, 1.0)),
        ("selection", "plausibility", "denoiser", Plausibility()),
        ("selection", "plausibility", {"limit": 2.0}, Plausibility(limit=2.0)),
        ("goals", "hold", False, False),
        ("goals", "tokens", None, None),
        ("goals", "tokens", [3, 5], (3, 5)),
        ("filter", "noise_level", 0.1, 0.1),
        ("filter", "missing_level", 0.2, 0.2),
    ]
    for group, key, value, expected in cases:
        arguments = made({group: {key: value}})
        assert getattr(arguments[group], key) == expected, (group, key, value)
        others = {name: part for name, part in GROUPS.items() if name != group}
        assert {name: arguments[name] for name in others} == others
    assert made({"candidates": 3, "condition": {"return": 3.0}})["condition"] == {"return": 3.0}


def test_the_controller_is_not_an_argument_made_of_settings() -> None:
    assert "controller" not in made({"controller": "actions"})


def test_changes_merge_into_settings() -> None:
    """A mapping keeps the other settings; a part of another name, and None, replace."""
    base = {"steps": 5, "solver": {"name": "ddim", "eta": 0.5}, "clip": 1.0}
    for change, expected in (
        ({"steps": 20}, base | {"steps": 20}),
        ({"solver": {"eta": 0.1}}, base | {"solver": {"name": "ddim", "eta": 0.1}}),
        ({"solver": {"name": "ddpm"}}, base | {"solver": {"name": "ddpm"}}),
        ({"solver": "ddpm"}, base | {"solver": "ddpm"}),
        ({"clip": None}, base | {"clip": None}),
        (None, None),
    ):
        assert merge(base, change) == expected
    assert base == {"steps": 5, "solver": {"name": "ddim", "eta": 0.5}, "clip": 1.0}
    with pytest.raises(PgdiffError, match=r"`sampling` has no 'step'.* Did you mean 'steps'"):
        build(Sampling, {"step": 3}, name="sampling")


def test_bad_values_are_named() -> None:
    cases: list[tuple[dict[str, Any], str]] = [
        ({"candidats": 3}, "`planner` has no 'candidats'.* Did you mean 'candidates'"),
        ({"candidates": 0}, "`candidates` must be an integer of at least 1"),
        ({"candidates": "open"}, "`candidates` must be an integer"),
        ({"controller": "evil:Evil"}, "`controller` must be 'actions', .* never imports"),
        ({"controller": {"stge": "x"}}, "`controller` has no 'stge'.* Did you mean 'stage'"),
        ({"controller": {"run": "x"}}, "`controller` must be {stage: NAME}, "),
        ({"sampling": 3}, "`.*sampling` must be settings by name"),
        ({"goals": None}, "`.*goals` must be settings by name"),
        ({"sampling": {"step": 3}}, "sampling` has no 'step'.* Did you mean 'steps'"),
        ({"replanning": {"lookahead": 0}}, "`lookahead` must be an integer of at least 1"),
        ({"replanning": {"lookahead": 2.5}}, "`lookahead` must be an integer"),
        ({"replanning": {"every": "none"}}, "`every` must be an integer"),
        ({"replanning": {"warm_start": {"level": 1}}}, "`level` must be a number in"),
        ({"replanning": {"warm_start": "open"}}, "warm_start` must be one of"),
        ({"replanning": {"warm_start": 0.5}}, "`warm_start` must be a WarmStart"),
        ({"replanning": {"warm_start": {"share": -0.1}}}, "`share` must be a number in"),
        ({"selection": {"keep_previous": "maybe"}}, "`keep_previous` must be true or false"),
        ({"selection": {"scale_ladder": 0.5}}, "`scale_ladder` must be numbers"),
        ({"selection": {"scale_ladder": [1, -1]}}, "`scale_ladder` must be a number in"),
        ({"selection": {"plausibility": {"limit": -1}}}, "`limit` must be"),
        ({"goals": {"hold": 1}}, "`hold` must be true or false. Got 1"),
        ({"goals": {"tokens": 3}}, "`tokens` must be indices"),
        ({"goals": {"tokens": []}}, "`tokens` must be indices"),
        ({"goals": {"tokens": "last"}}, "`tokens` must be indices"),
        ({"goals": {"tokens": [2, 0]}}, "`tokens` must be an integer of at least 1"),
        ({"sampling": {"clip": 0}}, "`clip` must be a number in"),
        ({"sampling": {"clip": "run"}}, "`clip` must be a number in"),
        ({"sampling": {"solver": "dpm"}}, "solver` must be one of"),
        ({"sampling": {"monte_carlo": "many"}}, "monte_carlo` must be one of"),
        ({"sampling": {"monte_carlo": {"futures": 0}}}, "`futures` must be"),
        ({"sampling": {"stabilization": 1.0}}, "`stabilization` must be a number in"),
        ({"sampling": {"classifier_free": "much"}}, "classifier_free` must be one of"),
        ({"filter": {"noise_level": -0.1}}, "`noise_level` must be a number in"),
        ({"filter": {"history_tokens": -1}}, "`history_tokens` must be an integer of at least 0"),
    ]
    for settings, message in cases:
        for read in (check_planner, planner_defaults):
            with pytest.raises(PgdiffError, match=message):
                read(settings)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of a model without guides; its planner has settings that are no defaults."""
    folder = tmp_path_factory.mktemp("run")
    tiny_model(walk()).save_pretrained(folder / "model")
    stage = StageRecord(
        name="model",
        learner="trajectory_diffusion",
        arguments={},
        trainer={},
        seed=0,
        finished=True,
    )
    planner = {"candidates": 2, "sampling": {"steps": 3, "solver": {"name": "ddim", "eta": 0.5}}}
    planner["replanning"] = {"every": 4, "warm_start": {"level": 0.3}}
    write_run(
        RunInfo(
            path=folder,
            task={},
            recipe="",
            seed=0,
            data={},
            stages=(stage,),
            planner=planner,
            guides={},
            guide=None,
            version="0",
        )
    )
    return folder


def test_a_loaded_planner_has_the_runs_settings_and_changes_to_them(run: Path) -> None:
    plain = load_planner(run, device="cpu")
    expected = PLANNING.replace(steps=3, solver=DDIM(eta=0.5))
    assert (plain.candidates, plain.sampling) == (2, expected)
    assert plain.replanning == Replanning(every=4, warm_start=WarmStart(level=0.3))
    changed = load_planner(
        run,
        sampling={"steps": 20},
        replanning={"every": None, "warm_start": None},
        selection=Selection(keep_previous=True),
        seed=3,
        device="cpu",
    )
    assert changed.sampling == expected.replace(steps=20)
    assert changed.replanning == Replanning(every=None)
    assert changed.selection.keep_previous and (changed.candidates, changed.seed) == (2, 3)
    other = load_planner(run, sampling={"solver": {"name": "ddpm"}}, device="cpu")
    assert other.sampling == expected.replace(solver=DDPM())
    for options, message in (
        ({"candidats": 2}, "`load_planner` has no 'candidats'.* Did you mean 'candidates'"),
        ({"sampling": {"step": 2}}, "sampling` has no 'step'.* Did you mean 'steps'"),
        (
            {"controller": "inverse_dynamics"},
            "`controller` must .* Got 'inverse_dynamics'",
        ),
    ):
        settings: Any = options
        with pytest.raises(PgdiffError, match=message):
            load_planner(run, **settings)
