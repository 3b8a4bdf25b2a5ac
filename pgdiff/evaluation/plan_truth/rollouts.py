"""Simulators that are set to the states of plans and follow them."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import gymnasium as gym
import numpy as np
from jaxtyping import Float

from pgdiff.evaluation import checks
from pgdiff.evaluation.rollouts import flat_observation
from pgdiff.planning import Planner, PlannerState
from pgdiff.planning.controllers import PlanActions, checked_actions, make_controller

Observations = Float[np.ndarray, "plans obs"]
Waypoints = Float[np.ndarray, "plans tokens obs"]
Actions = Float[np.ndarray, "plans steps act"]
Act = Callable[[Observations, int], np.ndarray]
"""Returns actions for observations and the number of steps taken."""


class Simulators:
    """A batch of environments that are set to observations and follow plans.

    Args:
        envs: environments, one for each plan of a batch.
        planner: planner with the controller that follows the plans.
    """

    def __init__(self, envs: Sequence[gym.Env[Any, Any]], planner: Planner) -> None:
        self.envs = envs
        self.planner = planner
        self._flat = flat_observation(planner, envs[0])

    def begin(self, seeds: Sequence[int]) -> None:
        """Reset every environment with its seed, which draws its goal."""
        for env, seed in zip(self.envs, seeds, strict=True):
            checks.reset(env, seed)

    def open_loop(
        self, starts: Observations, waypoints: Waypoints, actions: Actions | None
    ) -> tuple[Waypoints, Float[np.ndarray, "plans steps"]]:
        """Follow each plan to its end without replanning.

        The controller drives to the way-points as in `Planner.predict`. The controller "actions"
        replays the actions of the plans.

        Args:
            starts: observations to start from.
            waypoints: way-points of the plans.
            actions: actions of the plans for every step; only for the controller "actions".

        Returns:
            The observation at each way-point's time, and the reward of every step.
        """
        stride = self.planner.model.codec.spec.stride
        steps = (waypoints.shape[1] - 1) * stride
        controller = self._controller(self.planner.replanning.lookahead)
        state = self._state(waypoints, actions)

        def act(observations: Observations, step: int) -> np.ndarray:
            return self._act(controller, observations, state, step)

        way, rewards = self._roll(starts, act, steps)
        return way[:, ::stride], rewards

    def legs(self, waypoints: Waypoints, actions: Actions | None) -> Waypoints:
        """Set the simulator to each way-point except the last, and drive to the next one.

        Args:
            waypoints: way-points of the plans.
            actions: as in `open_loop`.

        Returns:
            The observation at each leg's end, `[plans, legs, obs]`.
        """
        stride = self.planner.model.codec.spec.stride
        controller = self._controller(lookahead=1)
        ends = []
        for leg in range(waypoints.shape[1] - 1):
            rest = None if actions is None else actions[:, leg * stride :]
            state = self._state(waypoints[:, leg : leg + 2], rest)

            def act(
                observations: Observations, step: int, state: PlannerState = state
            ) -> np.ndarray:
                return self._act(controller, observations, state, step)

            ends.append(self._roll(waypoints[:, leg], act, stride)[0][:, -1])
        return np.stack(ends, axis=1)

    def _controller(self, lookahead: int) -> Any:
        """Return the planner's controller; actions of plans are replayed without clipping."""
        planner = self.planner
        if isinstance(planner.bound_controller, PlanActions):
            return PlanActions()
        replanning = replace(planner.replanning, lookahead=lookahead)
        return make_controller(planner.controller, planner.model, replanning)

    def _state(self, waypoints: Waypoints, actions: Actions | None) -> PlannerState:
        """Return the state of a planner that has just made these plans."""
        tokens, observation = waypoints.shape[1:]
        return PlannerState.empty(
            [0] * len(waypoints), tokens=tokens, observation=observation
        )._replace(waypoints=waypoints, actions=actions)

    def _act(
        self, controller: Any, observations: Observations, state: PlannerState, step: int
    ) -> np.ndarray:
        """Return the controller's actions a number of steps after the plans were made."""
        state = state._replace(
            waypoints=state.waypoints.astype(np.float32), age=np.full(len(observations), step)
        )
        size = self.planner.model.codec.spec.action_size
        actions = controller.act(observations.astype(np.float32), state)
        return checked_actions(actions, count=len(observations), size=size)

    def _roll(
        self, starts: Observations, act: Act, steps: int
    ) -> tuple[Waypoints, Float[np.ndarray, "plans steps"]]:
        """Set each environment to its start and act; after its end it keeps its observation."""
        way = np.empty((len(starts), steps + 1, starts.shape[1]))
        rewards = np.zeros((len(starts), steps))
        over = np.zeros(len(starts), np.bool_)
        for number, (env, start) in enumerate(zip(self.envs, starts, strict=True)):
            task: Any = env.unwrapped
            way[number, 0] = task.set_observation(start)
        for step in range(steps):
            way[:, step + 1] = way[:, step]
            actions = act(way[:, step], step)
            for number, env in enumerate(self.envs):
                if over[number]:
                    continue
                # Truncation by a time limit does not affect the simulator's state.
                observation, reward, over[number], _, _ = env.step(actions[number])
                way[number, step + 1] = self._flat(observation)
                rewards[number, step] = reward
        return way, rewards


def interpolate_legs(waypoints: Waypoints, stride: int) -> Waypoints:
    """Interpolate linearly between way-points, one observation per environment step.

    The first way-point is left out: entry t is the observation after t + 1 steps.
    """
    share = (np.arange(stride) + 1.0)[:, None] / stride
    before, after = waypoints[:, :-1, None], waypoints[:, 1:, None]
    lines = before + share * (after - before)
    return np.asarray(lines.reshape(len(waypoints), -1, waypoints.shape[-1]))
