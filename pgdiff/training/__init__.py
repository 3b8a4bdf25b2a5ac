"""Training loop, checkpoints and callbacks for any `Learner`."""

from pgdiff.training.callbacks import Callback, EvaluationCallback, ProgressBar, TrainingView
from pgdiff.training.checkpoint import list_checkpoints
from pgdiff.training.divergence import TrainingDiverged
from pgdiff.training.ema import AveragedLearner
from pgdiff.training.learner import BatchSource, Learner
from pgdiff.training.loggers import MetricsFile, TensorBoard
from pgdiff.training.signals import TrainingInterrupted
from pgdiff.training.trainer import Trainer

__all__ = [
    "AveragedLearner",
    "BatchSource",
    "Callback",
    "EvaluationCallback",
    "Learner",
    "MetricsFile",
    "ProgressBar",
    "TensorBoard",
    "Trainer",
    "TrainingDiverged",
    "TrainingInterrupted",
    "TrainingView",
    "list_checkpoints",
]
