"""Adapters from agents and critics to guides."""

import os
from pathlib import Path
from typing import Any

from jaxtyping import Float
from torch import Tensor

from pgdiff.agents import check_sizes, load
from pgdiff.core.pretrained import load_learner
from pgdiff.core.serialization import CONFIG
from pgdiff.core.validation import PgdiffError
from pgdiff.model import TrajectoryDiffusion
from pgdiff.trajectory import Segment, SegmentSpec


def resolve_agent(agent: Any, *, name: str, methods: tuple[str, ...]) -> Any:
    """Return an agent from an object or a path.

    Args:
        agent: an object with one of the methods; a live model of Stable-Baselines3; or the path of
            a Stable-Baselines3 zip, of the folder of an agent that this package trained, or of a
            run with an agent.
        name: name of the argument in error messages.
        methods: methods that a guide may call.

    Raises:
        PgdiffError: the object has none of the methods, or the file cannot be read.
    """
    if isinstance(agent, str | os.PathLike):
        # A network, such as a critic without a policy; otherwise an agent's file or a run.
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
    """Raise if the observation or action size of an agent differs from that of a model."""
    observation = model.codec.spec.observation_size
    action = model.codec.spec.action_size
    check_sizes(agent, observation=observation, action=action, name=name)


def check_estimates(
    estimates: object, judged: Float[Tensor, "batch rows features"], *, method: str, name: str
) -> Tensor:
    """Return an agent's estimates; raise unless they have one number for each judged token."""
    shape = judged.shape[:2]
    if not isinstance(estimates, Tensor) or estimates.shape[-2:] != shape:
        got = list(estimates.shape) if isinstance(estimates, Tensor) else type(estimates).__name__
        raise PgdiffError(
            f"`{method}` of the agent of '{name}' must return a number for each token, "
            f"[..., {shape[0]}, {shape[1]}]. Got {got}."
        )
    return estimates


def decisions_of(
    segment: Segment, *, name: str
) -> tuple[Float[Tensor, "batch rows observation"], Float[Tensor, "batch rows action"]]:
    """Return the observations and the action at each (`Segment.decisions`).

    Raises:
        PgdiffError: the segment has no actions.
    """
    decisions = segment.decisions
    if decisions is None:
        raise PgdiffError(f"`segment` must have actions for '{name}'. Got observations alone.")
    return decisions


def check_has_actions(spec: SegmentSpec, *, name: str) -> None:
    """Raise if segments have no actions.

    Args:
        spec: fields of the segments of a model.
        name: name of the guide in the error message.
    """
    if spec.action_size is None:
        raise PgdiffError(
            f"`fields` of the model must hold 'actions' or chunks of them for '{name}'. "
            f"Got {', '.join(spec.sizes)}. Train the model with "
            "fields=('observations', 'actions')."
        )
