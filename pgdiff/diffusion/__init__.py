"""Diffusion with a noise level for every token: the mathematics, in torch alone."""

from pgdiff.diffusion.guidance import Guidance
from pgdiff.diffusion.known import Known
from pgdiff.diffusion.level_schedules import full_sequence
from pgdiff.diffusion.loss import diffusion_loss
from pgdiff.diffusion.predictions import EpsilonPrediction, VPrediction, X0Prediction
from pgdiff.diffusion.sampler import SamplerStep, sample
from pgdiff.diffusion.schedules import CosineSchedule, LinearSchedule, NoiseSchedule
from pgdiff.diffusion.solvers import DDIM, DDPM, Solver

__all__ = [
    "DDIM",
    "DDPM",
    "CosineSchedule",
    "EpsilonPrediction",
    "Guidance",
    "Known",
    "LinearSchedule",
    "NoiseSchedule",
    "SamplerStep",
    "Solver",
    "VPrediction",
    "X0Prediction",
    "diffusion_loss",
    "full_sequence",
    "sample",
]
