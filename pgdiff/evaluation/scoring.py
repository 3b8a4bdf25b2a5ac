"""Scores of episodes: normalised returns, scores with credit for staying, and first touches.

`score` is D4RL's normalised score of the return (Fu et al. 2020). `score_if_stay` is the normalised
score of the return that the episode would have if every step from the first touch of the goal to
the time limit had the reward of the goal, as the evaluation code of several published planners
counts. `first_touch` is the number of the first step at the goal.

Optional attributes of `env.unwrapped`:

- `normalized_score(total)`: returns the normalised score of a return. It raises a ValueError with
  the reason if the task has no score.
- `reference_scores`: the two returns whose scores are 0 and 100.
- `reference_steps`: the time limit that these returns belong to; None for any. If it is missing,
  the time limit in Gymnasium's registry is used.
- `touch_reward`: the reward of every step at the goal, in a task whose other rewards are 0, whose
  goal does not move, and whose episodes continue at the goal; None in any other task.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import gymnasium as gym
import numpy as np
from jaxtyping import Float

from pgdiff.evaluation.checks import env_name
from pgdiff.evaluation.tally import Tally
from pgdiff.evaluation.time_limits import registered_limit, time_limit

STAY = "score if stay"


@dataclass(frozen=True, eq=False, kw_only=True)
class Scores:
    """Scores of all episodes; None for a score that the environment does not define.

    Attributes:
        normalized: normalised scores of the returns.
        if_stay: normalised scores with credit for staying.
        first_touch: steps to the first touch; NaN for an episode without a touch.
        notes: the missing scores, with the reasons.
    """

    normalized: Float[np.ndarray, " episodes"] | None
    if_stay: Float[np.ndarray, " episodes"] | None
    first_touch: Float[np.ndarray, " episodes"] | None
    notes: tuple[str, ...]


class Scoring:
    """Scoring rules of an environment, read before the first episode.

    Args:
        env: the environment.

    Attributes:
        reference: the returns whose scores are 0 and 100; None if the environment has none.
        touch_reward: see the module.
        limit: the time limit; None if unknown.
    """

    def __init__(self, env: gym.Env[Any, Any]) -> None:
        task: Any = env.unwrapped
        self._notes: list[str] = []
        self._name = env_name(env)
        self.limit = time_limit(env)
        self.reference = _reference(task)
        self._normalize: Callable[[Any], Any] | None = getattr(task, "normalized_score", None)
        if self._normalize is not None:
            self._check_scale(env)
        self.touch_reward: float | None = None
        if hasattr(task, "touch_reward"):
            self.touch_reward = None if task.touch_reward is None else float(task.touch_reward)
            if self.touch_reward is None:
                self._notes.append(
                    f"no {STAY} and no first touch: '{self._name}' has no fixed reward for being "
                    "at a goal that does not move"
                )

    def _check_scale(self, env: gym.Env[Any, Any]) -> None:
        """Disable the normalised score if it does not apply, and note the reason."""
        assert self._normalize is not None
        try:
            number = _number(self._normalize(0.0))
        except ValueError as error:  # a custom task, or one that was changed
            self._drop(f"no score: {error}")
            return
        if not math.isfinite(number):
            self._drop(f"no score: the normalised score of '{self._name}' is not a finite number")
            return
        steps = getattr(env.unwrapped, "reference_steps", registered_limit(env))
        if steps is not None and steps != self.limit:
            limit = "no known limit" if self.limit is None else f"{self.limit}"
            self._drop(
                f"no score: the reference scores of '{self._name}' are for episodes of {steps} "
                f"steps, and the time limit is {limit}; make it without another limit"
            )

    def _drop(self, note: str) -> None:
        self._normalize = None
        self._notes.append(note)

    def scores(self, tallies: Sequence[Tally]) -> Scores:
        """Return the scores of episodes that have ended."""
        if self._normalize is not None and any(tally.rewards_changed for tally in tallies):
            self._drop(f"no score: a wrapper changes the rewards of '{self._name}'; remove it")
        normalized = self._normalized([tally.total for tally in tallies])
        touches = self._touches(tallies)
        if touches is None:
            return Scores(
                normalized=normalized, if_stay=None, first_touch=None, notes=tuple(self._notes)
            )
        stayed = None if normalized is None else self._if_stay(tallies)
        return Scores(
            normalized=normalized, if_stay=stayed, first_touch=touches, notes=tuple(self._notes)
        )

    def _touches(self, tallies: Sequence[Tally]) -> np.ndarray | None:
        """Return the steps to the first touch; None, with a note, if it is not defined."""
        if self.touch_reward is None:
            return None
        reason = None
        if any(tally.goal_moved for tally in tallies):
            reason = "the goal moves within an episode"
        elif any(tally.rewards_changed for tally in tallies):
            reason = "a wrapper changes the rewards"
        elif any(tally.steps_changed for tally in tallies):
            reason = "a wrapper takes several steps in one"
        if reason is not None:
            self._notes.append(f"no {STAY} and no first touch: {reason} of '{self._name}'")
            return None
        return np.array([tally.first_touch for tally in tallies])

    def _if_stay(self, tallies: Sequence[Tally]) -> np.ndarray | None:
        if self.limit is None:
            self._notes.append(f"no {STAY}: the time limit of '{self._name}' is not known")
            return None
        return self._normalized([self._return_if_stay(tally) for tally in tallies])

    def _return_if_stay(self, tally: Tally) -> float:
        """Return the return with the goal's reward from the first touch to the time limit."""
        if math.isnan(tally.first_touch):
            return tally.total
        assert self.limit is not None and self.touch_reward is not None
        paid = self.limit - int(tally.first_touch) + 1
        return tally.before_touch + self.touch_reward * paid

    def _normalized(self, returns: Sequence[float]) -> np.ndarray | None:
        if self._normalize is None:
            return None
        return np.array([_number(self._normalize(total)) for total in returns])


def _number(value: Any) -> float:
    """Return one number; NaN for any other value."""
    try:
        (number,) = np.asarray(value, dtype=np.float64).reshape(-1)
    except (TypeError, ValueError):
        return math.nan
    return float(number)


def _reference(task: Any) -> list[float] | None:
    """Return the returns whose scores are 0 and 100; None if the environment has none."""
    try:
        low, high = task.reference_scores
        scores = [float(low), float(high)]
    except (AttributeError, TypeError, ValueError):
        return None
    return scores if all(map(math.isfinite, scores)) else None
