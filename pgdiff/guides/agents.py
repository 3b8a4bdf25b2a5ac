"""Agents as guides ask them: what they are made from, and the actions that they judge."""

import os
from pathlib import Path
from typing import Any

from jaxtyping import Float
from torch import Tensor

from pgdiff.agents import check_sizes, load
from pgdiff.model import TrajectoryDiffusion
from pgdiff.pretrained import load_learner
from pgdiff.saving import CONFIG
from pgdiff.trajectory import Layout, Segment
from pgdiff.validation import PgdiffError


def opened(agent: Any, *, name: str, methods: tuple[str, ...]) -> Any:
    """Return an agent from what stands for one.

    Args:
        agent: an object with one of the methods; a live model of Stable-Baselines3; or the path of
            its zip, or of the folder of an agent that this package trained, or of a run that has
            one.
        name: of the argument, for errors.
        methods: that a guide may call.

    Raises:
        PgdiffError: an object without any of the methods, or a file that cannot be read.
    """
    if isinstance(agent, str | os.PathLike):
        # A network of any kind, such as a critic without a policy; else an agent's file or a run.
        network = (Path(agent) / CONFIG).is_file()
        agent = load_learner(agent) if network else load(agent)
    elif hasattr(agent, "policy") and not any(hasattr(agent, method) for method in methods):
        agent = load(agent)
    if isinstance(agent, type) or not any(callable(getattr(agent, m, None)) for m in methods):
        raise PgdiffError(
            f"`{name}` must be the path of an agent, a model of Stable-Baselines3, or an object "
            f"with the method {' or '.join(methods)}. Got a {type(agent).__name__}."
        )
    return agent


def check_fit(agent: Any, model: TrajectoryDiffusion, *, name: str) -> None:
    """Refuse an agent of observations or actions of other sizes than a model's, naming both."""
    observation = dict(model.layout.fields)["observations"]
    action = model.layout.action_size
    check_sizes(agent, observation=observation, action=action, name=name)


def check_estimates(
    estimates: object, judged: Float[Tensor, "batch rows features"], *, method: str, name: str
) -> Tensor:
    """Return what an agent's method gave, if its last dimensions are those of what it judged."""
    shape = judged.shape[:2]
    if not isinstance(estimates, Tensor) or estimates.shape[-2:] != shape:
        found = list(estimates.shape) if isinstance(estimates, Tensor) else type(estimates).__name__
        raise PgdiffError(
            f"`{method}` of the agent of '{name}' must give a number for each token, "
            f"[..., {shape[0]}, {shape[1]}]. Got {found}."
        )
    return estimates


def decisions_of(
    segment: Segment, *, name: str
) -> tuple[Float[Tensor, "batch rows observation"], Float[Tensor, "batch rows action"]]:
    """Observations and the action at each (`Segment.decisions`).

    Raises:
        PgdiffError: a segment without actions.
    """
    found = segment.decisions
    if found is None:
        raise PgdiffError(f"`segment` must have actions for '{name}'. Got observations alone.")
    return found


def check_has_actions(layout: Layout, *, name: str) -> None:
    """Refuse a layout without actions.

    Args:
        layout: of a model.
        name: of what needs actions, for errors.
    """
    if layout.action_size is None:
        raise PgdiffError(
            f"`fields` of the model must hold 'actions' or chunks of them for '{name}'. "
            f"Got {', '.join(layout.slices)}: train the model with "
            "fields=('observations', 'actions')."
        )
