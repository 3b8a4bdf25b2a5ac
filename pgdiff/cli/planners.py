"""The planner of `plan` and `evaluate`, made from their settings."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
from torch import Tensor

from pgdiff.core.registry import is_registered
from pgdiff.core.settings import plain
from pgdiff.core.validation import PgdiffError, check_in
from pgdiff.planning import Planner
from pgdiff.planning.controllers import ACTIONS
from pgdiff.runs.controllers import controller_name as controller_of
from pgdiff.runs.guides import chosen_settings
from pgdiff.runs.load import SETTINGS, load_planner
from pgdiff.runs.run import RunInfo

_GUIDE = ("scale", "transform", "td_lambda", "gradient_at", "floor")
_NAMED = (
    ("sampling", "level_schedule"),
    ("sampling", "monte_carlo"),
    ("sampling", "stabilization"),
    ("filter", "noise_level"),
    ("filter", "missing_level"),
    ("filter", "history_tokens"),
)
"""Settings that the name of an agent contains if they are switched on."""


def describe(settings: dict[str, Any], run: RunInfo, planner: Planner) -> dict[str, Any]:
    """Return the settings of run, guide and planner, and "agent", a name for tables."""
    controller = controller_name(settings, run)
    every = planner.replanning.every
    replanning = "open loop" if every is None else f"replan {every}"
    guide = planner.guides[0] if planner.guides else None
    guidance = "no guide" if guide is None else f"{guide.name} x {guide.scale:g}"
    name = f"{run.recipe}, {controller}, {guidance}, {planner.candidates} cand., {replanning}"
    parts = {key: _plain(getattr(planner, key)) for key in SETTINGS}
    for part, key in _NAMED:
        value = parts[part][key]
        if value and value != {"name": "full"}:
            name += f", {_abbreviate(key, value)}"
    return {
        "agent": name,
        "run": str(run.path),
        "recipe": run.recipe,
        "training_seed": run.seed,
        "run_version": run.version,
        "stride": planner.model.codec.spec.stride,
        "guide": None if guide is None else guide.name,
        **{key: _plain(getattr(guide, key, None)) for key in _GUIDE},
        "candidates": planner.candidates,
        "condition": _plain(planner.condition) or None,
        **parts,
        "horizon": planner.model.codec.tokens,
        "controller": controller,
        "device": str(planner.model.device),
    }


def _abbreviate(key: str, value: Any) -> str:
    """Return a setting in a few words, such as "pyramid slope 1" or "history tokens 4"."""
    if not isinstance(value, Mapping):
        return f"{key.replace('_', ' ')} {value}" if not isinstance(value, str) else value
    rest = [f"{name} {item:g}" for name, item in value.items() if type(item) in (int, float)]
    return " ".join(rest if value["name"] in value else [str(value["name"]), *rest])


def _plain(value: Any) -> Any:
    """Return the JSON values of numbers, tensors and registered parts."""
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, Tensor | np.ndarray | np.generic):
        return value.tolist()
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    try:
        return plain(value) if is_registered(type(value)) else type(value).__name__
    except ValueError:  # a part of the user without a registered name
        return type(value).__name__


TRACKER = "tracker"


def guide_settings(settings: dict[str, Any], run: RunInfo) -> dict[str, dict[str, Any]]:
    """Return the settings of the chosen guides by name; an empty dict for no guide."""
    return chosen_settings(run, list(guide_choice(settings).items()))


def guide_choice(settings: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Return the settings on the command line of each guide, from `guide` and `guide.also`."""
    first = _with_paths(settings["guide"])
    name, also = str(first.pop("name")), first.pop("also", None)
    if also is None:
        also = {}
    elif isinstance(also, str):
        also = {also: {}}
    elif isinstance(also, list):
        also = {str(other): {} for other in also}
    if not isinstance(also, dict):
        raise PgdiffError(
            "`guide.also` must be a name, a list of names, or settings by name such as "
            f"{{policy: {{agent: A.zip}}}}. Got {also!r}."
        )
    if name in also:
        raise PgdiffError(
            f"`guide.also` must name guides other than '{name}', which is `guide`. Got "
            f"{list(also)}."
        )
    return {name: first, **{other: _with_paths(given or {}) for other, given in also.items()}}


def _with_paths(given: Any) -> Any:
    """Return the settings of a guide with `~` in paths replaced by the home folder."""
    if not isinstance(given, dict):
        return given
    return {
        key: str(Path(value).expanduser()) if isinstance(value, str) and value[:1] == "~" else value
        for key, value in given.items()
    }


def controller_name(settings: dict[str, Any], run: RunInfo) -> str:
    """Return the name of the chosen controller.

    Raises:
        PgdiffError: the name is neither "actions", "tracker" nor a stage of the run.
    """
    chosen = settings["planner"].get("controller")
    if chosen is not None and not isinstance(chosen, Mapping):
        names = (ACTIONS, TRACKER, *(stage.name for stage in run.stages))
        chosen = check_in("planner.controller", str(chosen), names)
    return controller_of(run, chosen)


def make_planner(
    settings: dict[str, Any],
    run: RunInfo,
    env: gymnasium.Env[Any, Any],
    *,
    gradient: bool = True,
    **changes: Any,
) -> Planner:
    """Return the planner of the settings.

    Args:
        settings: "guide", "planner", "seed" and "device".
        run: the run.
        env: environment whose tracker is used if the controller is "tracker".
        gradient: whether guides move samples; if False they only select among candidates.
        changes: arguments of `load_planner` that replace the settings, such as `candidates=1`.
    """
    chosen = dict(settings["planner"])
    controller_name(settings, run)
    controller = chosen.pop("controller", None)
    guides = guide_choice(settings)
    if not gradient:
        guides = {name: {**options, "scale": 0.0} for name, options in guides.items()}
    arguments: dict[str, Any] = {
        "guide": list(guides.items()),
        **chosen,
        "controller": _tracker(env) if controller == TRACKER else controller,
        "seed": settings["seed"],
        "device": settings["device"],
    }
    return load_planner(run.path, **(arguments | changes))


def _tracker(env: gymnasium.Env[Any, Any]) -> Any:
    tracker = getattr(env.unwrapped, "tracker", None)
    if tracker is None:
        raise PgdiffError(
            f"`planner.controller` must be '{ACTIONS}' or a stage of the run, because the "
            f"environment has no tracker. Got '{TRACKER}'."
        )
    return tracker()
