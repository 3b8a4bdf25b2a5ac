"""Recorded experience: D4RL HDF5 files to episodes, segments, returns and normalisers."""

from pgdiff.data.conditions import (
    ClassCondition,
    ConditionedDataset,
    Conditioner,
    GoalCondition,
    ReturnCondition,
)
from pgdiff.data.episodes import Episodes
from pgdiff.data.hdf5 import write_hdf5
from pgdiff.data.load import check, load_episodes
from pgdiff.data.normalizers import (
    LimitsNormalizer,
    Normalizer,
    StandardNormalizer,
    fit_normalizer,
)
from pgdiff.data.problems import Problem
from pgdiff.data.returns import discounted_returns
from pgdiff.data.segments import SegmentBatch, SegmentDataset, SegmentIndex, segments

__all__ = [
    "ClassCondition",
    "ConditionedDataset",
    "Conditioner",
    "Episodes",
    "GoalCondition",
    "LimitsNormalizer",
    "Normalizer",
    "Problem",
    "ReturnCondition",
    "SegmentBatch",
    "SegmentDataset",
    "SegmentIndex",
    "StandardNormalizer",
    "check",
    "discounted_returns",
    "fit_normalizer",
    "load_episodes",
    "segments",
    "write_hdf5",
]
