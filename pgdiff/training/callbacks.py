"""What looks at a training without taking part in it.

Names of metrics are those of Stable-Baselines3's logger where it has one: `train/loss`,
`train/learning_rate`, `train/n_updates`, `time/fps` (updates per second here), `time/iterations`,
`time/time_elapsed`, and `eval/` for what is measured on held-out data or by acting.
"""

import math
import sys
import warnings
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from tqdm import tqdm

from pgdiff.validation import PgdiffError, check_positive_int

if TYPE_CHECKING:
    from pgdiff.training.learner import Learner
    from pgdiff.training.trainer import Trainer


class Callback:
    """Base class; every method may be overridden, and does nothing here.

    The order is `on_start`, then for every step `on_step`, then every `log_every` steps `on_log`
    and every `validate_every` steps `on_validation`, then `on_end`. `close` is always called last,
    after an error too.
    """

    def on_start(self, trainer: "Trainer", learner: "Learner") -> None:
        """Called before the first step, after a checkpoint has been restored."""

    def on_step(self, step: int, metrics: dict[str, float]) -> None:
        """Called after step number `step` (from 1) with that step's own losses."""

    def on_log(self, step: int, metrics: dict[str, float]) -> None:
        """Called with what is logged: means since the last time, validation, and `Trainer.log`."""

    def on_validation(self, step: int, metrics: dict[str, float]) -> None:
        """Called with the averaged weights' losses on held-out episodes."""

    def on_end(self, trainer: "Trainer", learner: "Learner") -> None:
        """Called when training is done and the learner holds the averaged weights."""

    def close(self) -> None:
        """Release files and the like; called after success and after an error."""


class ProgressBar(Callback):
    """A progress bar with the last losses."""

    def __init__(self) -> None:
        self._bar: Any = None

    def on_start(self, trainer: "Trainer", learner: "Learner") -> None:
        """Open the bar at the step that training starts from."""
        self._bar = tqdm(
            total=trainer.steps,
            initial=trainer.step,
            desc=type(learner).__name__,
            unit="step",
            dynamic_ncols=True,
            mininterval=0.5 if sys.stderr.isatty() else 15.0,  # a log file wants few lines
        )

    def on_step(self, step: int, metrics: dict[str, float]) -> None:
        """Move on by one."""
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
    """Measures the averaged weights from time to time, by a function of one's own.

    What it returns is logged with the record of that step, and `Trainer(best=...)` may go by it.
    Only what follows from learner and step is the same after a resumption.

    Args:
        evaluate: gets the learner with averaged weights, in evaluation mode, and the step;
            returns numbers by name, such as "eval/mean_reward". It changes no weight.
        every: steps between two evaluations; the last step has one as well.

    Raises:
        PgdiffError: `every` is no positive integer, or a metric is no number.
    """

    def __init__(
        self, evaluate: Callable[["Learner", int], Mapping[str, float]], *, every: int
    ) -> None:
        self.evaluate = evaluate
        self.every = check_positive_int("every", every)
        self._trainer: Trainer | None = None

    def on_start(self, trainer: "Trainer", learner: "Learner") -> None:
        """Remember whose averaged weights to take."""
        self._trainer = trainer

    def on_step(self, step: int, metrics: dict[str, float]) -> None:
        """Evaluate, if it is time to."""
        assert self._trainer is not None
        if step % self.every and step != self._trainer.steps:
            return
        found = {}
        for name, value in self.evaluate(self._trainer.averaged, step).items():
            if isinstance(value, str) or not hasattr(value, "__float__"):
                raise PgdiffError(f"The metric '{name}' must be a number. Got {value!r}.")
            if math.isfinite(float(value)):
                found[name] = float(value)
            else:
                warnings.warn(
                    f"The metric '{name}' is {float(value)} at step {step} and is left out.",
                    UserWarning,
                    stacklevel=2,
                )
        self._trainer.log(found)
