"""Policy-guided trajectory diffusion for reinforcement learning.

The names below are loaded when they are first used, so that `pgdiff --help` is quick.
"""

import importlib
from typing import TYPE_CHECKING, Any

from pgdiff.core.openmp import let_threads_sleep
from pgdiff.version import __version__

let_threads_sleep()  # of use only before PyTorch is imported

if TYPE_CHECKING:
    from pgdiff import (
        agents,
        critics,
        data,
        denoisers,
        diffusion,
        dynamics,
        evaluation,
        guides,
        model,
        planning,
        plotting,
        runs,
        synthesis,
        testing,
        training,
    )
    from pgdiff.core.pretrained import load_learner
    from pgdiff.core.validation import PgdiffError
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
    from pgdiff.diffusion import DiffusionProcess, Sampling
    from pgdiff.dynamics import InverseDynamics
    from pgdiff.model import Conditioning, InpaintingPatterns, Tokens, TrajectoryDiffusion
    from pgdiff.model.rollout import rollout
    from pgdiff.planning import (
        Goals,
        ObservationFilter,
        Planner,
        Plausibility,
        Replanning,
        Selection,
        WarmStart,
        explain,
    )
    from pgdiff.runs import load_planner
    from pgdiff.synthesis import generate
    from pgdiff.training import EvaluationCallback, Trainer, TrainingInterrupted
    from pgdiff.trajectory import Condition, Layout, Plan, Segment
    from pgdiff.workflows.recording.collect import collect

__all__ = [
    "Condition",
    "Conditioning",
    "DiffusionProcess",
    "Episodes",
    "EvaluationCallback",
    "GoalValue",
    "Goals",
    "InpaintingPatterns",
    "InverseDynamics",
    "Layout",
    "ObservationFilter",
    "ObservationLayout",
    "PgdiffError",
    "Plan",
    "Planner",
    "Plausibility",
    "Replanning",
    "Sampling",
    "Segment",
    "SegmentValue",
    "Selection",
    "Tokens",
    "Trainer",
    "TrainingInterrupted",
    "TrajectoryDiffusion",
    "TransitionValue",
    "WarmStart",
    "__version__",
    "agents",
    "check",
    "collect",
    "critics",
    "data",
    "denoisers",
    "diffusion",
    "dynamics",
    "evaluation",
    "explain",
    "from_replay_buffer",
    "generate",
    "guides",
    "load_episodes",
    "load_learner",
    "load_planner",
    "model",
    "planning",
    "plotting",
    "rollout",
    "runs",
    "synthesis",
    "testing",
    "to_replay_buffer",
    "training",
    "write_hdf5",
    "write_minari",
]

_HOMES = {
    "WarmStart": "planning",
    "Tokens": "model",
    "Selection": "planning",
    "Sampling": "diffusion",
    "Replanning": "planning",
    "Plausibility": "planning",
    "ObservationFilter": "planning",
    "InpaintingPatterns": "model",
    "Goals": "planning",
    "DiffusionProcess": "diffusion",
    "Conditioning": "model",
    "Condition": "trajectory",
    "Episodes": "data",
    "EvaluationCallback": "training",
    "GoalValue": "critics",
    "InverseDynamics": "dynamics",
    "Layout": "trajectory",
    "ObservationLayout": "data",
    "PgdiffError": "core.validation",
    "Plan": "trajectory",
    "Planner": "planning",
    "Segment": "trajectory",
    "SegmentValue": "critics",
    "Trainer": "training",
    "TrainingInterrupted": "training",
    "TrajectoryDiffusion": "model",
    "TransitionValue": "critics",
    "check": "data",
    "collect": "workflows.recording.collect",
    "explain": "planning",
    "from_replay_buffer": "data",
    "generate": "synthesis",
    "load_episodes": "data",
    "load_learner": "core.pretrained",
    "load_planner": "runs",
    "rollout": "model.rollout",
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
