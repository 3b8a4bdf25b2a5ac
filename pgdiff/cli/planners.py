"""The planner that `plan` and `evaluate` ask for, from their settings."""

from typing import Any

import gymnasium

from pgdiff.planning import Planner
from pgdiff.planning.from_run import OPEN, RunInfo, planner_parts
from pgdiff.validation import PgdiffError, check_in

CONTROLLERS = ("inverse_dynamics", "tracker")


def guide_name(settings: dict[str, Any], run: RunInfo) -> str | None:
    """Return the name of the guide that is asked for; None for none."""
    name = settings["guide"]["name"]
    chosen = run.guide if name == "run" else str(name)
    return None if chosen == "none" else chosen


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
    guide, planner = settings["guide"], settings["planner"]
    arguments: dict[str, Any] = {
        "guide": None if guide["name"] == "run" else str(guide["name"]),
        "scale": guide["scale"],
        "transform": guide["transform"],
        "trace": guide["trace"],
        "at": guide["at"],
        "candidates": planner["candidates"],
        "steps": planner["steps"],
        "replan_every": _replan_every(planner["replan_every"]),
        "controller": _controller(planner["controller"], env),
        "condition": planner["condition"],
        **planner_parts(planner),
        "seed": settings["seed"],
        "device": settings["device"],
    }
    return Planner.from_run(run.path, **(arguments | changes))


def _replan_every(value: Any) -> Any:
    """`null` is what the run says, `open` an open loop."""
    if value is None:
        return "run"
    return None if value == OPEN else value


def _controller(name: Any, env: gymnasium.Env[Any, Any]) -> Any:
    """None is the run's inverse dynamics."""
    if check_in("planner.controller", str(name), CONTROLLERS) == "inverse_dynamics":
        return None
    tracker = getattr(env.unwrapped, "tracker", None)
    if tracker is None:
        raise PgdiffError(
            "`planner.controller` must be 'inverse_dynamics', because the environment has no "
            f"tracker. Got '{name}'."
        )
    return tracker()
