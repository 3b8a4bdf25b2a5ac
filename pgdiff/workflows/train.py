"""Training of the stages of a recipe in a run folder."""

import contextlib
import importlib.util
import signal
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from pgdiff.core.registry import with_module
from pgdiff.core.serialization import library_version
from pgdiff.core.validation import PgdiffError, check_in, check_seed, nearest
from pgdiff.data import Episodes
from pgdiff.data.selection import selected
from pgdiff.guides import Guide
from pgdiff.model import TrajectoryDiffusion
from pgdiff.model.guidance import feature_weights
from pgdiff.planning.observation_filter import check_history
from pgdiff.plotting import loss_picture
from pgdiff.runs.folders import claim, logs, remove, write_run
from pgdiff.runs.guides import check_guide, complete_guide
from pgdiff.runs.load import check_planner, planner_defaults
from pgdiff.runs.references import References, relative_to, stages_in
from pgdiff.runs.regeneration import Regeneration
from pgdiff.runs.run import MODEL, RUN, PathLike, RunInfo, StageRecord, read_run
from pgdiff.runs.stages import Stage, check_examples
from pgdiff.training import Callback, Learner, Trainer, TrainingInterrupted
from pgdiff.training.fingerprints import data_fingerprint
from pgdiff.training.signals import StopSignals
from pgdiff.workflows.regeneration import Regenerate


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
    """Train stages one after the other and save each result under the name of its stage.

    Data and settings of all stages are checked before anything is written. A run whose first stage
    fails before its first step leaves no folder. A run that was interrupted later continues at its
    last checkpoint with `resume` and ends with equal weights. SIGTERM and the first Ctrl-C stop it
    after the current step with a checkpoint.

    Args:
        episodes: recorded experience.
        stages: stages in the order of their training.
        folder: run folder.
        task: "name", "id" and other facts about the task to store.
        recipe: name of the recipe.
        data: path of the recording.
        planner: default settings of a planner, as plain values by the argument names of
            `pgdiff.Planner`: {"candidates": 16, "sampling": {"steps": 20}}.
        guides: default settings of guides by label; see `pgdiff.runs.guides`. Relative paths in
            references are relative to the working folder.
        guide: label of the planner's default guide.
        seed: seed of initial weights, batches and noise.
        device: "auto", or a PyTorch device.
        add: add the stages to the existing run.
        resume: continue the existing run; start one if none exists.
        overwrite: replace the existing run, or with `add` its stages of equal names.
        progress: show progress bars.
        callbacks: further callbacks of the trainers by stage name, for example an
            `EvaluationCallback` that acts with the model.

    Returns:
        The finished run.

    Raises:
        PgdiffError: the data or a setting is invalid, or the folder is not free.
        TrainingDiverged: a loss or gradient is not finite.
        TrainingInterrupted: SIGTERM or Ctrl-C was received.
    """
    check_seed("seed", seed)
    for name in callbacks or {}:
        check_in("callbacks", name, [stage.name for stage in stages])
    requested = RunInfo(
        path=Path(folder),
        task=dict(task),
        recipe=recipe,
        seed=seed,
        data=_describe_data(episodes, data),
        stages=tuple(_describe_stage(stage, Path(folder), seed=seed) for stage in stages),
        planner=relative_to(_planner_settings(planner, stages), Path(folder)),
        guides={label: settings or {} for label, settings in (guides or {}).items()},
        guide=guide,
        version=library_version(),
    )
    _check(requested)
    info = claim(requested, add=add, resume=resume, overwrite=overwrite)
    info = _with_complete_guides(info, requested)
    check_planner(info.planner, info.stages)
    if add:
        _check_model(info, episodes)
    run_guides = [
        check_guide(name, settings, info.stages, least_reward=requested.data["least_reward"])
        for name, settings in requested.guides.items()
    ]
    finished = {record.name for record in info.stages if record.finished}
    remaining = [stage for stage in stages if stage.name not in finished]
    for stage in remaining:
        _check_needs(info, stage)
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
        for stage in remaining
    ]
    if not jobs:
        return info
    _check_new_model(info, jobs, [*run_guides, *(g for stage in stages for g in stage.guides())])
    previous = read_run(info.path) if add and (info.path / RUN).is_file() else None
    created = _start(info, jobs, add=add, overwrite=overwrite)

    def undo(job: _Job) -> None:
        if job is jobs[0] and job.trainer.step == 0 and not (overwrite or resume):
            _undo(info, job, created, previous)

    return _train(info, jobs, episodes, undo=undo, seed=seed, device=device)


def _describe_data(episodes: Episodes, path: PathLike) -> dict[str, Any]:
    return {
        "path": str(path),
        "steps": episodes.steps,
        "episodes": len(episodes),
        "sha256": data_fingerprint(episodes),
        "least_reward": float(selected(episodes, "rewards").min()),
    }


def _describe_stage(stage: Stage, folder: Path, *, seed: int) -> StageRecord:
    arguments = {name: with_module(name, value) for name, value in stage.arguments.items()}
    return StageRecord(
        name=stage.name,
        learner=stage.learner,
        arguments=relative_to(arguments, folder),
        trainer=dict(stage.trainer),
        seed=seed,
        synthetic=relative_to(stage.synthetic, folder),
    )


def _planner_settings(planner: Mapping[str, Any] | None, stages: Sequence[Stage]) -> dict[str, Any]:
    """Return all settings of the run's planner; none if the run has neither planner nor model."""
    if planner or any(stage.name == MODEL for stage in stages):
        return planner_defaults(planner or {})
    return {}


def _with_complete_guides(info: RunInfo, requested: RunInfo) -> RunInfo:
    """Return a run in which new guides name their class and their networks."""
    guides = {
        label: relative_to(complete_guide(label, settings, info.stages), info.path)
        if settings is requested.guides.get(label)
        else settings
        for label, settings in info.guides.items()
    }
    return replace(info, guides=guides)


@dataclass(frozen=True)
class _Job:
    """A stage with its trainer, and its learner; None if this needs a network of the run."""

    stage: Stage
    learner: Learner | None
    trainer: Trainer


def _check(info: RunInfo) -> None:
    names = [stage.name for stage in info.stages]
    if not names or len(set(names)) < len(names):
        raise PgdiffError(f"`stages` must be at least one stage, with unique names. Got {names}.")
    check_planner(info.planner)
    if info.guide is not None:
        check_in("guide", info.guide, info.guides)


def _check_model(info: RunInfo, episodes: Episodes) -> None:
    """Raise if the recording of added stages does not have the observations of the run's model."""
    record = info.stage(MODEL)
    if record is None or not record.finished:
        return
    model = info.load(MODEL, device="cpu")
    if not isinstance(model, TrajectoryDiffusion):
        return
    features, got = model.codec.spec.observation_size, episodes.observations.shape[1]
    if features != got:
        raise PgdiffError(
            f"`data` must have observations of {features} features, like the model of "
            f"'{info.path}'. Got {got}. Pass the recording of that run."
        )


def _check_new_model(info: RunInfo, jobs: Sequence[_Job], guides: Sequence[Guide]) -> None:
    """Raise if guides or the planner's settings do not fit the model that is to be trained."""
    for job in jobs:
        if job.stage.name == MODEL and isinstance(job.learner, TrajectoryDiffusion):
            for guide in guides:
                feature_weights(guide, job.learner.codec)  # checks number of tokens and fields
            settings = planner_defaults(info.planner)
            horizon = settings["sampling"]["horizon"] or job.learner.codec.tokens
            history = settings["filter"]["history_tokens"]
            check_history(history, job.learner.with_horizon(horizon))


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
    """Build learner and trainer; raise if the data does not suffice."""
    trainer = stage.make_trainer(
        folder=logs(info, stage.name), seed=seed, device=device, resume=resume, progress=progress
    )
    trainer.callbacks = tuple(callbacks)
    finished = [record.name for record in info.stages if record.finished]
    if not set(stages_in(stage.arguments)) <= set(finished):
        stage.check_arguments()
        return _Job(stage, None, trainer)
    return _with_learner(info, _Job(stage, None, trainer), episodes, seed=seed, device=device)


def _with_learner(
    info: RunInfo, job: _Job, episodes: Episodes, *, seed: int, device: str | torch.device
) -> _Job:
    references = References(info.stages, info, device=device)
    learner = job.stage.build(episodes, seed=seed, references=references)
    check_examples(learner, job.trainer, episodes)
    return replace(job, learner=learner)


def _check_needs(info: RunInfo, stage: Stage) -> None:
    """Raise if a stage refers to a stage that is missing, or that is trained later."""
    names = [record.name for record in info.stages]
    for needed in stage.needs:
        record = info.stage(needed)
        if record is None:
            raise PgdiffError(
                f"The stage '{stage.name}' must refer to a stage of the run '{info.path}', "
                f"{nearest(needed, [name for name in names if name != stage.name])} "
                f"Got '{needed}'. Add this stage, or refer to another run: "
                f"{{run: DIR, stage: {needed}}}."
            )
        if not record.finished and names.index(needed) >= names.index(stage.name):
            raise PgdiffError(
                f"The stage '{stage.name}' must come after the stage '{needed}', to which it "
                "refers. Change the order of the stages."
            )


def _start(info: RunInfo, jobs: Sequence[_Job], *, add: bool, overwrite: bool) -> list[Path]:
    """Write `run.json` and remove replaced results; return the new folders."""
    if overwrite and not add:
        remove(info.path)
    created = _make(info.path)
    if overwrite and add:
        # A kill at any point leaves either the old run without old checkpoints, or a run whose new
        # stages are unfinished, so that old results are never used as results of new stages.
        for job in jobs:
            remove(logs(info, job.stage.name))
    write_run(info)
    if overwrite and add:
        for job in jobs:
            remove(info.path / job.stage.name)
    return created


def _train(
    info: RunInfo,
    jobs: Sequence[_Job],
    episodes: Episodes,
    *,
    undo: Callable[[_Job], None],
    seed: int,
    device: str | torch.device,
) -> RunInfo:
    """Train and save the stages; call `undo` with the stage of an exception."""
    with StopSignals() as stop:
        for job in jobs:
            try:
                ready = job
                if job.learner is None:
                    ready = _with_learner(info, job, episodes, seed=seed, device=device)
                assert ready.learner is not None
                with _synthetic(info, ready, seed=seed, device=device):
                    ready.trainer.fit(ready.learner, episodes)
            except BaseException:
                undo(job)
                raise
            info = _finish(info, ready)
            if stop.received is not None:
                raise TrainingInterrupted(
                    f"{signal.Signals(stop.received).name}: stopped after the stage "
                    f"'{job.stage.name}'. Continue with resume=True.",
                    number=stop.received,
                    step=job.trainer.step,
                )
    return info


@contextlib.contextmanager
def _synthetic(
    info: RunInfo, job: _Job, *, seed: int, device: str | torch.device
) -> Iterator[None]:
    """Mix transitions of the run's model into the batches of a stage with `synthetic` settings."""
    if not job.stage.synthetic:
        yield
        return
    learner: Any = job.learner
    settings = Regeneration.from_settings(job.stage.synthetic)
    name = f"{job.stage.name}.synthetic.model"
    model = References(info.stages, info, device=device).load(settings.model, name=name)
    if not isinstance(model, TrajectoryDiffusion):
        raise PgdiffError(
            f"`{name}` must refer to a trajectory diffusion model. Got a {type(model).__name__}."
        )
    regenerate = Regenerate(
        model,
        learner,
        settings=settings,
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
    """Save a stage's result and a picture, then mark the stage as finished in `run.json`.

    A process that is killed before the mark leaves the stage unfinished. Resumed at its last
    checkpoint, the stage saves an equal result.
    """
    name = job.stage.name
    assert job.learner is not None
    job.learner.save_pretrained(info.path / name)
    if importlib.util.find_spec("matplotlib") is not None:
        picture = info.path / "pictures" / f"losses_{name}.png"
        history = job.trainer.history
        title = f"{info.task.get('name', '')}: {name}"
        try:
            loss_picture(history, picture, keys=_curves(history), title=title)
        except PgdiffError as error:  # such as a full disk; the result is kept
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
    """Return the names of the losses to draw; their sum is left out if it has one term."""
    names = sorted({key for record in history for key in record if key.endswith("_loss")})
    sums = [] if len({name.partition("/")[2] for name in names}) == 1 else ["train/loss"]
    return [*names, *sums]


def _make(folder: Path) -> list[Path]:
    """Create a folder and its parents; return the new folders, the innermost first."""
    new = [path for path in (folder, *folder.parents) if not path.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    return new


def _undo(info: RunInfo, job: _Job, created: list[Path], previous: RunInfo | None) -> None:
    """Remove the files that were written before the first step."""
    remove(logs(info, job.stage.name))
    if previous is not None:
        write_run(previous)
        return
    remove(info.path)
    with contextlib.suppress(OSError):
        for parent in created[1:]:
            parent.rmdir()
