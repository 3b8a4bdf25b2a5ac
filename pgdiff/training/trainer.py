"""Training loop of all learners."""

import importlib.util
import logging
import os
import signal
import time
import warnings
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import nn

from pgdiff.core.serialization import resolve_device
from pgdiff.core.threads import check_threads, on_own_threads
from pgdiff.core.validation import (
    PgdiffError,
    check_in,
    check_positive_int,
    check_range,
    check_seed,
)
from pgdiff.training.batches import StepBatches, open_batches
from pgdiff.training.best_checkpoint import SIGN, Best
from pgdiff.training.callbacks import Callback, ProgressBar
from pgdiff.training.checkpoint import (
    TrainingState,
    list_checkpoints,
    prune,
    restore_checkpoint,
    save_checkpoint,
)
from pgdiff.training.compilation import compile_errors, compile_learner
from pgdiff.training.divergence import check_finite_state, check_held_out, diverged
from pgdiff.training.ema import AveragedLearner
from pgdiff.training.fingerprints import batch_fingerprint, data_fingerprint, learner_settings
from pgdiff.training.learner import AnyLearner, BatchSource, Learner, as_module, to_tensors
from pgdiff.training.learning_rate import TRAIN, learning_rate_at, seed_global, torch_seed
from pgdiff.training.loggers import MetricsFile, TensorBoard
from pgdiff.training.optimizer_step import NonFiniteUpdate, update
from pgdiff.training.signals import StopSignals, TrainingInterrupted
from pgdiff.training.usage import unused_episodes
from pgdiff.training.validation_loss import held_out_losses, split_sources

if TYPE_CHECKING:
    from pgdiff.data import Episodes

_LOG = logging.getLogger(__name__)

ON_NAN = ("stop", "skip")
HALF = (torch.float16, torch.bfloat16)


class Trainer:
    """Training loop for any `Learner`: AdamW, warm-up, cosine decay, clipping, averaged weights.

    All randomness follows from `seed` and the step. An interrupted and resumed run therefore ends
    with bit-identical weights on the same machine and build.

    SIGTERM or the first Ctrl-C in the main thread finishes the step, writes a checkpoint if
    `folder` is set, and raises `TrainingInterrupted`; a second signal has its usual effect. On a
    full disk, a checkpoint that cannot be written raises an error and leaves the earlier ones
    intact; metrics that cannot be written warn.

    Args:
        steps: number of updates.
        batch_size: examples per update, drawn with replacement; may exceed the size of the data.
        learning_rate: peak learning rate, after a linear warm-up; it decays to 0 along a cosine.
        warmup: updates of warm-up; limited to a tenth of `steps`.
        weight_decay: AdamW's decoupled weight decay; larger values shrink the weights more.
        ema_decay: limit of the decay of the averaged weights, in [0, 1). Larger values average over
            more steps; 0 disables averaging.
        clip_norm: largest norm of the gradient; None disables clipping.
        validation: share of the episodes that is held out, in [0, 1); 0 disables validation.
        validate_every: steps between two evaluations of the averaged weights on held-out episodes.
        log_every: steps between two records of the mean losses.
        checkpoint_every: steps between two checkpoints; the last step is always saved. None writes
            no checkpoints.
        keep: number of checkpoints to keep; older ones are removed.
        best: name of a logged metric, for example "eval/loss" or a metric of an
            `EvaluationCallback`. The averaged weights of its best record are kept in `folder`/best,
            independently of `keep`.
        mode: "min" or "max", the direction in which the metric of `best` improves.
        use_best: let `fit` return the best weights instead of the last ones, also when a finished
            run is resumed.
        on_nan: reaction to a loss or gradient that is not finite: "stop" raises an error with step
            and cause; "skip" skips the update and counts it in `train/skipped`. Non-finite weights
            always stop the training.
        max_skips: largest number of consecutive skipped updates; one more stops the training.
        folder: folder of `metrics.jsonl`, TensorBoard's files and `checkpoints/`; None writes
            nothing.
        workers: processes that gather batches ahead; the result does not depend on it. Useful for
            large batches of a small network and for recordings larger than memory. For maze
            recordings gathering takes less than 1 % of a step, and 0 is the right value.
            Memory-mapped data are not copied. The processes start by Python's `multiprocessing`;
            with "spawn" or "forkserver" a script needs `if __name__ == "__main__":`.
        threads: number of PyTorch threads during `fit`; the last bits of the result depend on it.
            None keeps the present number.
        compile: compile the networks of the learner (`compile_parts`).
        device: "auto" or a PyTorch device.
        seed: seed of batches and noise; it does not affect the learner's initial weights.
        progress: show a progress bar.
        callbacks: further `Callback` objects.
        resume: continue from the newest intact checkpoint in `folder`, or from step 0 if none
            exists.

    Attributes:
        history: the logged records, each with its "step".
        step: number of completed updates.

    Raises:
        PgdiffError: a setting is out of range.

    Example:
        >>> import pgdiff
        >>> from pgdiff.testing import example_episodes
        >>> episodes = example_episodes()
        >>> inverse = pgdiff.InverseDynamics.from_episodes(episodes, stride=1)
        >>> trainer = pgdiff.Trainer(steps=2, validation=0, progress=False)
        >>> inverse = trainer.fit(inverse, episodes)
        >>> trainer.step
        2
    """

    def __init__(
        self,
        *,
        steps: int,
        batch_size: int = 64,
        learning_rate: float = 3e-4,
        warmup: int = 500,
        weight_decay: float = 0.0,
        ema_decay: float = 0.999,
        clip_norm: float | None = 1.0,
        validation: float = 0.05,
        validate_every: int = 1000,
        log_every: int = 100,
        checkpoint_every: int | None = None,
        keep: int = 2,
        best: str | None = None,
        mode: str = "min",
        use_best: bool = False,
        on_nan: str = "stop",
        max_skips: int = 10,
        workers: int = 0,
        folder: str | os.PathLike[str] | None = None,
        threads: int | None = None,
        compile: bool = False,
        device: str | torch.device = "auto",
        seed: int = 0,
        progress: bool = True,
        callbacks: Sequence[Callback] = (),
        resume: bool = False,
    ) -> None:
        self.steps = check_positive_int("steps", steps)
        self.batch_size = check_positive_int("batch_size", batch_size)
        self.learning_rate = check_range("learning_rate", learning_rate, low=0.0, open_low=True)
        self.warmup = min(check_positive_int("warmup", warmup, minimum=0), self.steps // 10)
        self.weight_decay = check_range("weight_decay", weight_decay, low=0.0)
        self.ema_decay = check_range("ema_decay", ema_decay, low=0.0, high=1.0, open_high=True)
        self.clip_norm = (
            None if clip_norm is None else check_range("clip_norm", clip_norm, low=0, open_low=True)
        )
        self.validation = check_range("validation", validation, low=0.0, high=1.0, open_high=True)
        self.validate_every = check_positive_int("validate_every", validate_every)
        self.log_every = check_positive_int("log_every", log_every)
        self.checkpoint_every = (
            None
            if checkpoint_every is None
            else check_positive_int("checkpoint_every", checkpoint_every)
        )
        self.keep = check_positive_int("keep", keep)
        self.best = self._check_best(best, use_best, folder)
        self.mode = check_in("mode", mode, SIGN)
        self.use_best = use_best
        self.on_nan = check_in("on_nan", on_nan, ON_NAN)
        self.max_skips = check_positive_int("max_skips", max_skips, minimum=0)
        self.workers = check_positive_int("workers", workers, minimum=0)
        self.threads = check_threads(threads)
        self.folder = None if folder is None else Path(folder)
        self.compile = compile
        self.device = resolve_device(device)
        self.seed = check_seed("seed", seed)
        self.progress = progress
        self.resume = resume
        for callback in callbacks:
            if not isinstance(callback, Callback):
                raise PgdiffError(
                    f"`callbacks` must be a sequence of Callback objects. Got {callback!r}."
                )
        self.callbacks = tuple(callbacks)
        if self.folder is None and (resume or checkpoint_every is not None):
            raise PgdiffError("`folder` must be set for `checkpoint_every` and `resume`. Got None.")
        self.history: list[dict[str, float]] = []
        self._state: TrainingState | None = None
        self._running: list[Callback] = []
        self._pending: dict[str, float] = {}
        self._best: Best | None = None

    def _check_best(self, best: str | None, use_best: bool, folder: Any) -> str | None:
        if best is None:
            if use_best:
                raise PgdiffError("`best` must be a metric if `use_best` is set. Got None.")
            return None
        if not isinstance(best, str) or not best:
            raise PgdiffError(f"`best` must be the name of a logged metric. Got {best!r}.")
        if best.startswith("eval/") and best.endswith("loss") and self.validation == 0:
            raise PgdiffError(f"`validation` must be above 0 for `best='{best}'`. Got 0.")
        if folder is None:
            raise PgdiffError("`folder` must be set for `best`. Got None.")
        return best

    @property
    def step(self) -> int:
        """Number of completed updates."""
        return 0 if self._state is None else self._state.step

    @property
    def averaged(self) -> Learner:
        """Learner with averaged weights, in evaluation mode, for use in callbacks."""
        if self._state is None:
            raise PgdiffError("`averaged` does not exist before `fit`. Call `fit` first.")
        return cast(Learner, self._state.ema.module)

    def log(self, metrics: dict[str, float]) -> None:
        """Add metrics to the record of the current step (for callbacks, during a step)."""
        self._pending.update(metrics)

    @on_own_threads
    @torch.inference_mode(False)  # gradients are needed even if the caller disabled them
    def fit(self, learner: AnyLearner, episodes: "Episodes") -> AnyLearner:
        """Train the learner and return it with averaged weights, in evaluation mode.

        Args:
            learner: the learner, trained in place.
            episodes: recorded experience; whole episodes are held out for validation. If some are
                too short to give an example, the logger `pgdiff.training.trainer` reports how many
                are used.

        Raises:
            TrainingDiverged: a value is not finite; the message names step and cause.
            TrainingInterrupted: SIGTERM or Ctrl-C was received; the step was finished.
            PgdiffError: the learner or the data do not fit, a checkpoint cannot be read or written,
                or a worker process has died.
        """
        module = as_module(learner)
        module.to(self.device)
        train, held_out = split_sources(
            learner, episodes, validation=self.validation, seed=self.seed
        )
        unused = unused_episodes(learner, episodes, (train, held_out))
        if unused is not None:
            _LOG.warning(unused)
        batches = StepBatches(train, seed=self.seed, batch_size=self.batch_size)
        state = self._start(module)
        settings = self._settings(learner, episodes, batches)
        metrics_file = self._restore(state, settings)
        self._running = [*self._loggers(metrics_file), *self.callbacks]
        if self.compile:
            compile_learner(learner)
        devices = [] if self.device.type == "cpu" else [self.device]
        with ExitStack() as closing:
            for callback in reversed(self._running):
                closing.callback(callback.close)
            # Dropout uses the global generator; it is seeded at every step and restored at the end.
            # Workers start before the callbacks, whose threads a forked process would not have.
            with (
                torch.random.fork_rng(devices, device_type=_rng_type(self.device)),
                StopSignals() as stop,
                open_batches(
                    batches, first=state.step, last=self.steps, workers=self.workers
                ) as stream,
            ):
                for callback in self._running:
                    callback.on_start(self, learner)
                self._loop(learner, module, stream, held_out, settings, stop)
            check_finite_state(state.step, module, state.ema.module, state.optimizer)
            module.load_state_dict(state.ema.module.state_dict())
            if self._best is not None and self.use_best:
                self._best.load(module)
            module.eval()
            for callback in self._running:
                callback.on_end(self, learner)
        return learner

    def _start(self, module: nn.Module) -> TrainingState:
        parameters = [p for p in module.parameters() if p.requires_grad]
        if not parameters:
            raise PgdiffError(f"{type(module).__name__} must have a trainable parameter. Got none.")
        half = next((p.dtype for p in parameters if p.dtype in HALF), None)
        if half is not None:
            raise PgdiffError(
                f"The weights of {type(module).__name__} must be float32 or float64 for training. "
                f"Got {half}, in which rounding loses small updates. Convert the learner with "
                ".float(); convert it to half precision after training."
            )
        fused = self.device.type in ("cpu", "cuda") and all(
            p.is_floating_point() for p in parameters
        )
        optimizer = torch.optim.AdamW(
            parameters, lr=self.learning_rate, weight_decay=self.weight_decay, fused=fused
        )
        ema = AveragedLearner(module, decay=self.ema_decay)
        self._state = TrainingState(module, ema, optimizer)
        self._pending = {}
        return self._state

    def _settings(
        self, learner: Learner, episodes: "Episodes", batches: StepBatches
    ) -> dict[str, Any]:
        """Return the settings and fingerprints that must be equal for an exact resume."""
        names = (
            "steps batch_size learning_rate warmup weight_decay ema_decay clip_norm validation seed"
        )
        settings = {name: getattr(self, name) for name in names.split()}
        if self.best is not None:
            settings["best"] = f"{self.best} {self.mode}"
            settings |= {"validate_every": self.validate_every, "log_every": self.log_every}
        settings |= {"learner": type(learner).__name__, "examples": len(batches.source)}
        if self.folder is not None:
            settings |= {
                "data": data_fingerprint(episodes),
                "arguments": learner_settings(learner),
                "first_batch": batch_fingerprint(batches[0]),
            }
        return settings

    def _restore(self, state: TrainingState, settings: dict[str, Any]) -> MetricsFile | None:
        self.history = []
        self._best = None
        if self.folder is None:
            return None
        metrics_file = MetricsFile(self.folder / "metrics.jsonl")
        root = self._checkpoints
        if not self.resume and (metrics_file.in_use or list_checkpoints(root)):
            raise PgdiffError(
                f"`folder` must not hold another training. Got '{self.folder}', which does. Pass "
                "resume=True to continue it, or choose another folder."
            )
        if self.best is not None:
            self._best = Best(
                self.folder / "best", metric=self.best, mode=self.mode, settings=settings
            )
        if self.resume:
            if restore_checkpoint(root, state, settings):
                prune(root, keep=self.keep)  # the process may have been killed before pruning
            self.history = metrics_file.read(state.step)
            if self._best is not None:
                self._best.restore()
        return metrics_file

    @property
    def _checkpoints(self) -> Path:
        assert self.folder is not None
        return self.folder / "checkpoints"

    def _loggers(self, metrics_file: MetricsFile | None) -> Iterator[Callback]:
        if self.progress:
            yield ProgressBar()
        if metrics_file is None:
            return
        yield metrics_file
        if importlib.util.find_spec("tensorboard") is not None:
            yield TensorBoard(metrics_file.path.parent / "tensorboard")
        else:
            warnings.warn(
                "tensorboard is not installed: metrics are written to metrics.jsonl only. "
                "Install it with: pip install 'pgdiff-rl[train]'.",
                UserWarning,
                stacklevel=3,
            )

    def _loop(
        self,
        learner: Learner,
        module: nn.Module,
        batches: Iterator[Any],
        held_out: BatchSource | None,
        settings: dict[str, Any],
        stop: StopSignals,
    ) -> None:
        state = self._state
        assert state is not None
        generator = torch.Generator(self.device)
        began, first = time.perf_counter(), state.step
        module.train()
        for batch in batches:
            with compile_errors(self.compile and state.step == first):
                metrics = self._update(learner, state, batch, generator)
            state.step += 1
            step, last = state.step, state.step == self.steps
            for callback in self._running:
                callback.on_step(step, metrics)
            if held_out is not None and (step % self.validate_every == 0 or last):
                self._validate(held_out)
                module.train()
            record = None
            if step % self.log_every == 0 or last:
                elapsed = time.perf_counter() - began
                means = {key: total / state.counted for key, total in state.sums.items()}
                record = self._record(means, self._rate(step - 1), elapsed, step - first)
                state.sums, state.counted = {}, 0
            elif self._pending:
                record = self._record({}, None, 0.0, 0)
            if self._best is not None and record is not None:
                # Before the checkpoint: a run resumed from it does not repeat this record.
                self._best.offer(step, record, state.ema.module)
            due = self.checkpoint_every and (step % self.checkpoint_every == 0 or last)
            if due or (stop.received is not None and self.folder is not None):
                save_checkpoint(self._checkpoints, state, settings, keep=self.keep)
            if stop.received is not None:
                raise self._interrupted(stop.received)

    def _interrupted(self, number: int) -> TrainingInterrupted:
        name = signal.Signals(number).name
        summary = f"{name}: training stopped after step {self.step} of {self.steps}."
        if self.folder is None:
            return TrainingInterrupted(
                f"{summary} Nothing was saved because `folder` is not set.",
                number=number,
                step=self.step,
            )
        checkpoint = list_checkpoints(self._checkpoints)[-1]
        return TrainingInterrupted(
            f"{summary} The checkpoint is '{checkpoint}'; repeat the call with resume=True to "
            "continue.",
            number=number,
            step=self.step,
            checkpoint=checkpoint,
        )

    def _rate(self, step: int) -> float:
        return learning_rate_at(step, steps=self.steps, peak=self.learning_rate, warmup=self.warmup)

    def _update(
        self, learner: Learner, state: TrainingState, batch: Any, generator: torch.Generator
    ) -> dict[str, float]:
        """Take or skip one update; return its metrics and add them to the sums."""
        noise = torch_seed(self.seed, state.step, TRAIN)
        seed_global(noise, self.device)
        generator.manual_seed(noise)
        rate = self._rate(state.step)
        try:
            losses, norm = update(
                learner,
                state,
                to_tensors(batch, self.device),
                rate=rate,
                generator=generator,
                clip_norm=self.clip_norm,
            )
        except NonFiniteUpdate as error:
            self._skip(state, error)
            metrics = {}
        else:
            state.skipped_in_a_row = 0
            metrics = {**_loss_metrics("train", losses), "train/gradient_norm": norm}
            for key, value in metrics.items():
                state.sums[key] = state.sums.get(key, 0.0) + value
            state.counted += 1
        if self.on_nan == "skip":
            metrics["train/skipped"] = state.skipped
        return {**metrics, "train/learning_rate": rate}

    def _skip(self, state: TrainingState, error: NonFiniteUpdate) -> None:
        """Count a skipped update, or raise `TrainingDiverged`."""
        cause = str(error)
        if self.on_nan == "stop":
            raise diverged(state.step + 1, cause) from None
        if error.final:
            raise diverged(state.step + 1, cause, advice="Skipping cannot fix this.") from None
        if state.skipped_in_a_row == self.max_skips:
            raise diverged(
                state.step + 1,
                cause,
                advice=f"More than `max_skips`={self.max_skips} consecutive updates failed.",
            ) from None
        state.skipped += 1
        state.skipped_in_a_row += 1

    def _validate(self, held_out: BatchSource) -> None:
        named = held_out_losses(
            self.averaged,
            held_out,
            seed=self.seed,
            batch_size=self.batch_size,
            device=self.device,
        )
        check_held_out(self.step, named)
        metrics = _loss_metrics("eval", named)
        self.log(metrics)
        for callback in self._running:
            callback.on_validation(self.step, metrics)

    def _record(
        self, means: dict[str, float], rate: float | None, elapsed: float, done: int
    ) -> dict[str, float]:
        record = {**means, **self._pending}
        self._pending = {}
        if rate is not None:
            record["train/learning_rate"] = rate
            record["train/n_updates"] = self.step
            record["time/iterations"] = self.step
            record["time/time_elapsed"] = elapsed
            record["time/fps"] = done / max(elapsed, 1e-9)
            if self.on_nan == "skip":
                assert self._state is not None
                record["train/skipped"] = self._state.skipped
        self.history.append({"step": self.step, **record})
        for callback in self._running:
            callback.on_log(self.step, record)
        return record


def _loss_metrics(group: str, named: dict[str, float]) -> dict[str, float]:
    metrics = {f"{group}/{name}_loss": value for name, value in named.items() if name != "loss"}
    return {f"{group}/loss": sum(named.values()), **metrics}


def _rng_type(device: torch.device) -> str:
    return "cuda" if device.type == "cpu" else device.type
