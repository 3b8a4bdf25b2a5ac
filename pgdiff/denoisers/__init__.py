"""Denoisers: the networks of a trajectory diffusion model."""

from pgdiff.denoisers.base import DenoiserConfig, DenoiserSpec
from pgdiff.denoisers.incremental import CachedCalls, CausalNetwork
from pgdiff.denoisers.residual_mlp import ResidualMLP, ResidualMLPConfig
from pgdiff.denoisers.temporal_unet import TemporalUnet, TemporalUnetConfig
from pgdiff.denoisers.transformer import Transformer, TransformerConfig
from pgdiff.nn.kv_cache import KeyValueCache

__all__ = [
    "CachedCalls",
    "CausalNetwork",
    "DenoiserConfig",
    "DenoiserSpec",
    "KeyValueCache",
    "ResidualMLP",
    "ResidualMLPConfig",
    "TemporalUnet",
    "TemporalUnetConfig",
    "Transformer",
    "TransformerConfig",
]
