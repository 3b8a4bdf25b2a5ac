"""Recorded experience: loading and writing of episodes, segments, conditions and normalisers."""

from pgdiff.data.conditions import (
    ClassCondition,
    ConditionedDataset,
    Conditioner,
    GoalCondition,
    HintConditioner,
    ObservationCondition,
    ReturnCondition,
)
from pgdiff.data.dict_observations import ObservationLayout
from pgdiff.data.episodes import Episodes, join_episodes
from pgdiff.data.formats.d3rlpy import to_mdp_arrays
from pgdiff.data.formats.hdf5 import write_hdf5
from pgdiff.data.formats.minari_writer import write_minari
from pgdiff.data.formats.replay_buffer import from_replay_buffer, to_replay_buffer
from pgdiff.data.loading import check, load_episodes
from pgdiff.data.normalizers import (
    ArctanhNormalizer,
    LimitsNormalizer,
    Normalizer,
    StandardNormalizer,
    fit_normalizer,
    fit_tokens,
)
from pgdiff.data.returns import discounted_returns
from pgdiff.data.schema import Problem
from pgdiff.data.segments import SegmentBatch, SegmentDataset, SegmentIndex, segments

__all__ = [
    "ArctanhNormalizer",
    "ClassCondition",
    "ConditionedDataset",
    "Conditioner",
    "Episodes",
    "GoalCondition",
    "HintConditioner",
    "LimitsNormalizer",
    "Normalizer",
    "ObservationCondition",
    "ObservationLayout",
    "Problem",
    "ReturnCondition",
    "SegmentBatch",
    "SegmentDataset",
    "SegmentIndex",
    "StandardNormalizer",
    "check",
    "discounted_returns",
    "fit_normalizer",
    "fit_tokens",
    "from_replay_buffer",
    "join_episodes",
    "load_episodes",
    "segments",
    "to_mdp_arrays",
    "to_replay_buffer",
    "write_hdf5",
    "write_minari",
]
