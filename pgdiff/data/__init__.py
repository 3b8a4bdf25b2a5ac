"""Recorded experience: files, Minari and replay buffers to episodes, segments and normalisers."""

from pgdiff.data.conditions import (
    ClassCondition,
    ConditionedDataset,
    Conditioner,
    GoalCondition,
    ReturnCondition,
)
from pgdiff.data.episodes import Episodes
from pgdiff.data.hdf5 import write_hdf5
from pgdiff.data.joined import join_episodes
from pgdiff.data.load import check, load_episodes
from pgdiff.data.mdp_arrays import to_mdp_arrays
from pgdiff.data.minari_write import write_minari
from pgdiff.data.normalizers import (
    LimitsNormalizer,
    Normalizer,
    StandardNormalizer,
    fit_normalizer,
)
from pgdiff.data.observation_layout import ObservationLayout
from pgdiff.data.problems import Problem
from pgdiff.data.replay_buffer import from_replay_buffer, to_replay_buffer
from pgdiff.data.returns import discounted_returns
from pgdiff.data.segments import SegmentBatch, SegmentDataset, SegmentIndex, segments
from pgdiff.data.squashed import ArctanhNormalizer, fit_tokens

__all__ = [
    "ArctanhNormalizer",
    "ClassCondition",
    "ConditionedDataset",
    "Conditioner",
    "Episodes",
    "GoalCondition",
    "LimitsNormalizer",
    "Normalizer",
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
