"""Noise schedules: signal and noise of a token at a noise level."""

from pgdiff.diffusion.schedules.base import (
    NoiseSchedule,
    add_noise,
    check_leak,
    factors,
    level_of_noise,
)
from pgdiff.diffusion.schedules.cosine import CosineSchedule
from pgdiff.diffusion.schedules.edm import EDMSchedule
from pgdiff.diffusion.schedules.flow import FlowSchedule
from pgdiff.diffusion.schedules.linear import LinearSchedule
from pgdiff.diffusion.schedules.sigmoid import SigmoidSchedule
from pgdiff.diffusion.schedules.tabulated import TabulatedSchedule

__all__ = [
    "CosineSchedule",
    "EDMSchedule",
    "FlowSchedule",
    "LinearSchedule",
    "NoiseSchedule",
    "SigmoidSchedule",
    "TabulatedSchedule",
    "add_noise",
    "check_leak",
    "factors",
    "level_of_noise",
]
