"""Run folders: `run.json`, and the networks of the stages."""

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from pgdiff.core.migration import migrate_run
from pgdiff.core.pretrained import Pretrained, load_learner
from pgdiff.core.serialization import library_version
from pgdiff.core.validation import PgdiffError

RUN = "run.json"
MODEL, INVERSE_DYNAMICS = "model", "inverse_dynamics"
RUN_FORMAT = 4
"""Format number of a written `run.json`."""

_NO_MODEL = (
    " Plans and synthetic data need a run with a model; `pgdiff evaluate` acts with the agent of a "
    "run without a model."
)

PathLike = str | os.PathLike[str]


@dataclass(frozen=True, kw_only=True)
class StageRecord:
    """A stage as `run.json` describes it.

    Attributes:
        name: name of the stage and of the folder of its result.
        learner: registered name of the learner.
        arguments: arguments of the learner, as JSON values.
        trainer: settings of the `Trainer`.
        seed: seed of initial weights, batches and noise.
        finished: whether the training is finished and its result saved.
        synthetic: settings of generated training data, see
            `pgdiff.runs.regeneration.Regeneration`; empty for recorded data alone.
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
    """A run folder as its `run.json` describes it.

    Attributes:
        path: run folder.
        task: "name", "id" and the settings of the task.
        recipe: name of the recipe.
        seed: seed of the run.
        data: "path", "steps", "episodes", "sha256" and "least_reward" of the recording.
        stages: stages in the order of their training.
        planner: default settings of the planner.
        guides: settings of guides by label; see `pgdiff.runs.guides`.
        guide: label of the default guide; None for no guide.
        version: version of the library that wrote the file.

    Example:
        >>> import json, tempfile
        >>> from pathlib import Path
        >>> from pgdiff.runs import read_run
        >>> content = {
        ...     "format": 4, "task": {"name": "maze"}, "recipe": "strided", "seed": 0, "data": {},
        ...     "stages": [], "planner": {}, "guides": {}, "guide": None, "version": "1.0",
        ... }
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     _ = Path(folder, "run.json").write_text(json.dumps(content))
        ...     run = read_run(folder)
        >>> run.recipe, run.finished
        ('strided', True)
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
        """Whether every stage is finished."""
        return all(stage.finished for stage in self.stages)

    def stage(self, name: str) -> StageRecord | None:
        """Return the stage with this name; None without one."""
        return next((stage for stage in self.stages if stage.name == name), None)

    def load(self, name: str, *, device: str | torch.device = "auto") -> Pretrained:
        """Load the network of a finished stage.

        Raises:
            PgdiffError: the run has no stage with this name, or the stage is unfinished or damaged.
        """
        record = self.stage(name)
        if record is None:
            raise PgdiffError(
                f"`run` must have the stage '{name}'. '{self.path}' has the stages "
                f"{', '.join(stage.name for stage in self.stages)}."
                + (_NO_MODEL if name == MODEL else "")
            )
        if not record.finished:
            raise PgdiffError(
                f"The stage '{name}' of the run '{self.path}' is not finished. Continue its "
                f"training: pgdiff train, its settings, out={self.path} resume=true."
            )
        return load_learner(self.path / name, device=device)


def read_run(path: PathLike) -> RunInfo:
    """Read the `run.json` of a run folder.

    Raises:
        PgdiffError: the folder is missing or not a run folder, or its `run.json` is damaged or of
            a newer format.
    """
    folder = Path(path)
    file = folder / RUN
    if not folder.is_dir():
        raise PgdiffError(f"`run` must be a run folder, which `pgdiff train` makes. Got '{path}'.")
    if not file.is_file():
        other = "a saved network" if (folder / "config.json").is_file() else f"no {RUN}"
        raise PgdiffError(
            f"`run` must be a run folder, which `pgdiff train` makes. '{path}' contains {other}."
        )
    try:
        content = json.loads(file.read_bytes())
        number = content["format"]
        if isinstance(number, int) and number > RUN_FORMAT:
            raise PgdiffError(
                f"'{file}' has format {number}; this pgdiff ({library_version()}) reads formats "
                f"up to {RUN_FORMAT}. Install a newer pgdiff."
            )
        content = migrate_run(content)
        stages = tuple(StageRecord(**stage) for stage in content["stages"])
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
            f"'{file}' is damaged ({type(error).__name__}: {error}). Train the run again, or "
            "restore a copy."
        ) from error
    return info


_DERIVED = ("path", "stages")


def _check_types(info: RunInfo) -> None:
    for name in ("task", "data", "planner", "guides"):
        if not isinstance(getattr(info, name), dict):
            raise TypeError(f"`{name}` must be an object")
    for stage in info.stages:
        # The name becomes a path, which must stay inside the folder.
        if not isinstance(stage.name, str) or not stage.name.isidentifier():
            raise TypeError(f"{stage.name!r} must be an identifier to name a stage")
