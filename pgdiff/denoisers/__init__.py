"""Denoisers: the networks of a trajectory diffusion model."""

from pgdiff.denoisers.base import DenoiserConfig
from pgdiff.denoisers.cache import KeyValueCache
from pgdiff.denoisers.cached_calls import CachedCalls
from pgdiff.denoisers.residual_mlp import ResidualMLP, ResidualMLPConfig
from pgdiff.denoisers.temporal_unet import TemporalUnet, TemporalUnetConfig
from pgdiff.denoisers.transformer import Transformer, TransformerConfig

__all__ = [
    "CachedCalls",
    "DenoiserConfig",
    "KeyValueCache",
    "ResidualMLP",
    "ResidualMLPConfig",
    "TemporalUnet",
    "TemporalUnetConfig",
    "Transformer",
    "TransformerConfig",
]
