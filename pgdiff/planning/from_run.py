"""Run folders, as far as a planner needs them: `run.json` and the networks of its stages."""

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from pgdiff.dynamics import InverseDynamics
from pgdiff.guides import Guide
from pgdiff.model import TrajectoryDiffusion
from pgdiff.planning.controllers import Controller
from pgdiff.planning.run_guides import GuideChoice, GuideSettings, run_guides
from pgdiff.planning.settings import CONTROLLERS, OFF, PlannerSettings, planner_values
from pgdiff.pretrained import Pretrained, load_learner
from pgdiff.saving import library_version
from pgdiff.validation import PgdiffError, check_in

RUN = "run.json"
MODEL, INVERSE_DYNAMICS = "model", "inverse_dynamics"
RUN_FORMAT = 3
"""Of `run.json`. 2 called the planner's `schedule` `levels`."""
FORMAT_1_PLANNER = {"solver": {"name": "ddim"}, "spacing": {"name": "uniform"}}
OF_THE_RUN = "run"
"""Of arguments for which None has a meaning of its own: what the run says."""

_NO_MODEL = (
    " Only a run with a model makes plans and synthetic data; `pgdiff evaluate` acts with the "
    "agent of a run without one."
)

PathLike = str | os.PathLike[str]


@dataclass(frozen=True, kw_only=True)
class StageRecord:
    """What `run.json` says of one stage.

    Attributes:
        name: of the stage and of the folder of its result.
        learner: registered name of what was trained.
        arguments: of the learner, as JSON.
        trainer: settings of its `Trainer`.
        seed: of first weights, batches and noise.
        finished: whether its result is there.
        synthetic: of an agent that learns from what the run's model makes, how; else empty.
    """

    name: str
    learner: str
    arguments: Mapping[str, Any]
    trainer: Mapping[str, Any]
    seed: int
    finished: bool = False
    synthetic: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class RunInfo:
    """What a run folder says of itself in `run.json`.

    Attributes:
        path: the folder.
        task: "name", "id" and the settings of the task.
        recipe: name of the recipe.
        seed: of the run.
        data: "path", "steps", "episodes" and "least_reward" of the recording.
        stages: in the order in which they are trained.
        planner: settings of a planner, by default.
        guides: settings of each guide by name; see `pgdiff.planning.guide_kinds`.
        guide: name of the guide that is used by default, or None.
        version: of the library that wrote it.
    """

    path: Path
    task: Mapping[str, Any]
    recipe: str
    seed: int
    data: Mapping[str, Any]
    stages: tuple[StageRecord, ...]
    planner: Mapping[str, Any]
    guides: Mapping[str, Mapping[str, Any]]
    guide: str | None
    version: str

    @property
    def finished(self) -> bool:
        """Whether every stage is."""
        return all(stage.finished for stage in self.stages)

    def stage(self, name: str) -> StageRecord | None:
        """Return the stage of that name, or None."""
        return next((stage for stage in self.stages if stage.name == name), None)

    def load(self, name: str, *, device: str | torch.device = "auto") -> Pretrained:
        """Read the network of a finished stage.

        Raises:
            PgdiffError: there is no such stage, it is unfinished, or its folder is damaged.
        """
        record = self.stage(name)
        if record is None:
            raise PgdiffError(
                f"`run` must have the stage '{name}'. '{self.path}' has "
                f"{', '.join(stage.name for stage in self.stages)}."
                + (_NO_MODEL if name == MODEL else "")
            )
        if not record.finished:
            raise PgdiffError(
                f"The stage '{name}' of the run '{self.path}' is not finished. Go on with: "
                f"pgdiff train, its settings, out={self.path} resume=true."
            )
        return load_learner(self.path / name, device=device)


def read_run(path: PathLike) -> RunInfo:
    """Read the `run.json` of a run folder.

    Raises:
        PgdiffError: the folder is absent, is no run folder, or its `run.json` is damaged or of a
            newer format.
    """
    folder = Path(path)
    file = folder / RUN
    if not folder.is_dir():
        raise PgdiffError(f"`run` must be a run folder, which `pgdiff train` makes. Got '{path}'.")
    if not file.is_file():
        holds = "a saved network" if (folder / "config.json").is_file() else f"no {RUN}"
        raise PgdiffError(
            f"`run` must be a run folder, which `pgdiff train` makes. '{path}' holds {holds}."
        )
    try:
        content = json.loads(file.read_bytes())
        number = content["format"]
        if isinstance(number, int) and number > RUN_FORMAT:
            raise PgdiffError(
                f"'{file}' has format {number}; this pgdiff ({library_version()}) reads formats "
                f"up to {RUN_FORMAT}. Install a newer pgdiff."
            )
        stages = tuple(StageRecord(**stage) for stage in content["stages"])
        if number < 2:  # what a planner did where nothing was said
            content["planner"] = {**FORMAT_1_PLANNER, **content["planner"]}
        if number < 3 and "levels" in content["planner"]:
            content["planner"]["schedule"] = content["planner"].pop("levels")
        info = RunInfo(
            path=folder,
            stages=stages,
            **{key: content[key] for key in RunInfo.__dataclass_fields__ if key not in _DERIVED},
        )
        _check_types(info)
    except PgdiffError:
        raise
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise PgdiffError(
            f"'{file}' is damaged ({type(error).__name__}: {error}). Train the run anew, or go "
            "back to a copy."
        ) from error
    return info


_DERIVED = ("path", "stages")


def _check_types(info: RunInfo) -> None:
    for name in ("task", "data", "planner", "guides"):
        if not isinstance(getattr(info, name), dict):
            raise TypeError(f"`{name}` is no object")
    for stage in info.stages:
        # A stage's name becomes a path: it must stay inside the folder.
        if not isinstance(stage.name, str) or not stage.name.isidentifier():
            raise TypeError(f"{stage.name!r} is no name of a stage")


# ------------------------------------------------------------------------------------------ planner


class RunSettings(PlannerSettings, GuideSettings, total=False):
    """Settings of a planner and of its guides, where a run has defaults of them."""


def planner_arguments(
    path: PathLike,
    *,
    guides: Sequence[Guide] | None,
    guide: GuideChoice | None,
    controller: Controller | str | None,
    settings: RunSettings,
    device: str | torch.device,
) -> dict[str, Any]:
    """Return the arguments of `Planner` that a run folder and these choices give.

    Args:
        path: the folder.
        guides: guides of one's own, in place of the run's.
        guide: which of the run's; see `pgdiff.planning.run_guides.chosen_settings`.
        controller: drives along the plans, or one of `CONTROLLERS`; None for what the run says.
        settings: changes to the planner's settings; "run", or None where None has no meaning of its
            own, for what the run says. And changes to the settings of each guide.
        device: of the networks.
    """
    own: dict[str, Any] = dict(settings)
    changes = {key: own.pop(key) for key in GuideSettings.__annotations__ if key in own}
    changes |= changes.pop("guide_settings", None) or {}
    run = read_run(path)
    model = run.load(MODEL, device=device)
    if not isinstance(model, TrajectoryDiffusion):
        raise PgdiffError(
            f"The stage '{MODEL}' of '{path}' must be a trajectory diffusion model. "
            f"Got a {type(model).__name__}."
        )
    arguments: dict[str, Any] = {"model": model, **planner_values(run.planner)}
    arguments |= {key: value for key, value in own.items() if not _of_the_run(key, value)}
    if guides is None:
        guides = run_guides(run, guide, changes, device=device)
    arguments["guides"] = tuple(guides)
    arguments["controller"] = _controller(run, controller, device)
    return arguments


def _of_the_run(key: str, value: Any) -> bool:
    return (value is None and key not in OFF) or (isinstance(value, str) and value == OF_THE_RUN)


def controller_name(run: RunInfo) -> str:
    """Return the one of `CONTROLLERS` that a run's planner uses by default."""
    return str(run.planner.get("controller", INVERSE_DYNAMICS))


def _controller(
    run: RunInfo, chosen: Controller | str | None, device: str | torch.device
) -> Controller | str | None:
    """Return the controller that is asked for; None where the run has learned none."""
    if chosen is not None and not isinstance(chosen, str):
        return chosen
    name = check_in("controller", chosen or controller_name(run), CONTROLLERS)
    if name != INVERSE_DYNAMICS:
        return name
    if run.stage(INVERSE_DYNAMICS) is not None:
        return _inverse_dynamics(run, device)
    if chosen is None:
        return None
    raise PgdiffError(
        f"`controller` must be another one for the run '{run.path}', which has no stage "
        f"'{INVERSE_DYNAMICS}'. Got '{chosen}'."
    )


def _inverse_dynamics(run: RunInfo, device: str | torch.device) -> InverseDynamics:
    learner = run.load(INVERSE_DYNAMICS, device=device)
    if not isinstance(learner, InverseDynamics):
        raise PgdiffError(
            f"The stage '{INVERSE_DYNAMICS}' of '{run.path}' must be an InverseDynamics. "
            f"Got a {type(learner).__name__}."
        )
    return learner
