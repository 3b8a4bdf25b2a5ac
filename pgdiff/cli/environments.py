"""Environments that are named by an id or by the task of a run."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import gymnasium

from pgdiff.cli.tasks import is_available
from pgdiff.core.validation import PgdiffError
from pgdiff.data import ObservationLayout
from pgdiff.planning import Planner
from pgdiff.runs.run import RunInfo


def make_env(env_id: Any, options: Mapping[str, Any] | None = None) -> gymnasium.Env[Any, Any]:
    """Return a new environment.

    Args:
        env_id: id in Gymnasium, with or without `MODULE:`.
        options: keyword arguments of the environment.

    Raises:
        PgdiffError: the id is unknown, or the environment does not accept the arguments.

    Example:
        >>> from pgdiff.cli.environments import make_env
        >>> make_env("Pendulum-v1").observation_space.shape
        (3,)
    """
    try:
        return gymnasium.make(str(env_id), **(options or {}))
    except TypeError as error:
        if not options:
            raise
        reason = str(error).strip().splitlines()[0]
        raise PgdiffError(
            f"`env_options` must be arguments of '{env_id}'. Got {dict(options)} ({reason})."
        ) from error
    except ValueError as error:  # the environment does not accept the arguments
        if not options or isinstance(error, PgdiffError):
            raise
        raise PgdiffError(f"`env_options` must fit '{env_id}': {error}") from error
    except (gymnasium.error.Error, ImportError) as error:
        reason = str(error).strip().splitlines()[0]
        raise PgdiffError(
            "The environment id must be registered in Gymnasium or have the form MODULE:ID. Got "
            f"'{env_id}' ({reason})."
        ) from error


def env_id_of(run: RunInfo, chosen: Any) -> str:
    """Return the chosen environment id, or the id of the run's task.

    A file never imports a module: the id in a `run.json` is used only if it belongs to a task of
    this package or to an environment that is registered already. Arguments of an environment are
    never read from a file.
    """
    if chosen is not None:
        return str(chosen)
    recorded = run.task.get("id")
    if isinstance(recorded, str):
        if is_available(recorded):
            return recorded
        reason = (
            f"it was trained for '{recorded}', and pgdiff never imports a module that a file names"
            if ":" in recorded
            else f"it was trained for '{recorded}', which is not registered in Gymnasium"
        )
    else:
        reason = f"its task '{run.task.get('name')}' has no environment"
    raise PgdiffError(
        f"`env` must be given for the run '{run.path}', because {reason}. Set env=ID."
    )


def check_fit(planner: Planner, env: gymnasium.Env[Any, Any], run: Path) -> None:
    """Raise unless the environment has the spaces that the networks of a run were trained for."""
    for kind, trained in (
        ("observation", planner.observation_shape),
        ("action", _action_shape(planner)),
    ):
        shape = _shape(planner, getattr(env, f"{kind}_space"))
        if trained is not None and shape != trained:
            name = env.spec.id if env.spec is not None else type(env.unwrapped).__name__
            raise PgdiffError(
                f"`env` must have the spaces that the run '{run}' was trained for: {kind}s of "
                f"shape {list(trained)}. Got '{name}' with {list(shape or ())}."
            )


def _shape(planner: Planner, space: gymnasium.Space[Any]) -> tuple[int, ...] | None:
    """Return the shape of a space; for a Dict space with the run's layout, the flattened shape."""
    layout = planner.observation_layout
    if layout is None or not isinstance(space, gymnasium.spaces.Dict):
        return space.shape
    return (layout.features,) if ObservationLayout.from_space(space) == layout else ()


def _action_shape(planner: Planner) -> tuple[int, ...] | None:
    if planner.controller == "actions":
        size = planner.model.codec.spec.action_size
        return None if size is None else (size,)
    actions = getattr(planner.controller, "actions", None)
    return None if actions is None else (int(actions),)
