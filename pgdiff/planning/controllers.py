"""Controllers: from where one is and the next way-point to an action."""

from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float, Int

from pgdiff.model import TrajectoryDiffusion
from pgdiff.validation import PgdiffError, as_array, check_positive_int


@runtime_checkable
class Controller(Protocol):
    """Drives to way-points; `InverseDynamics` is one, a maze's `tracker()` another."""

    def act(
        self,
        observation: Float[np.ndarray, "batch observation"],
        waypoint: Float[np.ndarray, "batch observation"],
        steps_left: Int[np.ndarray, " batch"],
    ) -> Float[np.ndarray, "batch action"]:
        """Action for each environment.

        Args:
            observation: where each is, in raw units.
            waypoint: where each is to be.
            steps_left: environment steps until then, at least 1.
        """
        ...


def check_controller(controller: Any, model: TrajectoryDiffusion) -> None:
    """Raise an error unless it is a controller, "actions" for a model that has some, or None."""
    if controller == "actions":
        layout = model.layout
        fields = dict(layout.fields)
        whole = "action_chunks" in fields or "previous_actions" in fields
        if not (whole or ("actions" in fields and layout.stride == 1)):
            raise PgdiffError(
                "`controller` may be 'actions' for a model whose tokens hold 'action_chunks', "
                "'previous_actions', or 'actions' at stride 1. Got a model of "
                f"{', '.join(fields)} at stride {layout.stride}."
            )
    elif controller is not None and not isinstance(controller, Controller):
        raise PgdiffError(
            "`controller` must have a method act(observation, waypoint, steps_left). "
            f"Got a {type(controller).__name__}."
        )


def checked_actions(
    actions: Any, *, count: int, size: int | None
) -> Float[np.ndarray, "environments action"]:
    """Return what a controller gave, if it is finite and an action for each environment.

    Args:
        actions: what `act` returned.
        count: number of environments.
        size: features of an action; None where the model knows none.
    """
    found = as_array("actions", actions)
    if found.ndim != 2 or len(found) != count or size not in (None, found.shape[1]):
        raise PgdiffError(
            f"`controller` must give actions of the shape [{count}, "
            f"{'action' if size is None else size}]. Got {list(found.shape)}."
        )
    if found.dtype.kind not in "fiu" or not np.isfinite(found).all():
        raise PgdiffError(f"`controller` must give finite numbers. Got {found.tolist()}.")
    return found


def check_lookahead(lookahead: int, controller: Any, *, stride: int) -> int:
    """Return the lookahead, if the controller has learned to drive to what is so far away.

    Args:
        lookahead: way-points ahead.
        controller: its attribute `stride`, where it has one, is how many steps ahead it learned.
        stride: environment steps between way-points.
    """
    lookahead = check_positive_int("lookahead", lookahead)
    learned = getattr(controller, "stride", None)
    if isinstance(learned, int) and lookahead * stride > learned:
        raise PgdiffError(
            f"`lookahead` must be at most {learned // stride} way-points of stride {stride}: the "
            f"controller was trained on way-points at most {learned} steps away. Got {lookahead}."
        )
    return lookahead
