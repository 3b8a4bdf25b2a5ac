"""What an evaluation's table and file say of the planner: every setting that a score depends on."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from torch import Tensor

from pgdiff.cli.planners import controller_name
from pgdiff.planning import Planner
from pgdiff.planning.from_run import RunInfo
from pgdiff.planning.settings import PLANNER_SETTINGS
from pgdiff.registry import to_config

_GUIDE = ("scale", "transform", "trace", "at", "floor")
_TOLD = (
    "schedule",
    "monte_carlo",
    "stabilization",
    "observation_level",
    "missing_level",
    "context",
)
"""Settings that the name tells of, where they are not those of a plain planner."""


def described(settings: dict[str, Any], run: RunInfo, planner: Planner) -> dict[str, Any]:
    """Return "agent", a name for tables, and the settings of run, guide and planner."""
    controller = controller_name(settings, run)
    every = "open loop" if planner.replan_every is None else f"replan {planner.replan_every}"
    own = planner.guides[0] if planner.guides else None
    steering = "no guide" if own is None else f"{own.name} x {own.scale:g}"
    name = f"{run.recipe}, {controller}, {steering}, {planner.candidates} cand., {every}"
    parts = {key: _plain(getattr(planner, key, None)) for key in PLANNER_SETTINGS}
    name += "".join(f", {_short(key, parts[key])}" for key in _TOLD if parts[key])
    parts |= {"horizon": planner.model.layout.horizon, "controller": controller}
    return {
        "agent": name,
        "run": str(run.path),
        "recipe": run.recipe,
        "training_seed": run.seed,
        "run_version": run.version,
        "stride": planner.model.layout.stride,
        "guide": None if own is None else own.name,
        **{key: _plain(getattr(own, key, None)) for key in _GUIDE},
        **parts,
        "device": str(planner.model.device),
    }


def _short(key: str, value: Any) -> str:
    """A setting in a few words, such as "pyramid slope 1" or "context 4"."""
    if not isinstance(value, Mapping):
        return f"{key.replace('_', ' ')} {value}" if not isinstance(value, str) else value
    rest = [f"{name} {item:g}" for name, item in value.items() if type(item) in (int, float)]
    return " ".join(rest if value["name"] in value else [str(value["name"]), *rest])


def _plain(value: Any) -> Any:
    """JSON values of numbers, tensors and registered parts."""
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, Tensor | np.ndarray | np.generic):
        return value.tolist()
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    try:
        return to_config(value)
    except ValueError:  # a part of one's own, without a name
        return type(value).__name__
