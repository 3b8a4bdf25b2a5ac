"""A planner's settings as plain values: what they stand for, and what is refused."""

import inspect
from typing import Any, Literal, get_args, get_origin

import pytest

from pgdiff import Planner
from pgdiff.diffusion import DDIM, DDPM, LogSnrSpacing, MonteCarlo, UniformSpacing
from pgdiff.diffusion.classifier_free import ClassifierFree
from pgdiff.diffusion.level_schedules import Pyramid
from pgdiff.planning import Plausibility
from pgdiff.planning.settings import (
    OFF,
    PLANNER_SETTINGS,
    PlannerSettings,
    check_planner,
    planner_values,
)
from pgdiff.validation import PgdiffError


def test_every_setting_is_an_argument_of_the_planner() -> None:
    own = set(inspect.signature(Planner).parameters)
    of_the_run = {"model", "guides", "seed", "device", "noise_device", "threads"}
    assert own - of_the_run == set(PLANNER_SETTINGS)
    said = set(inspect.signature(Planner.from_run).parameters) | set(
        PlannerSettings.__annotations__
    )
    assert set(PLANNER_SETTINGS) <= said


@pytest.mark.parametrize(
    ("key", "value", "argument"),
    [
        ("replan_every", "open", None),
        ("replan_every", 7, 7),
        ("clip", "none", None),
        ("clip", None, None),
        ("clip", "auto", "auto"),
        ("clip", 1.5, 1.5),
        ("warm_start", "none", None),
        ("warm_start", 0.3, 0.3),
        ("arrivals", "none", None),
        ("arrivals", [3, 5], [3, 5]),
        ("keep_plan", True, True),
        ("lookahead", 4, 4),
        ("solver", "ddpm", DDPM()),
        ("solver", {"name": "ddim", "eta": 0.5}, DDIM(eta=0.5)),
        ("spacing", "uniform", UniformSpacing()),
        ("spacing", {"name": "log_snr", "high": 6.0}, LogSnrSpacing(high=6.0)),
        ("schedule", {"name": "pyramid", "slope": 0.5}, Pyramid(slope=0.5)),
        ("monte_carlo", "none", None),
        ("monte_carlo", {"name": "futures", "futures": 8}, MonteCarlo(futures=8)),
        ("stabilization", 0.01, 0.01),
        ("observation_level", 0.1, 0.1),
        ("context", 2, 2),
        ("classifier_free", 2, ClassifierFree(weight=2.0)),
        ("condition", {"return": 3.0}, {"return": 3.0}),
        ("scale_factors", "none", None),
        ("scale_factors", [0.5, 1], [0.5, 1]),
        ("plausibility", "none", None),
        ("plausibility", "denoiser", Plausibility()),
        ("plausibility", {"name": "denoiser", "limit": 2.0}, Plausibility(limit=2.0)),
    ],
)
def test_plain_values_stand_for(key: str, value: Any, argument: Any) -> None:
    assert planner_values({key: value}) == {key: argument}


def test_the_controller_is_somebody_elses() -> None:
    assert planner_values({"controller": "actions", "steps": 3}) == {"steps": 3}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"candidats": 3}, "`planner` has no 'candidats'.* Did you mean 'candidates'"),
        ({"candidates": 0}, "`candidates` must be an integer of at least 1"),
        ({"candidates": "open"}, "`candidates` must be an integer"),
        ({"lookahead": 0}, "`lookahead` must be an integer of at least 1"),
        ({"lookahead": 2.5}, "`lookahead` must be an integer"),
        ({"replan_every": "none"}, "`replan_every` must be an integer"),
        ({"keep_plan": "maybe"}, "`keep_plan` must be true or false. Got 'maybe'"),
        ({"hold_goal": 1}, "`hold_goal` must be true or false. Got 1"),
        ({"warm_start": 1}, "`warm_start` must be a number in"),
        ({"warm_start": "open"}, "`warm_start` must be a number in"),
        ({"warm_share": -0.1}, "`warm_share` must be a number in"),
        ({"clip": 0}, "`clip` must be a number in"),
        ({"clip": "run"}, "`clip` must be a number in"),
        ({"arrivals": 3}, "`arrivals` must be tokens"),
        ({"arrivals": []}, "`arrivals` must be tokens"),
        ({"arrivals": "last"}, "`arrivals` must be tokens"),
        ({"arrivals": [2, 0]}, "`arrivals` must be an integer of at least 1"),
        ({"controller": "trackr"}, "`controller` must be one of .* Got 'trackr'"),
        ({"solver": "dpm"}, "`solver` must be one of"),
        ({"scale_factors": 0.5}, "`scale_factors` must be numbers"),
        ({"scale_factors": [1, -1]}, "`scale_factors` must be a number in"),
        ({"plausibility": {"name": "denoiser", "limit": -1}}, "`limit` must be"),
        ({"monte_carlo": "many"}, "`monte_carlo` must be one of"),
        ({"monte_carlo": {"name": "futures", "futures": 0}}, "`futures` must be"),
        ({"stabilization": 1.0}, "`stabilization` must be a number in"),
        ({"observation_level": -0.1}, "`observation_level` must be a number in"),
        ({"context": -1}, "`context` must be an integer of at least 0"),
        ({"classifier_free": "much"}, "`classifier_free` must be a weight"),
    ],
)
def test_bad_values_are_named(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(PgdiffError, match=message):
        check_planner(settings)
    with pytest.raises(PgdiffError, match=message):
        planner_values(settings)


def test_words_for_none_are_those_of_arguments_that_may_be_none() -> None:
    """Only these must be told apart from "as the run says"."""
    words = {
        key for key, said in PlannerSettings.__annotations__.items() if "run" in _literals(said)
    }
    assert words == set(OFF)


def _literals(annotation: Any) -> list[Any]:
    inner = get_args(annotation)
    if get_origin(annotation) is Literal:
        return list(inner)
    return [word for part in inner for word in _literals(part)]
