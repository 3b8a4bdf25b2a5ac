"""Scores of episodes: of their returns, with credit for staying, and the first touch of the goal.

`score` is D4RL's normalised score of the return (Fu et al. 2020). `score_if_stay` is the normalised
score of the return that the episode would have if every step from the first touch of the goal to
the time limit were paid, as the evaluation codes of several published planners count. `first_touch`
is the number of the first step at the goal.

What an environment offers on `env.unwrapped`, all of it optional:

- `normalized_score(total)`: the normalised score of a return. A ValueError says that there is none,
  and why.
- `reference_scores`: the two returns whose scores are 0 and 100.
- `reference_steps`: the time limit that these returns belong to; None for any. Without it, that of
  Gymnasium's registry counts.
- `touch_reward`: the reward of every step at the goal, in a task whose rewards are else 0, whose
  goal rests, and whose episodes go on after it; None in a task of another kind.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import gymnasium as gym
import numpy as np
from jaxtyping import Float

from pgdiff.evaluation.checks import name_of
from pgdiff.evaluation.limits import registered_limit, time_limit
from pgdiff.evaluation.tally import Tally

STAY = "score if stay"


@dataclass(frozen=True, eq=False, kw_only=True)
class Scores:
    """Scores of all episodes; None for those that the environment does not have.

    Attributes:
        normalized: of the returns.
        if_stay: of the returns with credit for staying.
        first_touch: steps to the first touch, NaN where an episode has none.
        notes: which are missing, and why.
    """

    normalized: Float[np.ndarray, " episodes"] | None
    if_stay: Float[np.ndarray, " episodes"] | None
    first_touch: Float[np.ndarray, " episodes"] | None
    notes: tuple[str, ...]


class Scoring:
    """How an environment scores episodes, read before the first one.

    Args:
        env: the environment.

    Attributes:
        reference: the returns whose scores are 0 and 100; None where the environment has none.
        touch_reward: see the module.
        limit: the time limit; None where it is not known.
    """

    def __init__(self, env: gym.Env[Any, Any]) -> None:
        task: Any = env.unwrapped
        self._notes: list[str] = []
        self._name = name_of(env)
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
                    f"no {STAY} and no first touch: '{self._name}' does not pay a fixed reward "
                    "for being at a goal that rests"
                )

    def _check_scale(self, env: gym.Env[Any, Any]) -> None:
        """Drop the normalised score where it does not fit, and note the reason."""
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
            found = "no known limit" if self.limit is None else f"{self.limit}"
            self._drop(
                f"no score: the reference scores of '{self._name}' are of episodes of {steps} "
                f"steps, and the time limit is {found}; make it without another limit"
            )

    def _drop(self, note: str) -> None:
        self._normalize = None
        self._notes.append(note)

    def scores(self, tallies: Sequence[Tally]) -> Scores:
        """Return the scores of episodes that have ended."""
        if self._normalize is not None and any(tally.rewards_changed for tally in tallies):
            self._drop(f"no score: a wrapper changes the rewards of '{self._name}'; take it off")
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
        """Steps to the first touch; None, and a note, where they have no meaning."""
        if self.touch_reward is None:
            return None
        reason = None
        if any(tally.goal_moved for tally in tallies):
            reason = "the goal moves within an episode"
        elif any(tally.rewards_changed for tally in tallies):
            reason = "a wrapper changes the rewards"
        elif any(tally.steps_changed for tally in tallies):
            reason = "a wrapper makes several steps of one"
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
        """The return if every step from the first touch to the time limit were paid."""
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
    """One number; NaN of anything else."""
    try:
        (number,) = np.asarray(value, dtype=np.float64).reshape(-1)
    except (TypeError, ValueError):
        return math.nan
    return float(number)


def _reference(task: Any) -> list[float] | None:
    """The returns whose scores are 0 and 100, where the environment states them."""
    try:
        low, high = task.reference_scores
        found = [float(low), float(high)]
    except (AttributeError, TypeError, ValueError):
        return None
    return found if all(map(math.isfinite, found)) else None
