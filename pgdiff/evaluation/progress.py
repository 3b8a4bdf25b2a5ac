"""The progress bar of an evaluation."""

from typing import Any

from tqdm import tqdm

ROUNDS = 20
"""Rounds of steps before the remaining time is shown: the first rounds include planning."""

_UNSURE = "{desc}: {percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt} steps [{elapsed}]"
_SURE = "{desc}: {percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt} steps [{elapsed}, {remaining} left]"


class Progress:
    """A progress bar with the number of steps and the remaining time.

    The remaining time is computed from the average step so far. A planner spends most of its time
    in the few steps in which it plans, so an average over the latest steps would mislead.

    Args:
        episodes: total number of episodes.
        limit: maximum number of steps of an episode. None if unknown; the remaining time is then
            not shown.
        disable: True to show nothing.
    """

    def __init__(self, *, episodes: int, limit: int | None, disable: bool) -> None:
        self._limit = limit
        self._rounds = 0
        self._bar: tqdm[Any] = tqdm(
            total=None if limit is None else episodes * limit,
            desc="evaluate",
            unit="step",
            unit_scale=True,
            disable=disable,
            smoothing=0.0,
            bar_format=None if limit is None else _UNSURE,
        )

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.close()

    def advance(self, steps: int, *, ended: list[int]) -> None:
        """Count one round of steps.

        Args:
            steps: number of environments that were stepped.
            ended: lengths of the episodes that ended in this round; the total is reduced by the
                steps that they did not need.
        """
        self._rounds += 1
        if self._limit is not None and not self._bar.disable:
            self._bar.total -= sum(max(0, self._limit - length) for length in ended)
            if self._rounds == ROUNDS:
                self._bar.bar_format = _SURE
        self._bar.update(steps)
