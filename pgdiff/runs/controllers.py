"""Controllers that the settings of a planner name, loaded from a run."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from pgdiff.core.registry import check_imported, create, is_path, registered
from pgdiff.core.validation import PgdiffError, check_in, nearest
from pgdiff.planning.controllers import ACTIONS
from pgdiff.runs.references import References, anchor, check_reference, is_reference
from pgdiff.runs.run import INVERSE_DYNAMICS, RunInfo, StageRecord

KIND = "controller"
"""Kind of registered controllers."""


def is_default(value: Any) -> bool:
    """Return whether settings name the default controller, the stage "inverse_dynamics"."""
    return value in (INVERSE_DYNAMICS, {"stage": INVERSE_DYNAMICS})


def controller_settings(
    value: Mapping[str, Any] | str, stages: Sequence[StageRecord] | None
) -> Mapping[str, Any]:
    """Return the settings of a controller in their complete form.

    Args:
        value: a stage of the run, by its name or as a reference; or a registered controller, by
            its name or as `{name: NAME, **arguments}`.
        stages: stages of the run; None to check the form alone.

    Returns:
        A reference (see `pgdiff.runs.references`), or `{name: NAME, **arguments}`.

    Raises:
        PgdiffError: the run has no such stage, or no such controller is registered.

    Example:
        >>> from pgdiff.runs.controllers import controller_settings
        >>> controller_settings("actions", stages=[])
        {'name': 'actions'}
        >>> controller_settings("inverse_dynamics", stages=None)
        {'stage': 'inverse_dynamics'}
    """
    if isinstance(value, Mapping) and "name" in value:
        check_imported(KIND, value)
        check_in("controller", str(value["name"]), registered(KIND))
        return value
    if isinstance(value, Mapping):
        check_reference(value, name="controller")
        if stages is not None:
            References(stages, None).learner(value, name="controller")
        return value
    names = [stage.name for stage in stages or ()]
    if value in registered(KIND) and value not in names:
        return {"name": value}
    if not value.isidentifier() or (stages is not None and value not in names):
        choices = "." if stages is None else f": {nearest(value, [ACTIONS, *names])}"
        hint = " pgdiff never imports a module that a file names." if is_path(value) else ""
        raise PgdiffError(
            f"`controller` must be '{ACTIONS}', another registered controller, or a stage of the "
            f"run{choices} Got '{value}'.{hint}"
        )
    return {"stage": value}


def load_controller(run: RunInfo, chosen: Any, device: str | torch.device) -> Any:
    """Return the controller of a planner.

    Args:
        run: the run.
        chosen: see `controller_settings`; or an object, which is returned; or None for the run's
            own controller.
        device: device of networks.

    Returns:
        A controller; None if the run has no network for its default controller.

    Raises:
        PgdiffError: see `controller_settings`; or the network is not a controller.
    """
    if chosen is None:
        chosen = anchor(run.planner.get("controller") or INVERSE_DYNAMICS, run.path)
        if is_default(chosen) and run.stage(INVERSE_DYNAMICS) is None:
            return None
    if not isinstance(chosen, str | Mapping):
        return chosen
    settings = controller_settings(chosen, run.stages)
    if settings == {"name": ACTIONS}:
        return ACTIONS
    references = References(run.stages, run, device=device)
    if not is_reference(settings):
        return create(
            KIND,
            str(settings["name"]),
            **{
                key: references.resolve(value, name=f"controller.{key}")
                for key, value in settings.items()
                if key not in ("name", "kind", "import")
            },
        )
    controller = references.load(settings, name="controller")
    if not callable(getattr(controller, "act", None)):
        raise PgdiffError(
            f"`controller` must have a method act(observation, waypoint, steps_left). {settings} "
            f"is a {type(controller).__name__}."
        )
    return controller


def controller_name(run: RunInfo, controller: Mapping[str, Any] | str | None = None) -> str:
    """Return the name of a controller: its registered name, or the stage or file of its network.

    Args:
        run: the run.
        controller: see `controller_settings`; the controller of the run if None.
    """
    controller = controller or run.planner.get("controller") or INVERSE_DYNAMICS
    if isinstance(controller, Mapping):
        return str(next(controller[key] for key in ("name", "stage", "agent") if key in controller))
    return str(controller)
