"""The progress bar of an evaluation."""

from typing import Any

from tqdm import tqdm

ROUNDS = 20
"""Rounds of steps before the time that is left is shown: the first ones hold whole plans."""

_UNSURE = "{desc}: {percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt} steps [{elapsed}]"
_SURE = "{desc}: {percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt} steps [{elapsed}, {remaining} left]"


class Progress:
    """Steps done, and how long the rest will take.

    The time left is that of the average step so far. A planner spends most of its time in the few
    steps in which it plans, so that the last steps, or the first ones, would mislead.

    Args:
        episodes: how many episodes in all.
        limit: steps of an episode at most; None if that is not known, and no time left is shown.
        disable: show nothing.
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
        """Count one round.

        Args:
            steps: environments that were stepped.
            ended: lengths of the episodes that ended with it; what they lack of the limit will not
                be played.
        """
        self._rounds += 1
        if self._limit is not None and not self._bar.disable:
            self._bar.total -= sum(max(0, self._limit - length) for length in ended)
            if self._rounds == ROUNDS:
                self._bar.bar_format = _SURE
        self._bar.update(steps)
