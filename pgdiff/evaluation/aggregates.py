"""One figure with an interval from evaluations of several training seeds and tasks.

Source of the statistics and of the strata: Agarwal et al., "Deep reinforcement learning at the edge
of the statistical precipice", NeurIPS 2021: tasks are strata, in each of which is drawn apart; the
interval is that of the percentiles. How runs and episodes are drawn: `resampling`.
"""

import os
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from jaxtyping import Float

from pgdiff.evaluation.resampling import blocks, drawn_means, draws
from pgdiff.evaluation.results import Evaluation
from pgdiff.evaluation.strata import Stratum, mean_of, strata_of
from pgdiff.validation import PgdiffError, check_positive_int, check_range, check_seed

Given = Evaluation | str | os.PathLike[str]
Statistic = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """A figure and its percentile bootstrap interval.

    Attributes:
        value: the statistic of what was observed.
        low: lower end of the interval.
        high: upper end of the interval.
        level: share of repeated experiments whose interval should hold the true value.
    """

    value: float
    low: float
    high: float
    level: float

    def __str__(self) -> str:
        return self.text()

    def text(self, *, digits: int = 1, sign: str = "") -> str:
        """The value and its interval, with so many digits."""
        form = f"{sign}.{digits}f"
        return f"{self.value:{form}} [{self.low:{form}}, {self.high:{form}}]"


def digits_of(metric: str) -> int:
    """Digits after the point that are shown: a rate is within 0 and 1."""
    return 3 if metric == "success" else 1


@dataclass(frozen=True, kw_only=True)
class Aggregate:
    """What several evaluations say together.

    Attributes:
        metric: "normalized_score", "return", "success", "score_if_stay" or "first_touch".
        tasks: the strata.
        runs: training seeds in each of them.
        episodes: of all runs and tasks together.
        unit: what IQM and optimality gap are taken over: "run", the mean of a run's episodes, as in
            the paper; or "episode" where each task has one run, whose interval then speaks of
            that one training alone.
        mean: the mean over runs and tasks.
        iqm: the mean of the middle half of the units, pooled over tasks.
        optimality_gap: by how much units stay below the target on average; None without a target.
        resampling: how the interval was made, in words.
        never: episodes beside these that have no first touch, where that is the metric.
    """

    metric: str
    tasks: tuple[str, ...]
    runs: int
    episodes: int
    unit: str
    mean: Estimate
    iqm: Estimate
    optimality_gap: Estimate | None
    resampling: str
    never: int = 0

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON."""
        return {**asdict(self), "tasks": list(self.tasks)}

    def __str__(self) -> str:
        digits = digits_of(self.metric)
        lines = [
            f"{self.metric}, {self.runs} run(s) in {', '.join(self.tasks)}: {self.episodes} "
            "episodes in all" + (f", {self.never} more never arrive" if self.never else ""),
            f"  mean  {self.mean.text(digits=digits)}",
            f"  IQM   {self.iqm.text(digits=digits)}  (over {self.unit}s)",
        ]
        if self.optimality_gap is not None:
            lines.append(f"  optimality gap  {self.optimality_gap.text(digits=digits)}")
        return "\n".join([*lines, f"  {self.resampling}"])


def aggregate(
    evaluations: Sequence[Given],
    *,
    metric: str | None = None,
    target: float | None = None,
    level: float = 0.95,
    resamples: int = 10_000,
    seed: int = 0,
) -> Aggregate:
    """Return mean and interquartile mean over runs and tasks, with intervals.

    Evaluations of one environment are runs of one stratum, one for each training seed. With several
    runs a resample draws runs, and then episodes by their environment's seed, the same for all of
    them where they met the same starts. With one run in each task it draws episodes alone.

    Args:
        evaluations: the evaluations, or their files.
        metric: "normalized_score", "return", "success", "score_if_stay" or "first_touch" (steps
            to the first touch of the goal, of the episodes that have one; of one task alone); None
            for the score where there is one.
        target: for the optimality gap, in the metric's units.
        level: of the intervals, between 0 and 1.
        resamples: how often is drawn.
        seed: of the draws.

    Raises:
        PgdiffError: no evaluations, those of different planners or of one run twice, tasks with
            different numbers of runs, or a metric that one of them lacks.
    """
    share = check_range("level", level, low=0.0, high=1.0, open_low=True, open_high=True)
    count = check_positive_int("resamples", resamples)
    rng = np.random.default_rng(check_seed("seed", seed))
    strata = strata_of(evaluations, metric=metric)
    runs = len(strata[0].runs)
    if any(len(stratum.runs) != runs for stratum in strata):
        told = {stratum.task: len(stratum.runs) for stratum in strata}
        raise PgdiffError(f"`evaluations` must hold as many runs of every task. Got {told}.")
    if runs == 1 and len({len(stratum.runs[0]) for stratum in strata}) > 1:
        told = {stratum.task: len(stratum.runs[0]) for stratum in strata}
        raise PgdiffError(
            "`evaluations` must hold as many episodes of every task, where each has one run. "
            f"Got {told}."
        )
    statistics: dict[str, Statistic] = {"mean": _mean, "iqm": interquartile_mean}
    if target is not None:
        goal = check_range("target", target)
        statistics["optimality_gap"] = lambda units: goal - np.minimum(units, goal).mean(axis=-1)
    observed = np.concatenate([_units(stratum) for stratum in strata])
    drawn: dict[str, list[np.ndarray]] = {name: [] for name in statistics}
    for rows in blocks(count, max(observed.size, sum(map(_width, strata)))):
        units = np.concatenate([_drawn_units(stratum, rows, rng) for stratum in strata], axis=1)
        for name, statistic in statistics.items():
            drawn[name].append(statistic(units))
    found = {
        name: estimate(float(statistic(observed)), np.concatenate(drawn[name]), share)
        for name, statistic in statistics.items()
    }
    episodes = sum(len(_there(scores)) for stratum in strata for scores in stratum.runs)
    return Aggregate(
        metric=strata[0].metric,
        tasks=tuple(stratum.task for stratum in strata),
        runs=runs,
        episodes=episodes,
        unit="run" if runs > 1 else "episode",
        mean=found["mean"],
        iqm=found["iqm"],
        optimality_gap=found.get("optimality_gap"),
        resampling=_in_words(strata, share, count),
        never=sum(len(scores) for stratum in strata for scores in stratum.runs) - episodes,
    )


def interquartile_mean(units: Float[np.ndarray, "*rows units"]) -> Float[np.ndarray, "*rows"]:
    """The mean of the middle half; a quarter of the units, rounded down, is cut at either end."""
    cut = units.shape[-1] // 4
    ordered = np.sort(units, axis=-1)
    return np.asarray(ordered[..., cut : units.shape[-1] - cut].mean(axis=-1))


def estimate(value: float, drawn: Float[np.ndarray, " resamples"], level: float) -> Estimate:
    """The statistic with the percentile interval of its resamples, those with a value."""
    drawn = drawn[np.isfinite(drawn)]
    low, high = np.quantile(drawn, [(1.0 - level) / 2.0, (1.0 + level) / 2.0])
    return Estimate(value=value, low=float(low), high=float(high), level=level)


def _mean(units: np.ndarray) -> np.ndarray:
    return np.asarray(units.mean(axis=-1))


def _units(stratum: Stratum) -> np.ndarray:
    if len(stratum.runs) == 1:
        return _there(stratum.runs[0])
    return np.array([mean_of(scores) for scores in stratum.runs])


def _there(scores: np.ndarray) -> np.ndarray:
    """The episodes that have a value."""
    return np.asarray(scores[np.isfinite(scores)])


def _width(stratum: Stratum) -> int:
    return max(len(scores) for scores in stratum.runs)


def _drawn_units(stratum: Stratum, rows: int, rng: np.random.Generator) -> np.ndarray:
    if len(stratum.runs) == 1:
        scores = _there(stratum.runs[0])
        return np.asarray(scores[draws(rng, rows, len(scores))])
    which = draws(rng, rows, len(stratum.runs))
    return drawn_means(stratum.runs, which, rng, shared=stratum.shared)


def _in_words(strata: Sequence[Stratum], level: float, resamples: int) -> str:
    if len(strata[0].runs) == 1:
        what = "episodes"
    elif all(stratum.shared for stratum in strata):
        what = "runs, then episodes by their environment's seed, the same for every run"
    else:
        what = "runs, then episodes of each run"
    apart = ", in each task apart" if len(strata) > 1 else ""
    return f"{level:.0%} percentile bootstrap of {what}{apart}; {resamples} resamples"
