"""The training loop, the same for every learner."""

import importlib.util
import math
import os
import time
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch
from torch import nn

from pgdiff.saving import resolve_device
from pgdiff.training.callbacks import Callback, MetricsFile, ProgressBar, TensorBoard
from pgdiff.training.checkpoint import (
    TrainingState,
    list_checkpoints,
    restore_checkpoint,
    save_checkpoint,
)
from pgdiff.training.compiling import compile_errors, compile_learner
from pgdiff.training.divergence import diverged
from pgdiff.training.ema import AveragedLearner
from pgdiff.training.learner import (
    AnyLearner,
    BatchSource,
    Learner,
    as_module,
    check_losses,
    to_tensors,
)
from pgdiff.training.schedule import (
    TRAIN,
    VALIDATION,
    learning_rate_at,
    numpy_generator,
    seed_global,
    torch_generator,
    torch_seed,
)
from pgdiff.validation import PgdiffError, check_positive_int, check_range, check_seed

if TYPE_CHECKING:
    from pgdiff.data import Episodes

VALIDATION_BATCHES = 8


class Trainer:
    """Trains any `Learner`: AdamW, warm-up and cosine, clipped gradients, averaged weights.

    Everything random follows from `seed` and the number of the step, so that a run that was cut
    off and resumed ends with the same weights, bit for bit, on the same machine and build.

    Args:
        steps: number of updates.
        batch_size: examples per update, drawn with replacement.
        learning_rate: the highest rate; it warms up linearly and falls to 0 along a cosine.
        warmup: updates of warm-up, at most a tenth of `steps`.
        weight_decay: AdamW's decoupled weight decay.
        ema_decay: limit of the moving average of the weights; 0 switches it off.
        clip_norm: largest norm of the gradient; None clips nothing.
        validation: share of the episodes that is held out; 0 for none.
        validate_every: steps between two looks at the held-out episodes, with averaged weights.
        log_every: steps between two records of the losses' means.
        checkpoint_every: steps between two checkpoints; None writes none. The last step gets one.
        keep: number of newest checkpoints that are kept.
        folder: where `metrics.jsonl`, TensorBoard's files and `checkpoints/` go; None for nowhere.
        compile: let the learner compile its networks (`compile_parts`).
        device: "auto", or a device of PyTorch.
        seed: of batches and noise; the learner's first weights are its own affair.
        progress: show a progress bar.
        callbacks: further `Callback`s.
        resume: go on from the newest sound checkpoint of `folder`; from nothing where it has none.

    Attributes:
        history: the records that were logged, each with its "step".
        step: updates done.

    Raises:
        PgdiffError: a setting is out of its range.
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
        folder: str | os.PathLike[str] | None = None,
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
        self.folder = None if folder is None else Path(folder)
        self.compile = compile
        self.device = resolve_device(device)
        self.seed = check_seed("seed", seed)
        self.progress = progress
        self.resume = resume
        for callback in callbacks:
            if not isinstance(callback, Callback):
                raise PgdiffError(f"`callbacks` must be Callback objects. Got {callback!r}.")
        self.callbacks = tuple(callbacks)
        if self.folder is None and (resume or checkpoint_every is not None):
            raise PgdiffError("`folder` must be given for checkpoints and for `resume`. Got None.")
        self.history: list[dict[str, float]] = []
        self._state: TrainingState | None = None
        self._running: list[Callback] = []
        self._pending: dict[str, float] = {}

    @property
    def step(self) -> int:
        """Updates done so far."""
        return 0 if self._state is None else self._state.step

    @property
    def averaged(self) -> Learner:
        """The learner with averaged weights, in evaluation mode; for callbacks that act with it."""
        if self._state is None:
            raise PgdiffError("There are no averaged weights before `fit`.")
        return cast(Learner, self._state.ema.module)

    def log(self, metrics: dict[str, float]) -> None:
        """Add metrics to the record of the present step (for callbacks, during a step)."""
        self._pending.update(metrics)

    def fit(self, learner: AnyLearner, episodes: "Episodes") -> AnyLearner:
        """Train, and return the learner with averaged weights, in evaluation mode.

        Args:
            learner: what is trained, in place.
            episodes: recorded experience; a share of whole episodes is held out for validation.

        Raises:
            TrainingDiverged: a loss or the gradient is not finite; names step and loss.
            PgdiffError: the learner or the data do not fit, or a checkpoint cannot be used.
        """
        module = as_module(learner)
        module.to(self.device)
        train, held_out = self._sources(learner, episodes)
        state = self._start(module)
        settings = self._settings(learner, train)
        metrics_file = self._restore(state, settings)
        self._running = [*self._loggers(metrics_file), *self.callbacks]
        if self.compile:
            compile_learner(learner)
        devices = [] if self.device.type == "cpu" else [self.device]
        try:
            # Dropout knows no generator but the global one; it is seeded per step, then put back.
            with torch.random.fork_rng(devices, device_type=_rng_type(self.device)):
                for callback in self._running:
                    callback.on_start(self, learner)
                self._loop(learner, module, train, held_out, settings)
            module.load_state_dict(state.ema.module.state_dict())
            module.eval()
            for callback in self._running:
                callback.on_end(self, learner)
        finally:
            for callback in self._running:
                callback.close()
        return learner

    def _sources(
        self, learner: Learner, episodes: "Episodes"
    ) -> tuple[BatchSource, BatchSource | None]:
        if self.validation == 0.0:
            train, held_out = episodes, None
        else:
            train, held_out = episodes.split(self.validation, seed=self.seed)
        source = learner.dataset(train)
        if len(source) == 0:
            raise PgdiffError(
                f"{type(learner).__name__} finds no example in the episodes: longer episodes, or "
                "shorter segments, are needed."
            )
        if held_out is None:
            return source, None
        mend = (
            f"`validation` must leave {type(learner).__name__} some example in the held-out "
            f"episodes. Got {self.validation}: give a larger share, or 0 for no validation."
        )
        try:
            held_out_source = learner.dataset(held_out)
        except PgdiffError as error:
            raise PgdiffError(f"{mend} ({error})") from error
        if len(held_out_source) == 0:
            raise PgdiffError(mend)
        return source, held_out_source

    def _start(self, module: nn.Module) -> TrainingState:
        parameters = [p for p in module.parameters() if p.requires_grad]
        if not parameters:
            raise PgdiffError(f"{type(module).__name__} has no parameter to train.")
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

    def _settings(self, learner: Learner, train: BatchSource) -> dict[str, Any]:
        """Return what must be the same for a resumption to be exact."""
        names = (
            "steps batch_size learning_rate warmup weight_decay ema_decay clip_norm validation seed"
        )
        settings = {name: getattr(self, name) for name in names.split()}
        return {**settings, "learner": type(learner).__name__, "examples": len(train)}

    def _restore(self, state: TrainingState, settings: dict[str, Any]) -> MetricsFile | None:
        self.history = []
        if self.folder is None:
            return None
        metrics_file = MetricsFile(self.folder / "metrics.jsonl")
        root = self._checkpoints
        if self.resume:
            restore_checkpoint(root, state, settings)
            self.history = metrics_file.read(state.step)
        elif metrics_file.in_use or list_checkpoints(root):
            raise PgdiffError(
                f"`folder` must be free: '{self.folder}' holds a training already. Give "
                "resume=True to go on with it, or another folder."
            )
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
                "tensorboard is not installed: metrics go to metrics.jsonl alone. "
                "Install it with: pip install 'pgdiff[train]'.",
                UserWarning,
                stacklevel=3,
            )

    def _loop(
        self,
        learner: Learner,
        module: nn.Module,
        train: BatchSource,
        held_out: BatchSource | None,
        settings: dict[str, Any],
    ) -> None:
        state = self._state
        assert state is not None
        generator = torch.Generator(self.device)
        sums: dict[str, float] = {}
        counted, began, first = 0, time.perf_counter(), state.step
        module.train()
        while state.step < self.steps:
            with compile_errors(self.compile and state.step == first):
                metrics = self._update(learner, state, train, generator)
            state.step += 1
            step, last = state.step, state.step == self.steps
            for key, value in metrics.items():
                sums[key] = sums.get(key, 0.0) + value
            counted += 1
            for callback in self._running:
                callback.on_step(step, metrics)
            if held_out is not None and (step % self.validate_every == 0 or last):
                self._validate(held_out)
                module.train()
            if step % self.log_every == 0 or last:
                elapsed = time.perf_counter() - began
                means = {key: total / counted for key, total in sums.items()}
                self._record(means, metrics["train/learning_rate"], elapsed, step - first)
                sums, counted = {}, 0
            elif self._pending:
                self._record({}, None, 0.0, 0)
            if self.checkpoint_every and (step % self.checkpoint_every == 0 or last):
                save_checkpoint(self._checkpoints, state, settings, keep=self.keep)

    def _update(
        self,
        learner: Learner,
        state: TrainingState,
        train: BatchSource,
        generator: torch.Generator,
    ) -> dict[str, float]:
        step, optimizer = state.step, state.optimizer
        rate = learning_rate_at(step, steps=self.steps, peak=self.learning_rate, warmup=self.warmup)
        for group in optimizer.param_groups:
            group["lr"] = rate
        noise = torch_seed(self.seed, step, TRAIN)
        seed_global(noise, self.device)
        generator.manual_seed(noise)
        indices = numpy_generator(self.seed, step, TRAIN).integers(len(train), size=self.batch_size)
        batch = to_tensors(train.batch(indices), self.device)
        losses = check_losses(learner.losses(batch, generator), learner)
        total = torch.stack(list(losses.values())).sum()
        optimizer.zero_grad(set_to_none=True)
        total.backward()  # type: ignore[no-untyped-call]
        parameters = optimizer.param_groups[0]["params"]
        gradients = [p.grad for p in parameters if p.grad is not None]
        norm = torch.nn.utils.get_total_norm(gradients)
        if self.clip_norm is not None:
            torch.nn.utils.clip_grads_with_norm_(parameters, self.clip_norm, norm)
        # One look at the device per step, before anything has changed.
        *values, norm_value = torch.stack([*losses.values(), norm]).detach().tolist()
        named = dict(zip(losses, values, strict=True))
        if not all(map(math.isfinite, (*values, norm_value))):
            optimizer.zero_grad(set_to_none=True)
            raise diverged(step + 1, named, norm_value)
        optimizer.step()
        learner.after_step()
        state.ema.update_parameters(state.learner)
        return {
            **_loss_metrics("train", named),
            "train/gradient_norm": norm_value,
            "train/learning_rate": rate,
        }

    @torch.no_grad()
    def _validate(self, held_out: BatchSource) -> None:
        """Measure the averaged weights on the same batches with the same noise every time."""
        averaged = self.averaged
        order = numpy_generator(self.seed, 0, VALIDATION).permutation(len(held_out))
        order = order[: VALIDATION_BATCHES * self.batch_size]
        batches = np.split(order, range(self.batch_size, len(order), self.batch_size))
        sums: dict[str, float] = {}
        for number, indices in enumerate(batches):
            generator = torch_generator(self.seed, number, VALIDATION, self.device)
            batch = to_tensors(held_out.batch(indices), self.device)
            for name, loss in averaged.losses(batch, generator).items():
                sums[name] = sums.get(name, 0.0) + float(loss) * len(indices)
        examples = sum(map(len, batches))
        named = {name: total / examples for name, total in sums.items()}
        if not all(map(math.isfinite, named.values())):
            raise diverged(self.step, named, 0.0, held_out=True)
        metrics = _loss_metrics("eval", named)
        self.log(metrics)
        for callback in self._running:
            callback.on_validation(self.step, metrics)

    def _record(
        self, means: dict[str, float], rate: float | None, elapsed: float, done: int
    ) -> None:
        record = {**means, **self._pending}
        self._pending = {}
        if rate is not None:
            record["train/learning_rate"] = rate
            record["train/n_updates"] = self.step
            record["time/iterations"] = self.step
            record["time/time_elapsed"] = elapsed
            record["time/fps"] = done / max(elapsed, 1e-9)
        self.history.append({"step": self.step, **record})
        for callback in self._running:
            callback.on_log(self.step, record)


def _loss_metrics(group: str, named: dict[str, float]) -> dict[str, float]:
    metrics = {f"{group}/{name}_loss": value for name, value in named.items() if name != "loss"}
    return {f"{group}/loss": sum(named.values()), **metrics}


def _rng_type(device: torch.device) -> str:
    return "cuda" if device.type == "cpu" else device.type
