"""Callbacks that observe a training run.

Metrics use the names of Stable-Baselines3's logger where one exists: `train/loss`,
`train/learning_rate`, `train/n_updates`, `time/fps` (updates per second), `time/iterations` and
`time/time_elapsed`. Metrics of held-out data or of evaluation episodes begin with `eval/`.
"""

import math
import sys
import warnings
from collections.abc import Callable, Mapping
from typing import Any, Protocol

from tqdm import tqdm

from pgdiff.core.validation import PgdiffError, check_positive_int
from pgdiff.training.learner import Learner


class TrainingView(Protocol):
    """Part of the `Trainer` interface that callbacks may use.

    Example:
        >>> from pgdiff.training import Callback
        >>> class StepMarker(Callback):
        ...     def on_start(self, trainer, learner):
        ...         self.trainer = trainer  # a TrainingView
        ...     def on_step(self, step, metrics):
        ...         self.trainer.log({"custom/half_done": step / self.trainer.steps})
    """

    steps: int
    checkpoint_every: int | None
    keep: int

    @property
    def step(self) -> int:
        """Number of completed steps."""

    @property
    def averaged(self) -> Learner:
        """Learner with averaged weights, in evaluation mode."""

    def log(self, metrics: dict[str, float]) -> None:
        """Add metrics to the record of the current step."""


class Callback:
    """Base class of callbacks; every method may be overridden and does nothing by default.

    The order of calls is `on_start`; then `on_step` at every step, `on_validation` every
    `validate_every` steps and `on_log` every `log_every` steps; then `on_end`. `close` is always
    called last, also after an error.

    Example:
        >>> from pgdiff.training import Callback
        >>> class PrintLoss(Callback):
        ...     def on_log(self, step, metrics):
        ...         print(f"step {step}: {metrics['train/loss']:.3f}")
        >>> PrintLoss().on_log(100, {"train/loss": 0.25})
        step 100: 0.250
    """

    def on_start(self, trainer: TrainingView, learner: Learner) -> None:
        """Run before the first step, after a checkpoint has been restored."""

    def on_step(self, step: int, metrics: dict[str, float]) -> None:
        """Run after step number `step` (from 1) with the losses of this step."""

    def on_log(self, step: int, metrics: dict[str, float]) -> None:
        """Run with a new record: means since the last record, validation, and `Trainer.log`."""

    def on_validation(self, step: int, metrics: dict[str, float]) -> None:
        """Run with the losses of the averaged weights on held-out episodes."""

    def on_end(self, trainer: TrainingView, learner: Learner) -> None:
        """Run after the last step, when the learner holds the averaged weights."""

    def close(self) -> None:
        """Release files and other resources; called after success and after an error."""


class ProgressBar(Callback):
    """Progress bar with the latest losses.

    The `Trainer` adds it by itself unless `progress=False`.

    Example:
        >>> from pgdiff.training import ProgressBar, Trainer
        >>> trainer = Trainer(steps=100, progress=False, callbacks=[ProgressBar()])
    """

    def __init__(self) -> None:
        self._bar: Any = None

    def on_start(self, trainer: TrainingView, learner: Learner) -> None:
        """Open the bar at the first step of this run."""
        self._bar = tqdm(
            total=trainer.steps,
            initial=trainer.step,
            desc=type(learner).__name__,
            unit="step",
            dynamic_ncols=True,
            mininterval=0.5 if sys.stderr.isatty() else 15.0,  # few lines in a log file
        )

    def on_step(self, step: int, metrics: dict[str, float]) -> None:
        """Advance by one step."""
        self._bar.update(1)

    def on_log(self, step: int, metrics: dict[str, float]) -> None:
        """Show the losses."""
        shown = {
            label: f"{metrics[key]:.4g}"
            for key, label in (("train/loss", "loss"), ("eval/loss", "held-out"))
            if key in metrics
        }
        if shown:
            self._bar.set_postfix(shown, refresh=False)

    def close(self) -> None:
        """Close the bar."""
        if self._bar is not None:
            self._bar.close()


class EvaluationCallback(Callback):
    """Evaluation of the averaged weights by a user function every few steps.

    The returned metrics are logged with the record of the step and can select the best weights
    (`Trainer(best=...)`). A resumed run reproduces them only if they depend on nothing but the
    learner and the step.

    Args:
        evaluate: called with the learner (averaged weights, evaluation mode) and the step; returns
            numbers by name, e.g. "eval/mean_reward". It must not change any weight.
        every: steps between two evaluations; the last step is always evaluated.

    Raises:
        PgdiffError: `every` is not a positive integer, or a metric is not a number.

    Example:
        >>> from pgdiff.training import EvaluationCallback, Trainer
        >>> def evaluate(learner, step):
        ...     return {"eval/parameters": sum(p.numel() for p in learner.parameters())}
        >>> trainer = Trainer(steps=100, callbacks=[EvaluationCallback(evaluate, every=50)])
    """

    def __init__(
        self, evaluate: Callable[[Learner, int], Mapping[str, float]], *, every: int
    ) -> None:
        self.evaluate = evaluate
        self.every = check_positive_int("every", every)
        self._trainer: TrainingView | None = None

    def on_start(self, trainer: TrainingView, learner: Learner) -> None:
        """Store the trainer, which holds the averaged weights."""
        self._trainer = trainer

    def on_step(self, step: int, metrics: dict[str, float]) -> None:
        """Evaluate every `every` steps and at the last step."""
        assert self._trainer is not None
        if step % self.every and step != self._trainer.steps:
            return
        finite = {}
        for name, value in self.evaluate(self._trainer.averaged, step).items():
            if isinstance(value, str) or not hasattr(value, "__float__"):
                raise PgdiffError(f"The metric '{name}' must be a float. Got {value!r}.")
            if math.isfinite(float(value)):
                finite[name] = float(value)
            else:
                warnings.warn(
                    f"The metric '{name}' is {float(value)} at step {step} and is not logged.",
                    UserWarning,
                    stacklevel=2,
                )
        self._trainer.log(finite)
