"""Controllers, which compute actions that follow a plan."""

import inspect
from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float, Int

from pgdiff.core.registry import create, register
from pgdiff.core.validation import PgdiffError, as_array, check_positive_int
from pgdiff.model import TrajectoryDiffusion
from pgdiff.planning.replanning import Replanning
from pgdiff.planning.state import PlannerState

ACTIONS = "actions"
"""Registered name of the controller that executes the actions of the plan."""


@runtime_checkable
class Controller(Protocol):
    """Protocol of controllers: an action from the observation and the planner's state.

    A controller may have a method `for_planner(model, replanning)`, which raises if it does not fit
    and returns the controller with settings from both. A registered controller (kind "controller")
    can be named in the planner of a recipe.

    Example:
        >>> import numpy as np
        >>> from pgdiff.planning import Controller, PlannerState
        >>> class Hold:
        ...     def act(self, observation, state):
        ...         return state.waypoints[:, -1, :2] - observation[:, :2]
        >>> isinstance(Hold(), Controller)
        True
    """

    def act(
        self, observation: Float[np.ndarray, "batch observation"], state: PlannerState
    ) -> Float[np.ndarray, "batch action"]:
        """Return the action of each environment.

        Args:
            observation: present observations, raw units.
            state: state of the planner, with the current plans and their age in steps.
        """
        ...


@runtime_checkable
class WaypointController(Protocol):
    """Protocol of controllers that drive to one way-point, such as `InverseDynamics`.

    A planner accepts them as controllers and follows its way-points with them
    (`FollowWaypoints`).

    Example:
        >>> import numpy as np
        >>> from pgdiff.planning import WaypointController
        >>> class Straight:
        ...     def act(self, observation, waypoint, steps_left):
        ...         return (waypoint - observation)[:, :2] / steps_left[:, None]
        >>> isinstance(Straight(), WaypointController)
        True
    """

    def act(
        self,
        observation: Float[np.ndarray, "batch observation"],
        waypoint: Float[np.ndarray, "batch observation"],
        steps_left: Int[np.ndarray, " batch"],
    ) -> Float[np.ndarray, "batch action"]:
        """Return the action of each environment.

        Args:
            observation: present observations, raw units.
            waypoint: target observations, raw units.
            steps_left: environment steps until the target, at least 1.
        """
        ...


@register("controller", ACTIONS)
class PlanActions:
    """Controller that executes the actions of the plan, clipped to the recorded range.

    The model has not learned actions outside this range, and most recordings fill the range of the
    environment, which executes no action outside its range.

    Example:
        >>> import numpy as np
        >>> from pgdiff.planning import PlanActions, PlannerState
        >>> state = PlannerState.empty([0], tokens=3, observation=2)
        >>> state = state.with_plans(np.array([True]), np.zeros((1, 3, 2)), np.full((1, 3, 1), 0.5))
        >>> PlanActions().act(np.zeros((1, 2)), state)
        array([[0.5]])
    """

    def __init__(self) -> None:
        self._limits: Any = None

    def for_planner(self, model: TrajectoryDiffusion, replanning: Replanning) -> "PlanActions":
        """Return the controller with the model's range; raise for a model without actions."""
        spec = model.codec.spec
        if spec.action_size is None or spec.action_stride != 1:
            raise PgdiffError(
                "`controller` can be 'actions' for a model whose tokens hold 'action_chunks', "
                "'previous_actions', or 'actions' at stride 1. Got a model of "
                f"{', '.join(spec.sizes)} at stride {spec.stride}."
            )
        bound = PlanActions()
        bound._limits = model.codec.action_range
        return bound

    def act(
        self, observation: Float[np.ndarray, "batch observation"], state: PlannerState
    ) -> Float[np.ndarray, "batch action"]:
        """Return the plans' action of the present step."""
        return clip_action(state.plan_action(), self._limits)


@register("controller", "waypoints")
class FollowWaypoints:
    """Controller that drives to the way-points of the plan by a way-point controller.

    Args:
        controller: drives to one way-point, such as an `InverseDynamics` or a maze's `tracker()`.
        stride: environment steps between way-points; a planner sets it.
        lookahead: number of way-points from the present one to the target; a planner sets it.

    Example:
        >>> import numpy as np
        >>> from pgdiff.planning import FollowWaypoints, PlannerState
        >>> class Straight:
        ...     def act(self, observation, waypoint, steps_left):
        ...         return (waypoint - observation) / steps_left[:, None]
        >>> state = PlannerState.empty([0], tokens=3, observation=2)
        >>> state = state.with_plans(np.array([True]), np.ones((1, 3, 2)))
        >>> FollowWaypoints(Straight(), stride=4).act(np.zeros((1, 2)), state)
        array([[0.25, 0.25]])
    """

    def __init__(self, controller: WaypointController, stride: int = 1, lookahead: int = 1) -> None:
        if not callable(getattr(controller, "act", None)):
            raise PgdiffError(
                "`controller` must have a method act(observation, waypoint, steps_left). "
                f"Got a {type(controller).__name__}."
            )
        self.controller = controller
        self.stride = check_positive_int("stride", stride)
        self.lookahead = check_positive_int("lookahead", lookahead)

    def for_planner(self, model: TrajectoryDiffusion, replanning: Replanning) -> "FollowWaypoints":
        """Return the controller with the planner's stride and lookahead.

        Raises:
            PgdiffError: the way-point controller was trained on nearer targets.
        """
        stride = model.codec.spec.stride
        check_lookahead(replanning.lookahead, self.controller, stride=stride)
        return FollowWaypoints(self.controller, stride, replanning.lookahead)

    def act(
        self, observation: Float[np.ndarray, "batch observation"], state: PlannerState
    ) -> Float[np.ndarray, "batch action"]:
        """Return the way-point controller's action towards the target way-point."""
        waypoint, steps_left = state.next_waypoint(self.stride, self.lookahead)
        return self.controller.act(observation, waypoint, steps_left)


def make_controller(
    controller: Any, model: TrajectoryDiffusion, replanning: Replanning
) -> Controller | None:
    """Return the controller that a planner acts with; None without one.

    Args:
        controller: a controller, a way-point controller, the registered name of a controller such
            as "actions", or None.
        model: model of the planner.
        replanning: settings of the planner.

    Raises:
        PgdiffError: it is not a controller, or does not fit the planner.
    """
    if controller is None:
        return None
    if isinstance(controller, str):
        controller = create("controller", controller)
    if not callable(getattr(controller, "act", None)):
        raise PgdiffError(
            "`controller` must have a method act(observation, state), or a method "
            "act(observation, waypoint, steps_left) that drives to way-points. "
            f"Got a {type(controller).__name__}."
        )
    if takes_waypoints(controller):
        controller = FollowWaypoints(controller)
    if hasattr(controller, "for_planner"):
        controller = controller.for_planner(model, replanning)
    bound: Controller = controller
    return bound


def takes_waypoints(controller: Any) -> bool:
    """Return whether `act` takes a way-point and the steps left, and not the planner's state."""
    try:
        parameters = list(inspect.signature(controller.act).parameters.values())
    except (TypeError, ValueError):  # a method without a signature
        return True
    positional = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    names = [parameter.name for parameter in positional]
    takes_state = len(names) == 2 or names[1:2] == ["state"]
    return not takes_state or any(p.kind is p.VAR_POSITIONAL for p in parameters)


def checked_actions(
    actions: Any, *, count: int, size: int | None
) -> Float[np.ndarray, "environments action"]:
    """Return a controller's actions if they are finite, with one action for each environment.

    Args:
        actions: actions that `act` returned.
        count: number of environments.
        size: number of features of an action; None for a model without actions.
    """
    array = as_array("actions", actions)
    if array.ndim != 2 or len(array) != count or size not in (None, array.shape[1]):
        raise PgdiffError(
            f"`controller` must return actions of the shape [{count}, "
            f"{'action' if size is None else size}]. Got {list(array.shape)}."
        )
    if array.dtype.kind not in "fiu" or not np.isfinite(array).all():
        raise PgdiffError(f"`controller` must return finite numbers. Got {array.tolist()}.")
    return array


def clip_action(action: np.ndarray, limits: Any) -> np.ndarray:
    """Return the action within limits, a pair of lower and upper bounds; unchanged for None."""
    if limits is None:
        return np.asarray(action)
    clipped: np.ndarray = np.clip(action, *np.asarray(limits, dtype=action.dtype))
    return clipped


def check_lookahead(lookahead: int, controller: Any, *, stride: int) -> int:
    """Return the lookahead if the controller was trained on targets that far away.

    Args:
        lookahead: number of way-points from the present one to the target.
        controller: a way-point controller; its optional attribute `stride` is the greatest number
            of steps to a target in its training.
        stride: environment steps between way-points.
    """
    lookahead = check_positive_int("lookahead", lookahead)
    greatest = getattr(controller, "stride", None)
    if isinstance(greatest, int) and lookahead * stride > greatest:
        raise PgdiffError(
            f"`lookahead` must be at most {greatest // stride} way-points of stride {stride}, "
            f"because the controller was trained on targets at most {greatest} steps away. "
            f"Got {lookahead}."
        )
    return lookahead
