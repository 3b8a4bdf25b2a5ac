"""Synthetic experience sampled from a trajectory diffusion model."""

from pgdiff.synthesis.decode import Counts, decode
from pgdiff.synthesis.generate import Workers, generate, write_part
from pgdiff.synthesis.shard_sampler import ShardSampler
from pgdiff.synthesis.shards import ShardFolder
from pgdiff.synthesis.termination import TaskEnds

__all__ = [
    "Counts",
    "ShardFolder",
    "ShardSampler",
    "TaskEnds",
    "Workers",
    "decode",
    "generate",
    "write_part",
]
