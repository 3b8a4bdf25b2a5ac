"""What two planners differ by, with an interval."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from jaxtyping import Float

from pgdiff.evaluation.aggregates import Estimate, Given, digits_of, estimate
from pgdiff.evaluation.resampling import blocks, drawn_means, draws, means_of_episodes
from pgdiff.evaluation.strata import FIRST_TOUCH, Stratum, mean_of, strata_of
from pgdiff.validation import PgdiffError, check_positive_int, check_range, check_seed


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """The mean of one planner less that of another.

    Attributes:
        metric: "normalized_score", "return", "success", "score_if_stay" or "first_touch".
        difference: of the means, first less second, and its interval.
        tasks: what both were evaluated in.
        runs: of the first and of the second planner, in each task.
        episodes: of each run that went in.
        pairing: what the two had in common and was drawn together, in words.
    """

    metric: str
    difference: Estimate
    tasks: tuple[str, ...]
    runs: tuple[int, int]
    episodes: int
    pairing: str

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON."""
        return {**asdict(self), "tasks": list(self.tasks), "runs": list(self.runs)}

    def __str__(self) -> str:
        digits = digits_of(self.metric)
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
    """Return the mean of `a` less that of `b`, with a bootstrap interval.

    Where both met the same starts (environment seeds), these are drawn together, so that the
    difference is free of the starts' own spread; episodes that one of them lacks are left out.
    Where there are several runs, they are drawn as well: together if both have the same training
    seeds, else each for itself. With one run each, the interval speaks of these trainings alone.

    Args:
        a: an evaluation, its file, or those of several training seeds and tasks.
        b: likewise.
        metric: "normalized_score", "return", "success", "score_if_stay" or "first_touch" (steps
            to the first touch of the goal, paired over the starts from which every run of both has
            one); None for the score where there is one.
        level: of the interval, between 0 and 1.
        resamples: how often is drawn.
        seed: of the draws.

    Raises:
        PgdiffError: as `aggregate` does, or if the two were evaluated in different tasks.
    """
    share = check_range("level", level, low=0.0, high=1.0, open_low=True, open_high=True)
    count = check_positive_int("resamples", resamples)
    rng = np.random.default_rng(check_seed("seed", seed))
    first, second = (strata_of(_listed(given), metric=metric) for given in (a, b))
    if first[0].metric != second[0].metric:
        first, second = (strata_of(_listed(given), metric="return") for given in (a, b))
    by_task = {stratum.task: stratum for stratum in second}
    if set(by_task) != {stratum.task for stratum in first}:
        raise PgdiffError(
            "`a` and `b` must be evaluations of the same tasks. Got "
            f"{sorted(stratum.task for stratum in first)} and {sorted(by_task)}."
        )
    pairs = [_Pair.of(stratum, by_task[stratum.task]) for stratum in first]
    if len({(len(pair.a), len(pair.b)) for pair in pairs}) > 1:
        raise PgdiffError("`a` and `b` must hold as many runs of every task.")
    drawn = []
    for rows in blocks(count, max(pair.width for pair in pairs)):
        drawn.append(np.mean([pair.drawn(rows, rng) for pair in pairs], axis=0))
    return Comparison(
        metric=first[0].metric,
        difference=estimate(
            float(np.mean([pair.observed for pair in pairs])), np.concatenate(drawn), share
        ),
        tasks=tuple(stratum.task for stratum in first),
        runs=(len(pairs[0].a), len(pairs[0].b)),
        episodes=min(
            int(np.isfinite(scores).sum()) for pair in pairs for scores in (*pair.a, *pair.b)
        ),
        pairing=_in_words(pairs, first[0].metric),
    )


@dataclass(frozen=True, eq=False, kw_only=True)
class _Pair:
    """The runs of both in one task, and what is drawn together."""

    a: tuple[Float[np.ndarray, " episodes"], ...]
    b: tuple[Float[np.ndarray, " episodes"], ...]
    same_starts: bool
    same_runs: bool
    shared: tuple[bool, bool]

    @classmethod
    def of(cls, first: Stratum, second: Stratum) -> "_Pair":
        a, b = first.runs, second.runs
        common = _common(first, second)
        if common is not None and first.metric == FIRST_TOUCH:
            common = _arrived(common, first, second)
        if common is not None:
            a, b = (
                tuple(scores[np.isin(seeds[0], common)] for scores in runs)  # type: ignore[arg-type]
                for runs, seeds in ((a, first.seeds), (b, second.seeds))
            )
        known = [seed for seed in first.training_seeds if seed is not None]
        same = sorted(known) == sorted(s for s in second.training_seeds if s is not None)
        same_runs = len(a) > 1 and same and len(set(known)) == len(a) == len(b)
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
        first, second = (np.mean([mean_of(run) for run in runs]) for runs in (self.a, self.b))
        return float(first - second)

    def drawn(self, rows: int, rng: np.random.Generator) -> Float[np.ndarray, " rows"]:
        which_a = draws(rng, rows, len(self.a))
        which_b = which_a if self.same_runs else draws(rng, rows, len(self.b))
        if self.same_starts:
            both = np.stack([*self.a, *self.b])
            means = means_of_episodes(both, draws(rng, rows, both.shape[1]))
            first = np.take_along_axis(means[:, : len(self.a)], which_a, axis=1)
            second = np.take_along_axis(means[:, len(self.a) :], which_b, axis=1)
        else:
            first = drawn_means(self.a, which_a, rng, shared=self.shared[0])
            second = drawn_means(self.b, which_b, rng, shared=self.shared[1])
        return np.asarray(first.mean(axis=1) - second.mean(axis=1))


def _common(first: Stratum, second: Stratum) -> np.ndarray | None:
    """Environment seeds that every run of both met, where each run's own are all alike."""
    if not (first.shared and second.shared):
        return None
    assert first.seeds[0] is not None and second.seeds[0] is not None
    common = np.intersect1d(first.seeds[0], second.seeds[0])
    return common if len(common) else None


def _arrived(common: np.ndarray, first: Stratum, second: Stratum) -> np.ndarray:
    """The common environment seeds from which every run of both touches the goal."""
    missed = [
        seeds[~np.isfinite(scores)]
        for stratum in (first, second)
        for scores, seeds in zip(stratum.runs, stratum.seeds, strict=True)
        if seeds is not None
    ]
    left = np.setdiff1d(common, np.concatenate(missed))
    if len(left) == 0:
        raise PgdiffError(
            f"`metric` must not be '{FIRST_TOUCH}' where `a` and `b` touch the goal from no start "
            f"in common. Got {len(common)} starts in common. Use another metric."
        )
    return left


def _listed(given: Given | Sequence[Given]) -> Sequence[Given]:
    return list(given) if isinstance(given, list | tuple) else [given]  # type: ignore[list-item]


def _in_words(pairs: Sequence[_Pair], metric: str) -> str:
    starts = all(pair.same_starts for pair in pairs)
    words = ["paired by environment seed" if starts else "starts not in common, not paired"]
    if metric == FIRST_TOUCH:
        words.append("of episodes that all arrive" if starts else "of episodes that arrive")
    if max(len(pairs[0].a), len(pairs[0].b)) > 1:
        words.append(
            "training seeds drawn together"
            if all(pair.same_runs for pair in pairs)
            else "training seeds drawn apart"
        )
    return ", ".join(words)
