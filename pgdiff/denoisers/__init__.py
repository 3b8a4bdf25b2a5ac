"""Denoisers: the networks of a trajectory diffusion model."""

from pgdiff.denoisers.base import DenoiserConfig
from pgdiff.denoisers.transformer import Transformer, TransformerConfig

__all__ = ["DenoiserConfig", "Transformer", "TransformerConfig"]
