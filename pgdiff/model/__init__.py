"""The trajectory diffusion model: codec, conditions, in-painting and roll-outs."""

from pgdiff.model.affine_codec import AffineCodec
from pgdiff.model.codec import Codec
from pgdiff.model.conditioning import Conditioning
from pgdiff.model.inpainting import InpaintingPatterns
from pgdiff.model.tokens import Tokens
from pgdiff.model.trajectory_diffusion import Samples, TrajectoryDiffusion

__all__ = [
    "AffineCodec",
    "Codec",
    "Conditioning",
    "InpaintingPatterns",
    "Samples",
    "Tokens",
    "TrajectoryDiffusion",
]
