"""Controllers: way-points, actions of plans, and user-defined classes, by name or as objects."""

from typing import Any

import numpy as np
import pytest
from toys import flat_planner, tiny_model, walk

from pgdiff import Planner, Replanning
from pgdiff.core.registry import create, register
from pgdiff.core.validation import PgdiffError
from pgdiff.planning import FollowWaypoints, PlanActions, PlannerLike, PlannerState
from pgdiff.planning.controllers import make_controller, takes_waypoints

EPISODES = walk()
WALKS = np.random.default_rng(0).uniform(-1, 1, (9, 3, 4)).astype(np.float32)
BARE = tiny_model(EPISODES)
ACTING = tiny_model(EPISODES, fields=("observations", "action_chunks"))


class Chase:
    """Drives to a way-point."""

    stride = 6

    def act(self, observation: Any, waypoint: Any, steps_left: Any) -> np.ndarray:
        return ((waypoint - observation)[:, :2] / steps_left[:, None]).astype(np.float32)


class Last:
    """Goes to the last way-point; uses only the state."""

    def __init__(self, gain: float = 1.0) -> None:
        self.gain = gain
        self.states: list[PlannerState] = []

    def act(self, observation: Any, state: PlannerState) -> np.ndarray:
        self.states.append(state)
        return self.gain * (state.waypoints[:, -1, :2] - observation[:, :2])


def make(model: Any = BARE, **options: Any) -> Planner:
    settings = {"candidates": 2, "steps": 2, "replan_every": 3, "device": "cpu"}
    return flat_planner(model, **(settings | options))


def actions(planner: Planner) -> np.ndarray:
    state: Any = planner.initial_state(range(3))
    acted = []
    for observation in WALKS:
        action, state = planner.predict(observation, state)
        acted.append(action)
    return np.stack(acted)


def test_a_controller_gets_the_plan_in_the_state() -> None:
    last = Last()
    acted = actions(make(controller=last))
    assert [state.age.tolist() for state in last.states] == [[t % 3] * 3 for t in range(9)]
    ends = np.stack([state.waypoints[:, -1, :2] for state in last.states])
    np.testing.assert_array_equal(acted, ends - WALKS[..., :2])


def test_way_points_are_followed_by_the_adapter() -> None:
    expected = actions(make(controller=Chase(), lookahead=2))
    np.testing.assert_array_equal(
        actions(make(controller=FollowWaypoints(Chase()), lookahead=2)), expected
    )
    bound = make(controller=Chase(), lookahead=2).bound_controller
    assert isinstance(bound, FollowWaypoints) and (bound.stride, bound.lookahead) == (3, 2)


def test_actions_of_the_plan_by_name_and_as_an_object() -> None:
    by_name = make(ACTING, controller="actions")
    assert by_name.controller == "actions" and isinstance(by_name.bound_controller, PlanActions)
    expected = actions(by_name)
    np.testing.assert_array_equal(actions(make(ACTING, controller=PlanActions())), expected)
    low, high = ACTING.codec.action_range
    assert (expected >= np.asarray(low)).all() and (expected <= np.asarray(high)).all()


@pytest.mark.usefixtures("own_registry")
def test_a_registered_controller_can_be_named() -> None:
    register("controller", "last")(Last)
    np.testing.assert_array_equal(
        actions(make(controller="last")), actions(make(controller=Last()))
    )
    assert isinstance(create("controller", "waypoints", controller=Chase()), FollowWaypoints)


def test_what_act_takes() -> None:
    class Optional:
        def act(self, observation: Any, state: Any, gain: float = 1.0) -> Any: ...

    class Loose:
        def act(self, *arguments: Any) -> Any: ...

    assert not takes_waypoints(Last()) and not takes_waypoints(Optional())
    assert takes_waypoints(Chase()) and takes_waypoints(Loose())


def test_planners_have_one_protocol() -> None:
    assert isinstance(make(), PlannerLike)


def test_bad_controllers_are_named() -> None:
    for model, controller, options, message in (
        (BARE, 3, {}, r"`controller` must have a method act\(observation, state\).* Got a int"),
        (BARE, "actions", {}, "`controller` can be 'actions' for a model whose tokens hold"),
        (BARE, "action", {}, "`controller` must be .*'actions'.* Got 'action'"),
        (BARE, "waypoints", {}, "controller 'waypoints' needs `controller`"),
        (BARE, Chase(), {"lookahead": 3}, "`lookahead` must be at most 2 way-points"),
    ):
        with pytest.raises(PgdiffError, match=message):
            make(model, controller=controller, **options)
    with pytest.raises(PgdiffError, match=r"`controller` must have a method act\(observation, way"):
        FollowWaypoints(3)  # type: ignore[arg-type]
    assert make_controller(None, BARE, Replanning()) is None
    with pytest.raises(AttributeError):
        make().controller = Chase()  # type: ignore[misc]
