"""Training the stages of a recipe, one after the other, into a run folder."""

import contextlib
import importlib.util
import signal
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from pgdiff.data import Episodes
from pgdiff.data.selection import selected
from pgdiff.guides.steered import steering_mask
from pgdiff.model import TrajectoryDiffusion
from pgdiff.planning.from_run import MODEL, RUN, PathLike, RunInfo, StageRecord, read_run
from pgdiff.planning.guide_kinds import PARTS as GUIDE_PARTS
from pgdiff.planning.past import check_context
from pgdiff.planning.run_guides import check_guide
from pgdiff.planning.settings import PARTS as PLANNER_PARTS
from pgdiff.planning.settings import check_planner
from pgdiff.plotting import loss_picture
from pgdiff.registry import with_module
from pgdiff.saving import library_version
from pgdiff.training import Callback, Learner, Trainer, TrainingInterrupted
from pgdiff.training.fingerprints import data_fingerprint
from pgdiff.training.stopping import StopSignals
from pgdiff.validation import PgdiffError, check_in, check_seed
from pgdiff.workflows.regeneration import Regenerate, Regeneration
from pgdiff.workflows.runs import claim, logs, remove, write_run
from pgdiff.workflows.stages import PARTS, Stage, check_examples


def train_stages(
    episodes: Episodes,
    stages: Sequence[Stage],
    *,
    folder: PathLike,
    task: Mapping[str, Any],
    recipe: str = "",
    data: PathLike = "",
    planner: Mapping[str, Any] | None = None,
    guides: Mapping[str, Mapping[str, Any]] | None = None,
    guide: str | None = None,
    seed: int = 0,
    device: str | torch.device = "auto",
    add: bool = False,
    resume: bool = False,
    overwrite: bool = False,
    progress: bool = True,
    callbacks: Mapping[str, Sequence[Callback]] | None = None,
) -> RunInfo:
    """Train stages one after the other; each result is saved under the name of its stage.

    A fault of the data or of a setting of any stage is found before anything is written. A run
    whose first stage fails before its first step leaves no folder behind; one that is cut off
    later, by whatever and wherever, goes on with `resume` at its last checkpoint, and ends with
    the same weights. SIGTERM and the first Ctrl-C end it at the next step with a checkpoint.

    Args:
        episodes: recorded experience.
        stages: what is trained, in this order.
        folder: the run folder.
        task: "name", "id" and what else is worth keeping of the task.
        recipe: name of the recipe.
        data: where the episodes were read.
        planner: default settings of a planner: "candidates", "steps", "replan_every" (a number or
            "open"), "solver", "controller" and so on; see `pgdiff.planning.settings`.
        guides: default settings of the guides, by name: of the stage that learns each, or of
            another; see `pgdiff.planning.guide_kinds`.
        guide: name of the guide that a planner uses by default.
        seed: of first weights, batches and noise.
        device: "auto", or a device of PyTorch.
        add: add the stages to the run that is in `folder`.
        resume: go on with the run that is there; anew where there is none.
        overwrite: replace the run that is there (with `add`, its stages of the same names).
        progress: show progress bars.
        callbacks: further callbacks of the trainers, by the name of their stage; for example an
            `EvaluationCallback` that acts with the model.

    Returns:
        The run, finished.

    Raises:
        PgdiffError: a fault of the data or of a setting, or a folder that is taken.
        TrainingDiverged: a loss or the gradient is not finite.
        TrainingInterrupted: SIGTERM or Ctrl-C came.
    """
    check_seed("seed", seed)
    for name in callbacks or {}:
        check_in("callbacks", name, [stage.name for stage in stages])
    least_reward = float(selected(episodes, "rewards").min())
    asked = RunInfo(
        path=Path(folder),
        task=dict(task),
        recipe=recipe,
        seed=seed,
        data={
            "path": str(data),
            "steps": episodes.steps,
            "episodes": len(episodes),
            "sha256": data_fingerprint(episodes),
            "least_reward": least_reward,
        },
        stages=tuple(
            StageRecord(
                name=stage.name,
                learner=stage.learner,
                arguments=_with_modules(stage.arguments, {name: name for name in PARTS}),
                trainer=dict(stage.trainer),
                seed=seed,
                synthetic=dict(stage.synthetic),
            )
            for stage in stages
        ),
        planner=_with_modules(planner or {}, PLANNER_PARTS),
        guides={
            name: _with_modules(settings or {}, GUIDE_PARTS)
            for name, settings in (guides or {}).items()
        },
        guide=guide,
        version=library_version(),
    )
    _check(asked)
    info = claim(asked, add=add, resume=resume, overwrite=overwrite)
    if add:
        _check_model(info, episodes)
    steering = [
        check_guide(name, settings, info.stages, least_reward=least_reward)
        for name, settings in asked.guides.items()
    ]
    done = {record.name for record in info.stages if record.finished}
    jobs = [
        _prepare(
            info,
            stage,
            episodes,
            seed=seed,
            device=device,
            resume=resume,
            progress=progress,
            callbacks=(callbacks or {}).get(stage.name, ()),
        )
        for stage in stages
        if stage.name not in done
    ]
    if not jobs:
        return info
    steering += [steers for stage in stages for steers in stage.guides()]
    for job in jobs:
        if job.stage.name == MODEL and isinstance(job.learner, TrajectoryDiffusion):
            for steers in steering:
                steering_mask(steers, job.learner.layout)  # of its number of tokens, and its fields
            horizon = info.planner.get("horizon") or job.learner.layout.horizon
            check_context(info.planner.get("context") or 0, job.learner.with_horizon(horizon))
    before = read_run(info.path) if add and (info.path / RUN).is_file() else None
    if overwrite and not add:
        remove(info.path)
    created = _make(info.path)
    if overwrite and add:
        # Killed anywhere in here, the run is either as it was, without old checkpoints, or one
        # whose new stages are unfinished: what was learned before is never taken for theirs.
        for job in jobs:
            remove(logs(info, job.stage.name))
    write_run(info)
    if overwrite and add:
        for job in jobs:
            remove(info.path / job.stage.name)
    with StopSignals() as stop:
        for number, job in enumerate(jobs):
            try:
                with _synthetic(info, job, seed=seed, device=device):
                    job.trainer.fit(job.learner, episodes)
            except BaseException:
                if number == 0 and job.trainer.step == 0 and not (overwrite or resume):
                    _undo(info, job, created, before)
                raise
            info = _finish(info, job)
            if stop.received is not None:
                raise TrainingInterrupted(
                    f"{signal.Signals(stop.received).name}: stopped after the stage "
                    f"'{job.stage.name}'. The same with resume=True goes on from there.",
                    number=stop.received,
                    step=job.trainer.step,
                )
    return info


def _with_modules(settings: Mapping[str, Any], kinds: Mapping[str, str]) -> dict[str, Any]:
    """Settings by name, in which parts of other packages say their module; see `with_module`."""
    return {
        key: with_module(kinds[key], value) if key in kinds else value
        for key, value in settings.items()
    }


@dataclass(frozen=True)
class _Job:
    """A stage that is ready to be trained."""

    stage: Stage
    learner: Learner
    trainer: Trainer


def _check(info: RunInfo) -> None:
    names = [stage.name for stage in info.stages]
    if not names or len(set(names)) < len(names):
        raise PgdiffError(f"`stages` must have names, each its own, and be some. Got {names}.")
    check_planner(info.planner)
    if info.guide is not None:
        check_in("guide", info.guide, info.guides)


def _check_model(info: RunInfo, episodes: Episodes) -> None:
    """Refuse to add stages that learn from other observations than the run's model has."""
    record = info.stage(MODEL)
    if record is None or not record.finished:
        return
    model = info.load(MODEL, device="cpu")
    if not isinstance(model, TrajectoryDiffusion):
        return
    wanted, got = dict(model.layout.fields)["observations"], episodes.observations.shape[1]
    if wanted != got:
        raise PgdiffError(
            f"`data` must have the observations that the model of '{info.path}' was trained on, of "
            f"{wanted} features. Got {got}. Pass the recording of that run."
        )


def _prepare(
    info: RunInfo,
    stage: Stage,
    episodes: Episodes,
    *,
    seed: int,
    device: str | torch.device,
    resume: bool,
    progress: bool,
    callbacks: Sequence[Callback],
) -> _Job:
    """Build learner and trainer, and look whether the data will do."""
    trainer = stage.make_trainer(
        folder=logs(info, stage.name), seed=seed, device=device, resume=resume, progress=progress
    )
    trainer.callbacks = tuple(callbacks)
    learner = stage.build(episodes, seed=seed)
    check_examples(learner, trainer, episodes)
    return _Job(stage, learner, trainer)


@contextlib.contextmanager
def _synthetic(
    info: RunInfo, job: _Job, *, seed: int, device: str | torch.device
) -> Iterator[None]:
    """Within it, an agent's batches are what the run's model makes, where its stage says so."""
    if not job.stage.synthetic:
        yield
        return
    learner: Any = job.learner
    regenerate = Regenerate(
        info.load(MODEL, device=device),  # type: ignore[arg-type]
        learner,
        settings=Regeneration.from_settings(job.stage.synthetic),
        folder=logs(info, job.stage.name) / "synthetic",
        seed=seed,
    )
    job.trainer.callbacks = (*job.trainer.callbacks, regenerate)
    learner.dataset = regenerate.source
    try:
        yield
    finally:
        del learner.dataset


def _finish(info: RunInfo, job: _Job) -> RunInfo:
    """Save a stage's result and a picture, then say in `run.json` that it is there.

    Killed before that last word, the stage counts as unfinished: resumed at its last checkpoint, it
    is saved again, the same.
    """
    name = job.stage.name
    job.learner.save_pretrained(info.path / name)
    if importlib.util.find_spec("matplotlib") is not None:
        picture = info.path / "pictures" / f"losses_{name}.png"
        history = job.trainer.history
        title = f"{info.task.get('name', '')}: {name}"
        try:
            loss_picture(history, picture, keys=_curves(history), title=title)
        except PgdiffError as error:  # a full disk, say; what was learned is not to be lost by it
            warnings.warn(f"No picture of the losses: {error}", UserWarning, stacklevel=2)
    info = replace(
        info,
        stages=tuple(
            replace(stage, finished=True) if stage.name == name else stage for stage in info.stages
        ),
    )
    write_run(info)
    return info


def _curves(history: Sequence[Mapping[str, Any]]) -> list[str]:
    """Names of the losses to draw; without their sum where there is but one."""
    names = sorted({key for record in history for key in record if key.endswith("_loss")})
    sums = [] if len({name.partition("/")[2] for name in names}) == 1 else ["train/loss"]
    return [*names, *sums]


def _make(folder: Path) -> list[Path]:
    """Make a folder and those above it; return those that are new, the innermost first."""
    new = [path for path in (folder, *folder.parents) if not path.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    return new


def _undo(info: RunInfo, job: _Job, created: list[Path], before: RunInfo | None) -> None:
    """Take back what was written before the first step."""
    remove(logs(info, job.stage.name))
    if before is not None:
        write_run(before)
        return
    remove(info.path)
    with contextlib.suppress(OSError):
        for parent in created[1:]:
            parent.rmdir()
