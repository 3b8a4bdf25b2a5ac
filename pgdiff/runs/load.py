"""The planner of a run folder."""

import inspect
import os
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from pgdiff.core.registry import check_imported, registered
from pgdiff.core.settings import build, build_part, merge, part_kinds, plain, settings_classes
from pgdiff.core.validation import PgdiffError, check_in, check_positive_int, nearest
from pgdiff.guides import Guide
from pgdiff.model import TrajectoryDiffusion
from pgdiff.planning import PLANNING, Planner
from pgdiff.planning.controllers import Controller, WaypointController
from pgdiff.runs.controllers import controller_settings, is_default, load_controller
from pgdiff.runs.guides import GuideChoice, run_guides
from pgdiff.runs.run import MODEL, StageRecord, read_run

SETTINGS = settings_classes(Planner)
"""Arguments of `Planner` that are settings dataclasses."""

_OBJECTS = ("model", "guides", "seed", "device", "threads")
"""Arguments of `Planner` that are not settings of a run."""

_DEFAULTS = {"sampling": plain(PLANNING)}


def planner_class(settings: Mapping[str, Any]) -> type:
    """Return the registered class that the settings of a planner name; `Planner` without a name.

    Raises:
        PgdiffError: no planner is registered under this name.
    """
    if "name" not in settings:
        return Planner
    check_imported("planner", settings)
    name = check_in("planner.name", str(settings["name"]), registered("planner"))
    return registered("planner")[name]


def planner_keys(cls: type = Planner) -> tuple[str, ...]:
    """Return the names of the settings of a planner that a run can hold, without its `name`."""
    return tuple(name for name in part_kinds(cls) if name not in _OBJECTS)


def _classes(cls: type) -> dict[str, type]:
    return SETTINGS if cls is Planner else settings_classes(cls)


def planner_defaults(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return a run's settings of its planner with every default written out.

    Args:
        settings: plain values by the names of `Planner`'s arguments, nested as these are.

    Raises:
        PgdiffError: a setting is unknown (the message suggests the nearest one) or out of range.
    """
    planner = planner_class(settings)
    signature, classes = inspect.signature(planner).parameters, _classes(planner)
    complete: dict[str, Any] = {
        key: signature[key].default
        for key in planner_keys(planner)
        if key not in classes and key != "controller"
    }
    complete = {
        key: value for key, value in complete.items() if value is not inspect.Parameter.empty
    }
    for name, cls in classes.items():
        default = _DEFAULTS.get(name, plain(cls()))
        complete[name] = plain(build(cls, merge(default, settings.get(name, {})), name=name))
    rest = {key: plain(value) for key, value in settings.items() if key not in classes}
    check_planner(rest)
    return complete | rest


def check_planner(settings: Mapping[str, Any], stages: Sequence[StageRecord] | None = None) -> None:
    """Raise if settings of a planner hold one that is unknown or out of range.

    Args:
        settings: plain values by the names of the planner's arguments.
        stages: stages of the run; None to check the controller's form alone.
    """
    planner = planner_class(settings)
    keys, classes = planner_keys(planner), _classes(planner)
    for key, value in settings.items():
        if key == "name":
            continue
        if key not in keys:
            raise PgdiffError(f"`planner` has no '{key}'. It must be {nearest(key, keys)}")
        if key in classes:
            build(classes[key], merge(_DEFAULTS.get(key, {}), value), name=f"planner.{key}")
    if "candidates" in settings:
        check_positive_int("candidates", settings["candidates"])
    controller = settings.get("controller")
    if controller is not None:
        # A run without the default controller may be used with another one.
        controller_settings(controller, None if is_default(controller) else stages)


def planner_arguments(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments of `Planner` that complete plain settings stand for."""
    arguments: dict[str, Any] = {}
    planner = planner_class(settings)
    classes, kinds = _classes(planner), part_kinds(planner)
    for key, value in settings.items():
        if key in classes and isinstance(value, Mapping):
            arguments[key] = build(classes[key], value, name=key)
        elif key not in ("name", "controller"):
            kind = None if key == "condition" else kinds.get(key)
            arguments[key] = build_part(kind, value, name=key)
    return arguments


def load_planner(
    run: str | os.PathLike[str],
    *,
    guide: GuideChoice | None = None,
    guides: Sequence[Guide] | None = None,
    controller: Controller | WaypointController | Mapping[str, Any] | str | None = None,
    seed: int = 0,
    device: str | torch.device = "auto",
    threads: int | None = None,
    **changes: Any,
) -> Planner:
    """Return the planner of a run folder, as `pgdiff evaluate` uses it.

    Args:
        run: folder that `pgdiff train` wrote.
        guide: changes to the settings of the run's default guide, such as `{"scale": 2.0}`; or
            another guide by name: one of the run's guides, a registered guide such as "policy", or
            a stage whose network a guide can use; or several names, or settings by name; "none"
            for no guide. See `pgdiff.runs.guides`.
        guides: guide objects that replace the run's guides.
        controller: controller that follows the plans: an object; a registered controller, by its
            name ("actions" executes the plan's own actions) or as `{"name": ..., ...}`; or the
            network of a stage, by its name or as a reference such as
            `{"run": "runs/other", "stage": "inverse_dynamics"}`. The run's controller if None.
        seed: seed from which the environments' seeds are derived.
        device: device of the networks; "auto" is CUDA if available.
        threads: PyTorch's number of threads during planning.
        changes: other arguments of `Planner`, or of the registered planner `name`. Settings that
            are left out keep the values of the run. A mapping merges into the run's settings, so
            that `sampling={"steps": 20}` keeps its solver; an object, or a mapping with another
            `name`, replaces them; None switches a setting off.

    Raises:
        PgdiffError: the folder is not a run folder, a required stage is unfinished or damaged, or
            a setting is out of range.

    Example:
        >>> import tempfile
        >>> import pgdiff
        >>> from pgdiff.runs.stages import Stage
        >>> from pgdiff.testing import example_episodes
        >>> from pgdiff.workflows.train import train_stages
        >>> arguments = {"tokens": {"horizon": 8}, "denoiser": {"name": "transformer", "width": 16}}
        >>> trainer = {"steps": 2, "batch_size": 4, "validation": 0.0}
        >>> stage = Stage(
        ...     name="model", learner="trajectory_diffusion", arguments=arguments, trainer=trainer
        ... )
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     run = train_stages(
        ...         example_episodes(), [stage], folder=f"{folder}/run", task={}, progress=False
        ...     )
        ...     planner = pgdiff.load_planner(run.path, sampling={"steps": 3})
        >>> planner.sampling.steps
        3
    """
    info = read_run(run)
    model = info.load(MODEL, device=device)
    if not isinstance(model, TrajectoryDiffusion):
        raise PgdiffError(
            f"The stage '{MODEL}' of '{run}' must be a trajectory diffusion model. "
            f"Got a {type(model).__name__}."
        )
    settings = dict(info.planner)
    if "name" in changes and changes["name"] != settings.get("name", "planner"):
        settings = {"name": changes["name"]}
    cls: Any = planner_class(settings)
    keys = planner_keys(cls)
    for key in changes:
        if key not in (*keys, "name"):
            raise PgdiffError(f"`load_planner` has no '{key}'. It must be {nearest(key, keys)}")
    settings = planner_defaults(settings)
    for key, change in changes.items():
        settings[key] = merge(settings.get(key), change)
    arguments = planner_arguments(settings)
    for key, parameter in inspect.signature(cls).parameters.items():
        if key in keys and parameter.default is parameter.empty and key not in arguments:
            raise PgdiffError(f"`planner` needs `{key}`, which is missing.")
    if guides is None:
        guides = run_guides(info, guide, device=device)
    planner: Planner = cls(
        model,
        tuple(guides),
        load_controller(info, controller, device),
        seed=seed,
        device=device,
        threads=threads,
        **arguments,
    )
    return planner
