"""Evaluations by task, and in each task by run."""

import os
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from pgdiff.evaluation.files import load_evaluation
from pgdiff.evaluation.results import Evaluation
from pgdiff.validation import PgdiffError, check_in

FIRST_TOUCH = "first_touch"
METRICS = {
    "normalized_score": "normalized_scores",
    "return": "returns",
    "success": "successes",
    "score_if_stay": "scores_if_stay",
    FIRST_TOUCH: "first_touch",
}
"""Metric: the field of an evaluation that holds it. A first touch is NaN where there was none."""
_MAY_DIFFER = frozenset(
    ("agent", "run", "training_seed", "run_version", "device", "episodes", "seed", "parallel")
)
"""Settings in which runs of one planner may differ: training, machine, and which episodes."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Stratum:
    """The runs of one task.

    Attributes:
        task: the environment.
        metric: one of `METRICS`.
        runs: the metric of each run's episodes.
        seeds: of the environment, for each run's episodes; None where a run does not tell.
        training_seeds: of each run; None where it does not tell.
    """

    task: str
    metric: str
    runs: tuple[Float[np.ndarray, " episodes"], ...]
    seeds: tuple[Int[np.ndarray, " episodes"] | None, ...]
    training_seeds: tuple[int | None, ...]

    @property
    def shared(self) -> bool:
        """Whether all runs met the same starts, in one order."""
        first = self.seeds[0]
        return first is not None and all(
            seeds is not None and np.array_equal(first, seeds) for seeds in self.seeds
        )


def strata_of(
    evaluations: Sequence[Evaluation | str | os.PathLike[str]], *, metric: str | None = None
) -> list[Stratum]:
    """Group evaluations by environment, in order of first appearance.

    Args:
        evaluations: the evaluations, or their files.
        metric: one of `METRICS`; None for the normalised score where all have it, else the return.

    Raises:
        PgdiffError: none at all, one run twice, different planners in a task, or no such metric.
    """
    if isinstance(evaluations, Evaluation | str | os.PathLike):
        evaluations = [evaluations]
    found = [e if isinstance(e, Evaluation) else load_evaluation(e) for e in evaluations]
    if not found:
        raise PgdiffError("`evaluations` must hold at least one evaluation. Got none.")
    if metric is None:
        scored = all(evaluation.normalized_scores is not None for evaluation in found)
        metric = "normalized_score" if scored else "return"
    field = METRICS[check_in("metric", metric, METRICS)]
    tasks: dict[str, list[Evaluation]] = {}
    if metric == FIRST_TOUCH:
        _check_touches(found)
    for number, evaluation in enumerate(found):
        if getattr(evaluation, field) is None:
            raise PgdiffError(
                f"`metric` must be one that every evaluation has. Got '{metric}', which evaluation "
                f"{number} of '{evaluation.settings.get('env')}' has not."
            )
        tasks.setdefault(str(evaluation.settings.get("env")), []).append(evaluation)
    for task, of_task in tasks.items():
        _check_one_planner(task, of_task)
    return [
        Stratum(
            task=task,
            metric=metric,
            runs=tuple(np.asarray(getattr(e, field), dtype=np.float64) for e in of_task),
            seeds=tuple(e.environment_seeds for e in of_task),
            training_seeds=tuple(e.settings.get("training_seed") for e in of_task),
        )
        for task, of_task in tasks.items()
    ]


def further_metrics(evaluations: Sequence[Evaluation]) -> list[str]:
    """Return the metrics that are shown beside the score, where every evaluation has them."""
    found = []
    if all(evaluation.scores_if_stay is not None for evaluation in evaluations):
        found.append("score_if_stay")
    tasks = {evaluation.settings.get("env") for evaluation in evaluations}
    if len(tasks) == 1 and all(map(_arrives, evaluations)):
        found.append(FIRST_TOUCH)
    return found


def mean_of(scores: Float[np.ndarray, " episodes"]) -> float:
    """Return the mean of the episodes that have a value."""
    return float(scores[np.isfinite(scores)].mean())


def _arrives(evaluation: Evaluation) -> bool:
    touches = evaluation.first_touch
    return touches is not None and bool(np.isfinite(touches).any())


def _check_touches(evaluations: Sequence[Evaluation]) -> None:
    """Steps to a goal have a mean where there is an arrival, and one unit in one task alone."""
    tasks = sorted({str(evaluation.settings.get("env")) for evaluation in evaluations})
    if len(tasks) > 1:
        raise PgdiffError(
            f"`metric` must not be '{FIRST_TOUCH}' for several tasks, whose steps are not alike. "
            f"Got {tasks}. Give the evaluations of one task."
        )
    for number, evaluation in enumerate(evaluations):
        if evaluation.first_touch is not None and not _arrives(evaluation):
            raise PgdiffError(
                f"`metric` must not be '{FIRST_TOUCH}' where a run never touches the goal. Got "
                f"evaluation {number} of '{tasks[0]}' with no arrival. Use another metric."
            )


def _check_one_planner(task: str, evaluations: Sequence[Evaluation]) -> None:
    """Runs of a task are to differ in their training alone."""
    first = evaluations[0].settings
    seen = set()
    for evaluation in evaluations:
        run = evaluation.settings.get("run")
        if run is not None and run in seen:
            raise PgdiffError(f"`evaluations` must hold each run once. Got '{run}' again.")
        seen.add(run)
        for key in sorted((first.keys() | evaluation.settings.keys()) - _MAY_DIFFER):
            if evaluation.settings.get(key) != first.get(key):
                raise PgdiffError(
                    f"`evaluations` of '{task}' must be of one planner, trained from several "
                    f"seeds. Got `{key}` {first.get(key)!r} and {evaluation.settings.get(key)!r}; "
                    "`compare` tells what two planners differ by."
                )
