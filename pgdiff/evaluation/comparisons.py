"""Comparison of two planners, with a bootstrap interval."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from jaxtyping import Float

from pgdiff.core.validation import PgdiffError, check_positive_int, check_range, check_seed
from pgdiff.evaluation.aggregates import Estimate, Given, metric_digits, percentile_estimate
from pgdiff.evaluation.bootstrap import (
    block_sizes,
    draw_indices,
    means_over_episodes,
    resample_means,
)
from pgdiff.evaluation.strata import FIRST_TOUCH, Stratum, finite_mean, group_by_task


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """The difference between the means of two planners, as `compare` returns it.

    Attributes:
        metric: "normalized_score", "return", "success", "score_if_stay" or "first_touch".
        difference: mean of the first planner minus the mean of the second, and its interval.
        tasks: tasks that both planners were evaluated in.
        runs: number of runs of the first and of the second planner in each task.
        episodes: number of compared episodes of each run.
        pairing: description of the parts that were resampled together.

    Example:
        >>> import gymnasium as gym
        >>> from types import SimpleNamespace
        >>> from pgdiff.evaluation import compare, evaluate
        >>> idle = SimpleNamespace(predict=lambda obs, state, **_: (np.zeros(len(obs), int), state))
        >>> make_env = lambda: gym.make("CartPole-v1")
        >>> result = evaluate(idle, make_env, episodes=5, progress=False)
        >>> print(compare(result, result))
        +0.0 [+0.0, +0.0] (5 episodes a run, paired by environment seed)
    """

    metric: str
    difference: Estimate
    tasks: tuple[str, ...]
    runs: tuple[int, int]
    episodes: int
    pairing: str

    def to_dict(self) -> dict[str, Any]:
        """Return all fields as JSON values."""
        return {**asdict(self), "tasks": list(self.tasks), "runs": list(self.runs)}

    def __str__(self) -> str:
        digits = metric_digits(self.metric)
        difference = self.difference.text(digits=digits, sign="+")
        return f"{difference} ({self.episodes} episodes a run, {self.pairing})"


def compare(
    a: Given | Sequence[Given],
    b: Given | Sequence[Given],
    *,
    metric: str | None = None,
    level: float = 0.95,
    resamples: int = 10_000,
    seed: int = 0,
) -> Comparison:
    """Return the mean of `a` minus the mean of `b`, with a bootstrap interval.

    Episodes with the same environment seed are resampled together, which removes the variation
    between initial states from the difference; episodes that only one planner has are left out.
    Several runs are resampled as well: together if both planners have the same training seeds, else
    separately. With one run each, the interval does not include the variation between trainings.

    Args:
        a: an evaluation, its file, or a sequence of evaluations of several training seeds and
            tasks.
        b: the evaluations of the other planner, in the same form.
        metric: "normalized_score", "return", "success", "score_if_stay" or "first_touch" (steps
            to the first touch of the goal, paired over the seeds for which every run of both has
            one). None selects the score if all evaluations have it, else the return.
        level: nominal coverage of the interval, between 0 and 1; larger values widen it.
        resamples: number of bootstrap resamples.
        seed: seed of the bootstrap.

    Raises:
        PgdiffError: as `aggregate`, or if the two were evaluated in different tasks.

    Example:
        >>> import gymnasium as gym
        >>> from types import SimpleNamespace
        >>> from pgdiff.evaluation import compare, evaluate
        >>> idle = SimpleNamespace(predict=lambda obs, state, **_: (np.zeros(len(obs), int), state))
        >>> make_env = lambda: gym.make("CartPole-v1")
        >>> result = evaluate(idle, make_env, episodes=5, progress=False)
        >>> compare(result, result, metric="return").difference.value
        0.0
    """
    share = check_range("level", level, low=0.0, high=1.0, open_low=True, open_high=True)
    count = check_positive_int("resamples", resamples)
    rng = np.random.default_rng(check_seed("seed", seed))
    first, second = (group_by_task(_as_list(given), metric=metric) for given in (a, b))
    if first[0].metric != second[0].metric:
        first, second = (group_by_task(_as_list(given), metric="return") for given in (a, b))
    by_task = {stratum.task: stratum for stratum in second}
    if set(by_task) != {stratum.task for stratum in first}:
        raise PgdiffError(
            "`a` and `b` must be evaluations of the same tasks. Got "
            f"{sorted(stratum.task for stratum in first)} and {sorted(by_task)}. Leave out the "
            "tasks that only one of them has."
        )
    pairs = [_Pair.of(stratum, by_task[stratum.task]) for stratum in first]
    if len({(len(pair.a), len(pair.b)) for pair in pairs}) > 1:
        counts = {
            stratum.task: [len(pair.a), len(pair.b)]
            for stratum, pair in zip(first, pairs, strict=True)
        }
        raise PgdiffError(
            f"`a` and `b` must hold the same number of runs for every task. Got {counts}. Evaluate "
            "the missing runs, or leave out the extra ones."
        )
    drawn = []
    for rows in block_sizes(count, max(pair.width for pair in pairs)):
        drawn.append(np.mean([pair.drawn(rows, rng) for pair in pairs], axis=0))
    return Comparison(
        metric=first[0].metric,
        difference=percentile_estimate(
            float(np.mean([pair.observed for pair in pairs])), np.concatenate(drawn), share
        ),
        tasks=tuple(stratum.task for stratum in first),
        runs=(len(pairs[0].a), len(pairs[0].b)),
        episodes=min(
            int(np.isfinite(scores).sum()) for pair in pairs for scores in (*pair.a, *pair.b)
        ),
        pairing=_describe_pairing(pairs, first[0].metric),
    )


@dataclass(frozen=True, eq=False, kw_only=True)
class _Pair:
    """The runs of both planners in one task, and the parts that are resampled together."""

    a: tuple[Float[np.ndarray, " episodes"], ...]
    b: tuple[Float[np.ndarray, " episodes"], ...]
    same_starts: bool
    same_runs: bool
    shared: tuple[bool, bool]

    @classmethod
    def of(cls, first: Stratum, second: Stratum) -> "_Pair":
        a, b = first.runs, second.runs
        common = _common_seeds(first, second)
        if common is not None and first.metric == FIRST_TOUCH:
            common = _arriving_seeds(common, first, second)
        if common is not None:
            a, b = (
                tuple(scores[np.isin(seeds[0], common)] for scores in runs)  # type: ignore[arg-type]
                for runs, seeds in ((a, first.seeds), (b, second.seeds))
            )
        stated = [seed for seed in first.training_seeds if seed is not None]
        same = sorted(stated) == sorted(s for s in second.training_seeds if s is not None)
        same_runs = len(a) > 1 and same and len(set(stated)) == len(a) == len(b)
        if same_runs:
            order = [second.training_seeds.index(seed) for seed in first.training_seeds]
            b = tuple(b[number] for number in order)
        shared = (first.shared, second.shared)
        return cls(a=a, b=b, same_starts=common is not None, same_runs=same_runs, shared=shared)

    @property
    def width(self) -> int:
        return max(len(scores) for scores in (*self.a, *self.b))

    @property
    def observed(self) -> float:
        first, second = (np.mean([finite_mean(run) for run in runs]) for runs in (self.a, self.b))
        return float(first - second)

    def drawn(self, rows: int, rng: np.random.Generator) -> Float[np.ndarray, " rows"]:
        which_a = draw_indices(rng, rows, len(self.a))
        which_b = which_a if self.same_runs else draw_indices(rng, rows, len(self.b))
        if self.same_starts:
            both = np.stack([*self.a, *self.b])
            means = means_over_episodes(both, draw_indices(rng, rows, both.shape[1]))
            first = np.take_along_axis(means[:, : len(self.a)], which_a, axis=1)
            second = np.take_along_axis(means[:, len(self.a) :], which_b, axis=1)
        else:
            first = resample_means(self.a, which_a, rng, shared=self.shared[0])
            second = resample_means(self.b, which_b, rng, shared=self.shared[1])
        return np.asarray(first.mean(axis=1) - second.mean(axis=1))


def _common_seeds(first: Stratum, second: Stratum) -> np.ndarray | None:
    """Return the environment seeds that both planners share; None if their runs' seeds differ."""
    if not (first.shared and second.shared):
        return None
    assert first.seeds[0] is not None and second.seeds[0] is not None
    common = np.intersect1d(first.seeds[0], second.seeds[0])
    return common if len(common) else None


def _arriving_seeds(common: np.ndarray, first: Stratum, second: Stratum) -> np.ndarray:
    """Return the common environment seeds for which every run of both touches the goal."""
    missed = [
        seeds[~np.isfinite(scores)]
        for stratum in (first, second)
        for scores, seeds in zip(stratum.runs, stratum.seeds, strict=True)
        if seeds is not None
    ]
    left = np.setdiff1d(common, np.concatenate(missed))
    if len(left) == 0:
        raise PgdiffError(
            f"`metric` can be '{FIRST_TOUCH}' only if `a` and `b` both touch the goal for at least "
            f"one common environment seed. Got none of {len(common)}. Use another metric."
        )
    return left


def _as_list(given: Given | Sequence[Given]) -> Sequence[Given]:
    return list(given) if isinstance(given, list | tuple) else [given]  # type: ignore[list-item]


def _describe_pairing(pairs: Sequence[_Pair], metric: str) -> str:
    starts = all(pair.same_starts for pair in pairs)
    words = ["paired by environment seed" if starts else "no common environment seeds, not paired"]
    if metric == FIRST_TOUCH:
        words.append("of episodes that all arrive" if starts else "of episodes that arrive")
    if max(len(pairs[0].a), len(pairs[0].b)) > 1:
        words.append(
            "training seeds resampled together"
            if all(pair.same_runs for pair in pairs)
            else "training seeds resampled separately"
        )
    return ", ".join(words)
