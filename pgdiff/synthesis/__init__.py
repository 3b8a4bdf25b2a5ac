"""Synthetic experience: a trajectory diffusion model as a source of data."""

from pgdiff.synthesis.decode import Counts, decode
from pgdiff.synthesis.ends import TaskEnds
from pgdiff.synthesis.generate import generate, write_part
from pgdiff.synthesis.sampling import ShardSampler
from pgdiff.synthesis.shards import ShardFolder

__all__ = ["Counts", "ShardFolder", "ShardSampler", "TaskEnds", "decode", "generate", "write_part"]
