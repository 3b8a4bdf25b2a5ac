"""A planner's settings as configurations have them: plain values by name."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, Literal, TypedDict

from pgdiff.diffusion import MonteCarlo, Resample, Solver, TrustRegion
from pgdiff.diffusion.classifier_free import ClassifierFree
from pgdiff.diffusion.level_schedules import LevelSchedule
from pgdiff.diffusion.spacing import Spacing
from pgdiff.planning.inputs import check_scale_factors
from pgdiff.planning.plausibility import Plausibility
from pgdiff.registry import from_config
from pgdiff.validation import (
    PgdiffError,
    check_flag,
    check_in,
    check_level,
    check_positive_int,
    check_range,
    nearest,
)

CONTROLLERS = ("inverse_dynamics", "actions")
"""Controllers that a run folder holds: what it has learned, and the plan's own actions."""

PARTS = {
    "solver": "solver",
    "spacing": "spacing",
    "schedule": "level_schedule",
    "plausibility": "plausibility",
    "trust_region": "trust_region",
    "resample": "resample",
    "monte_carlo": "monte_carlo",
}
"""Settings of a planner that are parts by name, and of what kind."""

OPEN, NONE = "open", "none"
OFF = {
    "replan_every": OPEN,
    "clip": NONE,
    "warm_start": NONE,
    "arrivals": NONE,
    "scale_factors": NONE,
    "plausibility": NONE,
    "trust_region": NONE,
    "resample": NONE,
    "monte_carlo": NONE,
    "missing_level": NONE,
}
"""Settings that `Planner` may be given as None, and the word for it in configurations. There null
is what the run says."""


class PlannerSettings(TypedDict, total=False):
    """Arguments of `Planner` that a run has defaults of; "run" is for what the run says."""

    candidates: int | None
    steps: int | None
    horizon: int | None
    context: int | None
    condition: Mapping[str, float | Sequence[float]] | None
    classifier_free: ClassifierFree | None
    spacing: Spacing | None
    schedule: LevelSchedule | None
    replan_every: int | Literal["run"] | None
    lookahead: int | None
    solver: Solver | None
    clip: float | Literal["auto", "run"] | None
    keep_plan: bool | None
    warm_start: float | Literal["run"] | None
    warm_share: float | None
    hold_goal: bool | None
    arrivals: Sequence[int] | Literal["run"] | None
    scale_factors: Sequence[float] | Literal["run"] | None
    plausibility: Plausibility | Literal["run"] | None
    trust_region: TrustRegion | Literal["run"] | None
    resample: Resample | Literal["run"] | None
    monte_carlo: MonteCarlo | Literal["run"] | None
    stabilization: float | None
    observation_level: float | None
    missing_level: float | Literal["run"] | None


def planner_values(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments of `Planner` that plain values stand for; `controller` is left out.

    Raises:
        PgdiffError: an unknown setting, or one that is out of its range whatever the model is.
    """
    check_planner(settings)
    values = {key: None if _off(key, value) else value for key, value in settings.items()}
    values.pop("controller", None)
    return values | _built(settings)


def check_planner(settings: Mapping[str, Any]) -> None:
    """Raise an error if these settings of a planner hold one that is unknown or out of range."""
    for key, value in settings.items():
        if key not in PLANNER_SETTINGS:
            raise PgdiffError(
                f"`planner` has no '{key}'. It must be {nearest(key, PLANNER_SETTINGS)}"
            )
        if key in _CHECKS and not _off(key, value):
            _CHECKS[key](value)
    _built(settings)


def _off(key: str, value: Any) -> bool:
    # null too, in a recipe: there is no run yet that could say anything.
    return key in OFF and (value is None or (isinstance(value, str) and value == OFF[key]))


def _built(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Parts, each from its name or from {"name": ..., ...}."""
    built: dict[str, Any] = {}
    for key, kind in PARTS.items():
        value = settings.get(key)
        if value is not None and not _off(key, value):
            built[key] = from_config(kind, {"name": value} if isinstance(value, str) else value)
    value = settings.get("classifier_free")
    if isinstance(value, int | float):
        value = {"weight": float(value)}
    if value is not None:
        if not isinstance(value, Mapping):
            raise PgdiffError(
                "`classifier_free` must be a weight, or {weight: ..., rescale: ...}. "
                f"Got {value!r}."
            )
        built["classifier_free"] = from_config("classifier_free", {"name": "weighted", **value})
    return built


def _check_clip(value: Any) -> None:
    if value != "auto":
        check_range("clip", value, low=0.0, open_low=True)


def _check_arrivals(value: Any) -> None:
    if isinstance(value, str) or not isinstance(value, Sequence) or not value:
        raise PgdiffError(f"`arrivals` must be tokens, for example [4, 8]. Got {value!r}.")
    for token in value:
        check_positive_int("arrivals", token)


_CHECKS: dict[str, Callable[[Any], Any]] = {
    **{
        name: partial(check_positive_int, name)
        for name in ("candidates", "steps", "replan_every", "lookahead")
    },
    "horizon": partial(check_positive_int, "horizon", minimum=2),
    "context": partial(check_positive_int, "context", minimum=0),
    **{name: partial(check_flag, name) for name in ("keep_plan", "hold_goal")},
    "warm_start": partial(
        check_range, "warm_start", low=0.0, high=1.0, open_low=True, open_high=True
    ),
    "warm_share": partial(check_range, "warm_share", low=0.0, high=1.0),
    **{
        name: partial(check_level, name)
        for name in ("stabilization", "observation_level", "missing_level")
    },
    "clip": _check_clip,
    "arrivals": _check_arrivals,
    "scale_factors": check_scale_factors,
    "controller": lambda value: check_in("controller", value, CONTROLLERS),
}
PLANNER_SETTINGS = (*_CHECKS, *PARTS, "condition", "classifier_free")
