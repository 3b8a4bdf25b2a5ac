"""Running statistics of one episode."""

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np


@dataclass
class Tally:
    """Running statistics of one episode.

    Attributes:
        goal: goal of the reset; None without a goal.
        touch_reward: reward of a step at the goal, see `Scoring`; None if the task has none.
        trajectory: observations of the episode; None if they are not kept.
        total: sum of rewards.
        length: number of steps.
        success: True if a step reported success; None if no step reported success or failure.
        first_success: number of the first successful step, from 1; NaN without success.
        first_touch: number of the first step with the reward `touch_reward`, from 1; NaN without.
        before_touch: sum of the rewards before the first touch.
        goal_moved: True if the goal changed after the reset.
        rewards_changed: True if a wrapper changed the task's rewards.
        steps_changed: True if a wrapper changed the task's number of steps.
        done: True if the episode has ended.
    """

    goal: Any = None
    touch_reward: float | None = None
    trajectory: list[Any] | None = field(default=None, repr=False)
    total: float = 0.0
    length: int = 0
    success: bool | None = None
    first_success: float = math.nan
    first_touch: float = math.nan
    before_touch: float = 0.0
    goal_moved: bool = False
    rewards_changed: bool = False
    steps_changed: bool = False
    done: bool = False

    def add(self, reward: float, ended: bool, info: dict[str, Any]) -> None:
        """Count a step."""
        self.length += 1
        if math.isnan(self.first_touch):
            if self.touch_reward is not None and reward == self.touch_reward:
                self.first_touch = self.length
            else:
                self.before_touch += reward
        self.total += reward
        self.done = ended
        reported = info.get("is_success", info.get("success"))
        if reported is not None:
            if reported and not self.success:
                self.first_success = self.length
            self.success = bool(self.success) or bool(reported)
        if self.touch_reward is not None and not self.goal_moved and "goal" in info:
            self.goal_moved = self.goal is not None and not np.array_equal(info["goal"], self.goal)
