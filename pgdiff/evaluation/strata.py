"""Grouping of evaluations by task and run."""

import os
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from pgdiff.core.validation import PgdiffError, check_in
from pgdiff.evaluation.results import Evaluation
from pgdiff.evaluation.results_io import load_evaluation

FIRST_TOUCH = "first_touch"
METRICS = {
    "normalized_score": "normalized_scores",
    "return": "returns",
    "success": "successes",
    "score_if_stay": "scores_if_stay",
    FIRST_TOUCH: "first_touch",
}
"""Maps a metric to its field of an evaluation. A first touch is NaN for episodes without one."""
_MAY_DIFFER = frozenset(
    ("agent", "run", "training_seed", "run_version", "device", "episodes", "seed", "parallel")
)
"""Settings in which runs of one planner may differ: training, machine, and episodes."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Stratum:
    """The runs of one task.

    Attributes:
        task: the environment.
        metric: one of `METRICS`.
        runs: the metric of each run's episodes.
        seeds: environment seeds of each run's episodes; None if unknown.
        training_seeds: training seed of each run; None if unknown.
    """

    task: str
    metric: str
    runs: tuple[Float[np.ndarray, " episodes"], ...]
    seeds: tuple[Int[np.ndarray, " episodes"] | None, ...]
    training_seeds: tuple[int | None, ...]

    @property
    def shared(self) -> bool:
        """True if all runs have the same environment seeds in the same order."""
        first = self.seeds[0]
        return first is not None and all(
            seeds is not None and np.array_equal(first, seeds) for seeds in self.seeds
        )


def group_by_task(
    evaluations: Sequence[Evaluation | str | os.PathLike[str]], *, metric: str | None = None
) -> list[Stratum]:
    """Group evaluations by environment, in order of first appearance.

    Args:
        evaluations: the evaluations, or their files.
        metric: one of `METRICS`; None for the normalised score if all have it, else the return.

    Raises:
        PgdiffError: if `evaluations` is empty, holds a run twice or different planners for a task,
            or an evaluation does not have the metric.
    """
    if isinstance(evaluations, Evaluation | str | os.PathLike):
        evaluations = [evaluations]
    loaded = [e if isinstance(e, Evaluation) else load_evaluation(e) for e in evaluations]
    if not loaded:
        raise PgdiffError("`evaluations` must hold at least one evaluation. Got none.")
    if metric is None:
        scored = all(evaluation.normalized_scores is not None for evaluation in loaded)
        metric = "normalized_score" if scored else "return"
    field = METRICS[check_in("metric", metric, METRICS)]
    tasks: dict[str, list[Evaluation]] = {}
    if metric == FIRST_TOUCH:
        _check_touches(loaded)
    for number, evaluation in enumerate(loaded):
        if getattr(evaluation, field) is None:
            raise PgdiffError(
                f"`metric` must be one that every evaluation has. Got '{metric}', which is missing "
                f"in evaluation {number} of '{evaluation.settings.get('env')}'. Use another metric."
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


def extra_metrics(evaluations: Sequence[Evaluation]) -> list[str]:
    """Return the metrics besides the score that every evaluation has."""
    metrics = []
    if all(evaluation.scores_if_stay is not None for evaluation in evaluations):
        metrics.append("score_if_stay")
    tasks = {evaluation.settings.get("env") for evaluation in evaluations}
    if len(tasks) == 1 and all(map(_arrives, evaluations)):
        metrics.append(FIRST_TOUCH)
    return metrics


def finite_mean(scores: Float[np.ndarray, " episodes"]) -> float:
    """Return the mean of the finite scores."""
    return float(scores[np.isfinite(scores)].mean())


def _arrives(evaluation: Evaluation) -> bool:
    touches = evaluation.first_touch
    return touches is not None and bool(np.isfinite(touches).any())


def _check_touches(evaluations: Sequence[Evaluation]) -> None:
    """Raise unless there is a single task and every run has an episode that touches the goal."""
    tasks = sorted({str(evaluation.settings.get("env")) for evaluation in evaluations})
    if len(tasks) > 1:
        raise PgdiffError(
            f"`metric` can be '{FIRST_TOUCH}' only for a single task, because steps of different "
            f"tasks are not comparable. Got {tasks}. Pass the evaluations of one task."
        )
    for number, evaluation in enumerate(evaluations):
        if evaluation.first_touch is not None and not _arrives(evaluation):
            raise PgdiffError(
                f"`metric` can be '{FIRST_TOUCH}' only if every run touches the goal in some "
                f"episode. Got evaluation {number} of '{tasks[0]}' without one. Use another metric."
            )


def _check_one_planner(task: str, evaluations: Sequence[Evaluation]) -> None:
    """Raise if the runs of a task differ in more than their training."""
    first = evaluations[0].settings
    seen = set()
    for evaluation in evaluations:
        run = evaluation.settings.get("run")
        if run is not None and run in seen:
            raise PgdiffError(
                f"`evaluations` must hold each run once. Got '{run}' twice. Leave one out."
            )
        seen.add(run)
        for key in sorted((first.keys() | evaluation.settings.keys()) - _MAY_DIFFER):
            if evaluation.settings.get(key) != first.get(key):
                raise PgdiffError(
                    f"`evaluations` of '{task}' must all come from one planner, trained with "
                    f"several seeds. Got `{key}` {first.get(key)!r} and "
                    f"{evaluation.settings.get(key)!r}. Use `compare` for two planners."
                )
