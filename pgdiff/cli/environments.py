"""Environments by the ids that the user names, or by the task of a run."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import gymnasium

from pgdiff.cli.tasks import known_tasks
from pgdiff.data import ObservationLayout
from pgdiff.planning import Planner
from pgdiff.planning.from_run import RunInfo
from pgdiff.validation import PgdiffError


def make_env(env_id: Any, options: Mapping[str, Any] | None = None) -> gymnasium.Env[Any, Any]:
    """Make an environment with these arguments, or say why there is none."""
    try:
        return gymnasium.make(str(env_id), **(options or {}))
    except TypeError as error:
        if not options:
            raise
        reason = str(error).strip().splitlines()[0]
        raise PgdiffError(
            f"`env_options` must be arguments of '{env_id}'. Got {dict(options)} ({reason})."
        ) from error
    except ValueError as error:  # what the environment itself refuses
        if not options or isinstance(error, PgdiffError):
            raise
        raise PgdiffError(f"`env_options` must fit '{env_id}': {error}") from error
    except (gymnasium.error.Error, ImportError) as error:
        reason = str(error).strip().splitlines()[0]
        raise PgdiffError(
            f"The environment id must be one of Gymnasium's, or MODULE:ID. Got '{env_id}' "
            f"({reason})."
        ) from error


def env_id_of(run: RunInfo, chosen: Any) -> str:
    """Return the id that the user chose, else that of the run's task.

    Nothing is imported because a file names it: the id in a `run.json` is taken if it is that of a
    task of this package, or of an environment that is registered already. A file gives no arguments
    of an environment either.
    """
    if chosen is not None:
        return str(chosen)
    recorded = run.task.get("id")
    if isinstance(recorded, str):
        if recorded in known_tasks().values() or recorded in gymnasium.registry:
            return recorded
        reason = (
            f"it was trained for '{recorded}', whose module is imported only where you name it"
            if ":" in recorded
            else f"it was trained for '{recorded}', which is not registered in Gymnasium"
        )
    else:
        reason = f"its task '{run.task.get('name')}' names no environment"
    raise PgdiffError(f"`env` must be given for the run '{run.path}', because {reason}: env=ID.")


def check_fit(planner: Planner, env: gymnasium.Env[Any, Any], run: Path) -> None:
    """Raise an error if a run's networks were made for other spaces than the environment's."""
    for kind, own in (
        ("observation", planner.observation_shape),
        ("action", _action_shape(planner)),
    ):
        shape = _shape(planner, getattr(env, f"{kind}_space"))
        if own is not None and shape != own:
            name = env.spec.id if env.spec is not None else type(env.unwrapped).__name__
            raise PgdiffError(
                f"`env` must have the spaces that the run '{run}' was trained for: {kind}s of "
                f"shape {list(own)}. Got '{name}' with {list(shape or ())}."
            )


def _shape(planner: Planner, space: gymnasium.Space[Any]) -> tuple[int, ...] | None:
    """Shape of a space; of a Dict that is laid out as the run's recording, that of the layout."""
    layout = planner.observation_layout
    if layout is None or not isinstance(space, gymnasium.spaces.Dict):
        return space.shape
    return (layout.features,) if ObservationLayout.from_space(space) == layout else ()


def _action_shape(planner: Planner) -> tuple[int, ...] | None:
    if planner.controller == "actions":
        size = planner.model.layout.action_size
        return None if size is None else (size,)
    actions = getattr(planner.controller, "actions", None)
    return None if actions is None else (int(actions),)
