"""Means with bootstrap intervals over the training seeds and tasks of several evaluations.

Source of the statistics and of the strata: Agarwal et al., "Deep reinforcement learning at the edge
of the statistical precipice", NeurIPS 2021. Tasks are strata that are resampled separately, and the
intervals are percentile intervals.
"""

import os
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from jaxtyping import Float

from pgdiff.core.validation import PgdiffError, check_positive_int, check_range, check_seed
from pgdiff.evaluation.bootstrap import block_sizes, draw_indices, resample_means
from pgdiff.evaluation.results import Evaluation
from pgdiff.evaluation.strata import Stratum, finite_mean, group_by_task

Given = Evaluation | str | os.PathLike[str]
Statistic = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """An estimated statistic and its percentile bootstrap interval.

    Attributes:
        value: the statistic of the observed data.
        low: lower end of the interval.
        high: upper end of the interval.
        level: nominal coverage: share of repeated experiments whose interval should contain the
            true value.

    Example:
        >>> from pgdiff.evaluation import Estimate
        >>> print(Estimate(value=42.0, low=39.5, high=44.25, level=0.95))
        42.0 [39.5, 44.2]
    """

    value: float
    low: float
    high: float
    level: float

    def __str__(self) -> str:
        return self.text()

    def text(self, *, digits: int = 1, sign: str = "") -> str:
        """Return the value and its interval as text.

        Args:
            digits: digits after the decimal point.
            sign: "+" to show the sign of positive numbers too.
        """
        form = f"{sign}.{digits}f"
        return f"{self.value:{form}} [{self.low:{form}}, {self.high:{form}}]"


def metric_digits(metric: str) -> int:
    """Return how many digits after the decimal point to show; rates lie between 0 and 1."""
    return 3 if metric == "success" else 1


@dataclass(frozen=True, kw_only=True)
class Aggregate:
    """Summary of several evaluations, as `aggregate` returns it.

    Attributes:
        metric: "normalized_score", "return", "success", "score_if_stay" or "first_touch".
        tasks: the strata.
        runs: number of training seeds of each task.
        episodes: number of episodes of all runs and tasks together.
        unit: unit of the IQM and the optimality gap. "run" is the mean of a run's episodes, as in
            the paper. "episode" is used if each task has one run; the interval then does not
            include the variation between trainings.
        mean: the mean over runs and tasks.
        iqm: the mean of the middle half of the units, pooled over tasks.
        optimality_gap: mean shortfall of the units below the target; None without a target.
        resampling: description of the bootstrap.
        never: further episodes that have no first touch, for the metric "first_touch".

    Example:
        >>> import gymnasium as gym
        >>> from types import SimpleNamespace
        >>> from pgdiff.evaluation import aggregate, evaluate
        >>> idle = SimpleNamespace(predict=lambda obs, state, **_: (np.zeros(len(obs), int), state))
        >>> make_env = lambda: gym.make("CartPole-v1")
        >>> result = aggregate([evaluate(idle, make_env, episodes=5, progress=False)])
        >>> result.metric, result.runs, result.episodes, result.unit
        ('return', 1, 5, 'episode')
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
        """Return all fields as JSON values."""
        return {**asdict(self), "tasks": list(self.tasks)}

    def __str__(self) -> str:
        digits = metric_digits(self.metric)
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
    """Return the mean and the interquartile mean over runs and tasks, with intervals.

    Evaluations of the same environment form one stratum, with one run for each training seed. With
    several runs, each resample draws runs and then episodes. If all runs have the same environment
    seeds, it draws the same episodes for all of them. With one run per task it draws only episodes.

    Args:
        evaluations: the evaluations, or the files that hold them.
        metric: "normalized_score", "return", "success", "score_if_stay" or "first_touch" (mean
            number of steps to the first touch of the goal, over the episodes that have one; for a
            single task). None selects the score if all evaluations have it, else the return.
        target: target of the optimality gap, in the metric's units.
        level: nominal coverage of the intervals, between 0 and 1; larger values widen them.
        resamples: number of bootstrap resamples.
        seed: seed of the bootstrap.

    Raises:
        PgdiffError: if there are no evaluations, the evaluations of a task come from different
            planners or from the same run, tasks have different numbers of runs, or an evaluation
            does not have the metric.

    Example:
        >>> import gymnasium as gym
        >>> from types import SimpleNamespace
        >>> from pgdiff.evaluation import aggregate, evaluate
        >>> idle = SimpleNamespace(predict=lambda obs, state, **_: (np.zeros(len(obs), int), state))
        >>> make_env = lambda: gym.make("CartPole-v1")
        >>> result = aggregate([evaluate(idle, make_env, episodes=5, progress=False)])
        >>> result.mean.low <= result.mean.value <= result.mean.high
        True
    """
    share = check_range("level", level, low=0.0, high=1.0, open_low=True, open_high=True)
    count = check_positive_int("resamples", resamples)
    rng = np.random.default_rng(check_seed("seed", seed))
    strata = group_by_task(evaluations, metric=metric)
    runs = len(strata[0].runs)
    if any(len(stratum.runs) != runs for stratum in strata):
        counts = {stratum.task: len(stratum.runs) for stratum in strata}
        raise PgdiffError(
            f"`evaluations` must hold the same number of runs for every task. Got {counts}. "
            "Evaluate the missing runs, or leave out the other tasks' extra runs."
        )
    if runs == 1 and len({len(stratum.runs[0]) for stratum in strata}) > 1:
        counts = {stratum.task: len(stratum.runs[0]) for stratum in strata}
        raise PgdiffError(
            "`evaluations` must hold the same number of episodes for every task if each task has "
            f"one run. Got {counts}. Evaluate every task with the same number of episodes."
        )
    statistics: dict[str, Statistic] = {"mean": _mean, "iqm": interquartile_mean}
    if target is not None:
        goal = check_range("target", target)
        statistics["optimality_gap"] = lambda units: goal - np.minimum(units, goal).mean(axis=-1)
    observed = np.concatenate([_units(stratum) for stratum in strata])
    drawn: dict[str, list[np.ndarray]] = {name: [] for name in statistics}
    for rows in block_sizes(count, max(observed.size, sum(map(_width, strata)))):
        units = np.concatenate([_drawn_units(stratum, rows, rng) for stratum in strata], axis=1)
        for name, statistic in statistics.items():
            drawn[name].append(statistic(units))
    estimates = {
        name: percentile_estimate(float(statistic(observed)), np.concatenate(drawn[name]), share)
        for name, statistic in statistics.items()
    }
    episodes = sum(len(_finite(scores)) for stratum in strata for scores in stratum.runs)
    return Aggregate(
        metric=strata[0].metric,
        tasks=tuple(stratum.task for stratum in strata),
        runs=runs,
        episodes=episodes,
        unit="run" if runs > 1 else "episode",
        mean=estimates["mean"],
        iqm=estimates["iqm"],
        optimality_gap=estimates.get("optimality_gap"),
        resampling=_describe_resampling(strata, share, count),
        never=sum(len(scores) for stratum in strata for scores in stratum.runs) - episodes,
    )


def interquartile_mean(units: Float[np.ndarray, "*rows units"]) -> Float[np.ndarray, "*rows"]:
    """Return the mean of the middle half; a quarter of the units, rounded down, is cut per side."""
    cut = units.shape[-1] // 4
    ordered = np.sort(units, axis=-1)
    return np.asarray(ordered[..., cut : units.shape[-1] - cut].mean(axis=-1))


def percentile_estimate(
    value: float, drawn: Float[np.ndarray, " resamples"], level: float
) -> Estimate:
    """Return a statistic with the percentile interval of its finite resamples."""
    drawn = drawn[np.isfinite(drawn)]
    low, high = np.quantile(drawn, [(1.0 - level) / 2.0, (1.0 + level) / 2.0])
    return Estimate(value=value, low=float(low), high=float(high), level=level)


def _mean(units: np.ndarray) -> np.ndarray:
    return np.asarray(units.mean(axis=-1))


def _units(stratum: Stratum) -> np.ndarray:
    if len(stratum.runs) == 1:
        return _finite(stratum.runs[0])
    return np.array([finite_mean(scores) for scores in stratum.runs])


def _finite(scores: np.ndarray) -> np.ndarray:
    """Return the finite scores."""
    return np.asarray(scores[np.isfinite(scores)])


def _width(stratum: Stratum) -> int:
    return max(len(scores) for scores in stratum.runs)


def _drawn_units(stratum: Stratum, rows: int, rng: np.random.Generator) -> np.ndarray:
    if len(stratum.runs) == 1:
        scores = _finite(stratum.runs[0])
        return np.asarray(scores[draw_indices(rng, rows, len(scores))])
    which = draw_indices(rng, rows, len(stratum.runs))
    return resample_means(stratum.runs, which, rng, shared=stratum.shared)


def _describe_resampling(strata: Sequence[Stratum], level: float, resamples: int) -> str:
    if len(strata[0].runs) == 1:
        units = "episodes"
    elif all(stratum.shared for stratum in strata):
        units = "runs, then episodes by their environment's seed, the same for every run"
    else:
        units = "runs, then episodes of each run"
    separately = ", separately in each task" if len(strata) > 1 else ""
    return f"{level:.0%} percentile bootstrap of {units}{separately}; {resamples} resamples"
