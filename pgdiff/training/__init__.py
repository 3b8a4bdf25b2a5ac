"""Training of anything that is a `Learner`."""

from pgdiff.training.callbacks import Callback, EvaluationCallback, ProgressBar
from pgdiff.training.checkpoint import list_checkpoints
from pgdiff.training.divergence import TrainingDiverged
from pgdiff.training.ema import AveragedLearner
from pgdiff.training.learner import BatchSource, Learner
from pgdiff.training.records import MetricsFile, TensorBoard
from pgdiff.training.stopping import TrainingInterrupted
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
    "list_checkpoints",
]
