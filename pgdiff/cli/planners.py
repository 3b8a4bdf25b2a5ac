"""The planner that `plan` and `evaluate` ask for, from their settings."""

from typing import Any

import gymnasium

from pgdiff.planning import Planner
from pgdiff.planning.from_run import RunInfo
from pgdiff.planning.from_run import controller_name as controller_of
from pgdiff.planning.settings import CONTROLLERS, planner_values
from pgdiff.validation import PgdiffError, check_in

TRACKER = "tracker"


def guide_name(settings: dict[str, Any], run: RunInfo) -> str | None:
    """Return the name of the guide that is asked for; None for none."""
    name = settings["guide"]["name"]
    chosen = run.guide if name == "run" else str(name)
    return None if chosen == "none" else chosen


def controller_name(settings: dict[str, Any], run: RunInfo) -> str:
    """Return the name of the controller that is asked for.

    Raises:
        PgdiffError: there is none of that name.
    """
    name = settings["planner"]["controller"]
    if name is None:
        return controller_of(run)
    return check_in("planner.controller", str(name), (*CONTROLLERS, TRACKER))


def make_planner(
    settings: dict[str, Any], run: RunInfo, env: gymnasium.Env[Any, Any], **changes: Any
) -> Planner:
    """Make the planner; `changes` are arguments of `Planner.from_run` that go before.

    Args:
        settings: "guide", "planner", "seed" and "device".
        run: the run.
        env: whose tracker is used, if that is the controller.
        changes: for example `scale=0.0`.
    """
    guide = settings["guide"]
    chosen = {key: value for key, value in settings["planner"].items() if value is not None}
    controller = chosen.pop("controller", None)
    if controller is not None:
        controller = controller_name(settings, run)
    arguments: dict[str, Any] = {
        "guide": None if guide["name"] == "run" else str(guide["name"]),
        "scale": guide["scale"],
        "transform": guide["transform"],
        "trace": guide["trace"],
        "at": guide["at"],
        **planner_values(chosen),
        "controller": _tracker(env) if controller == TRACKER else controller,
        "seed": settings["seed"],
        "device": settings["device"],
    }
    return Planner.from_run(run.path, **(arguments | changes))


def _tracker(env: gymnasium.Env[Any, Any]) -> Any:
    tracker = getattr(env.unwrapped, "tracker", None)
    if tracker is None:
        raise PgdiffError(
            f"`planner.controller` must be one of {', '.join(CONTROLLERS)}, because the "
            f"environment has no tracker. Got '{TRACKER}'."
        )
    return tracker()
