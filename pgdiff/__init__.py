"""Policy-guided trajectory diffusion for reinforcement learning.

The names below are loaded when they are first used, so that `pgdiff --help` is quick.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pgdiff import (
        critics,
        denoisers,
        diffusion,
        dynamics,
        evaluation,
        guides,
        plotting,
        testing,
    )
    from pgdiff.critics import SegmentValue, TransitionValue
    from pgdiff.data import Episodes, check, load_episodes
    from pgdiff.dynamics import InverseDynamics
    from pgdiff.model import TrajectoryDiffusion
    from pgdiff.planning import Planner
    from pgdiff.pretrained import load_learner
    from pgdiff.training import Trainer
    from pgdiff.trajectory import Condition, Layout, Plan, Segment
    from pgdiff.validation import PgdiffError
    from pgdiff.workflows.collect import collect

__all__ = [
    "Condition",
    "Episodes",
    "InverseDynamics",
    "Layout",
    "PgdiffError",
    "Plan",
    "Planner",
    "Segment",
    "SegmentValue",
    "Trainer",
    "TrajectoryDiffusion",
    "TransitionValue",
    "check",
    "collect",
    "critics",
    "denoisers",
    "diffusion",
    "dynamics",
    "evaluation",
    "guides",
    "load_episodes",
    "load_learner",
    "plotting",
    "testing",
]

_HOMES = {
    "Condition": "trajectory",
    "Episodes": "data",
    "InverseDynamics": "dynamics",
    "Layout": "trajectory",
    "PgdiffError": "validation",
    "Plan": "trajectory",
    "Planner": "planning",
    "Segment": "trajectory",
    "SegmentValue": "critics",
    "Trainer": "training",
    "TrajectoryDiffusion": "model",
    "TransitionValue": "critics",
    "check": "data",
    "collect": "workflows.collect",
    "load_episodes": "data",
    "load_learner": "pretrained",
}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'pgdiff' has no attribute '{name}'")
    if name not in _HOMES:
        return importlib.import_module(f"pgdiff.{name}")
    return getattr(importlib.import_module(f"pgdiff.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return __all__
