"""Running numbers of one episode."""

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np


@dataclass
class Tally:
    """What an episode has brought so far.

    Attributes:
        goal: that of the reset; None where it gave none.
        touch_reward: reward of a step at the goal, see `Scoring`; None for no such reward.
        trajectory: its observations; None where they are not kept.
        total: sum of rewards.
        length: steps.
        success: whether a step reported success; None where no step reported it at all.
        first_success: the first such step, from 1; NaN where there was none.
        first_touch: the first step whose reward was `touch_reward`, from 1; NaN if none was.
        before_touch: sum of the rewards of the steps before it.
        goal_moved: whether the goal changed after the reset.
        rewards_changed: whether a wrapper changed the task's own rewards.
        steps_changed: whether a wrapper made another number of the task's own steps.
        done: whether the episode has ended.
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
