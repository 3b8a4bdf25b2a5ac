"""Policy-guided trajectory diffusion for reinforcement learning.

The names below are loaded when they are first used, so that `pgdiff --help` is quick.
"""

import importlib
from typing import TYPE_CHECKING, Any

from pgdiff.threads import let_threads_sleep
from pgdiff.version import __version__

let_threads_sleep()  # of use only before PyTorch is imported

if TYPE_CHECKING:
    from pgdiff import (
        agents,
        critics,
        denoisers,
        diffusion,
        dynamics,
        evaluation,
        guides,
        plotting,
        synthesis,
        testing,
    )
    from pgdiff.critics import GoalValue, SegmentValue, TransitionValue
    from pgdiff.data import (
        Episodes,
        ObservationLayout,
        check,
        from_replay_buffer,
        load_episodes,
        to_replay_buffer,
        write_hdf5,
        write_minari,
    )
    from pgdiff.dynamics import InverseDynamics
    from pgdiff.model import TrajectoryDiffusion
    from pgdiff.planning import Planner
    from pgdiff.pretrained import load_learner
    from pgdiff.synthesis import generate
    from pgdiff.training import EvaluationCallback, Trainer, TrainingInterrupted
    from pgdiff.trajectory import Condition, Layout, Plan, Segment
    from pgdiff.validation import PgdiffError
    from pgdiff.windows import rollout
    from pgdiff.workflows.collect import collect

__all__ = [
    "Condition",
    "Episodes",
    "EvaluationCallback",
    "GoalValue",
    "InverseDynamics",
    "Layout",
    "ObservationLayout",
    "PgdiffError",
    "Plan",
    "Planner",
    "Segment",
    "SegmentValue",
    "Trainer",
    "TrainingInterrupted",
    "TrajectoryDiffusion",
    "TransitionValue",
    "__version__",
    "agents",
    "check",
    "collect",
    "critics",
    "denoisers",
    "diffusion",
    "dynamics",
    "evaluation",
    "from_replay_buffer",
    "generate",
    "guides",
    "load_episodes",
    "load_learner",
    "plotting",
    "rollout",
    "synthesis",
    "testing",
    "to_replay_buffer",
    "write_hdf5",
    "write_minari",
]

_HOMES = {
    "Condition": "trajectory",
    "Episodes": "data",
    "EvaluationCallback": "training",
    "GoalValue": "critics",
    "InverseDynamics": "dynamics",
    "Layout": "trajectory",
    "ObservationLayout": "data",
    "PgdiffError": "validation",
    "Plan": "trajectory",
    "Planner": "planning",
    "Segment": "trajectory",
    "SegmentValue": "critics",
    "Trainer": "training",
    "TrainingInterrupted": "training",
    "TrajectoryDiffusion": "model",
    "TransitionValue": "critics",
    "check": "data",
    "collect": "workflows.collect",
    "from_replay_buffer": "data",
    "generate": "synthesis",
    "load_episodes": "data",
    "load_learner": "pretrained",
    "rollout": "windows",
    "to_replay_buffer": "data",
    "write_hdf5": "data",
    "write_minari": "data",
}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'pgdiff' has no attribute '{name}'")
    if name not in _HOMES:
        return importlib.import_module(f"pgdiff.{name}")
    return getattr(importlib.import_module(f"pgdiff.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return __all__
