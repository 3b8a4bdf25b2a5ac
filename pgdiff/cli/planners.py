"""The planner that `plan` and `evaluate` ask for, from their settings."""

from pathlib import Path
from typing import Any

import gymnasium

from pgdiff.planning import Planner
from pgdiff.planning.from_run import RunInfo
from pgdiff.planning.from_run import controller_name as controller_of
from pgdiff.planning.run_guides import chosen_settings
from pgdiff.planning.settings import CONTROLLERS, planner_values
from pgdiff.validation import PgdiffError, check_in

TRACKER = "tracker"


def guide_settings(settings: dict[str, Any], run: RunInfo) -> dict[str, dict[str, Any]]:
    """Return the settings of the guides that are asked for, by name; empty for none."""
    return chosen_settings(run, guide_choice(settings), {})


def guide_choice(settings: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """What the command line says of each guide: of `guide`, and of those in `guide.also`."""
    own = _with_paths(settings["guide"])
    name, also = str(own.pop("name")), own.pop("also")
    if also is None:
        also = {}
    elif isinstance(also, str):
        also = {also: {}}
    elif isinstance(also, list):
        also = {str(other): {} for other in also}
    if not isinstance(also, dict):
        raise PgdiffError(
            "`guide.also` must be a name, names, or settings by name: {policy: {agent: A.zip}}. "
            f"Got {also!r}."
        )
    if name in also:
        raise PgdiffError(f"`guide.also` must be of other guides than '{name}'. Got {list(also)}.")
    return {name: own, **{other: _with_paths(given) for other, given in also.items()}}


def _with_paths(given: Any) -> Any:
    """Settings of a guide, in whose paths `~` is the home folder."""
    if not isinstance(given, dict):
        return given
    return {
        key: str(Path(value).expanduser()) if isinstance(value, str) and value[:1] == "~" else value
        for key, value in given.items()
    }


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
    chosen = {key: value for key, value in settings["planner"].items() if value is not None}
    controller = chosen.pop("controller", None)
    if controller is not None:
        controller = controller_name(settings, run)
    arguments: dict[str, Any] = {
        "guide": guide_choice(settings),
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
