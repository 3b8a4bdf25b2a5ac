"""Simulators set to the states of plans, and driven along them."""

from collections.abc import Callable, Sequence
from typing import Any

import gymnasium as gym
import numpy as np
from jaxtyping import Float

from pgdiff.evaluation import checks
from pgdiff.evaluation.observations import flat_observation
from pgdiff.planning import PlanMemory, Planner
from pgdiff.planning.controllers import checked_actions

Observations = Float[np.ndarray, "plans obs"]
Waypoints = Float[np.ndarray, "plans tokens obs"]
Actions = Float[np.ndarray, "plans steps act"]
Act = Callable[[Observations, int], np.ndarray]
"""Actions for the observations after so many steps."""


class Simulators:
    """Environments side by side that are set to observations and then act.

    Args:
        envs: environments, one for each plan of a batch.
        planner: whose controller drives.
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
        """Follow each plan to its end without a new one.

        The controller drives to the way-points as `Planner.predict` has it; with the controller
        "actions" the plans' own actions are done.

        Args:
            starts: observations to start from.
            waypoints: of the plans.
            actions: of the plans, for every step; for the controller "actions" alone.

        Returns:
            The observation at each way-point's time, and the reward of every step.
        """
        stride = self.planner.model.layout.stride
        steps = (waypoints.shape[1] - 1) * stride
        if self.planner.controller == "actions":
            assert actions is not None
            way, rewards = self._roll(starts, _own(actions), steps)
        else:
            memory = PlanMemory.empty(
                [0] * len(starts), tokens=waypoints.shape[1], observation=waypoints.shape[2]
            )._replace(waypoints=waypoints)

            def act(observations: Observations, step: int) -> np.ndarray:
                then = memory._replace(age=np.full(len(observations), step))
                waypoint, left = then.target(stride, self.planner.lookahead)
                return self._driven(observations, waypoint, left)

            way, rewards = self._roll(starts, act, steps)
        return way[:, ::stride], rewards

    def legs(self, waypoints: Waypoints, actions: Actions | None) -> Waypoints:
        """Set the simulator to each way-point but the last, and drive to the one after it.

        Args:
            waypoints: of the plans.
            actions: as in `open_loop`.

        Returns:
            Where each leg ends, `[plans, legs, obs]`.
        """
        stride = self.planner.model.layout.stride
        ends = []
        for leg in range(waypoints.shape[1] - 1):
            target = waypoints[:, leg + 1]
            if self.planner.controller == "actions":
                assert actions is not None
                act = _own(actions[:, leg * stride :])
            else:

                def act(
                    observations: Observations, step: int, target: Observations = target
                ) -> np.ndarray:
                    left = np.full(len(observations), stride - step)
                    return self._driven(observations, target, left)

            ends.append(self._roll(waypoints[:, leg], act, stride)[0][:, -1])
        return np.stack(ends, axis=1)

    def _driven(self, observations: Observations, target: Observations, left: Any) -> np.ndarray:
        controller = self.planner.controller
        assert controller is not None and not isinstance(controller, str)
        size = self.planner.model.layout.action_size
        found = controller.act(observations.astype(np.float32), target.astype(np.float32), left)
        return checked_actions(found, count=len(observations), size=size)

    def _roll(
        self, starts: Observations, act: Act, steps: int
    ) -> tuple[Waypoints, Float[np.ndarray, "plans steps"]]:
        """Set each environment to its start and act; one that ends stays where it ended."""
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
                # A time limit that cuts the episode means nothing for the simulator's state.
                observation, reward, over[number], _, _ = env.step(actions[number])
                way[number, step + 1] = self._flat(observation)
                rewards[number, step] = reward
        return way, rewards


def straight(waypoints: Waypoints, stride: int) -> Waypoints:
    """Return the observation of every environment step on straight lines between way-points.

    The first way-point is left out: entry t is where a plan is after t + 1 steps.
    """
    share = (np.arange(stride) + 1.0)[:, None] / stride
    before, after = waypoints[:, :-1, None], waypoints[:, 1:, None]
    lines = before + share * (after - before)
    return np.asarray(lines.reshape(len(waypoints), -1, waypoints.shape[-1]))


def _own(actions: Actions) -> Act:
    """The plans' own actions; past their end the last one."""
    last = actions.shape[1] - 1
    return lambda observations, step: actions[:, min(step, last)]
