"""Diffusion with a noise level for every token, in PyTorch alone."""

from pgdiff.diffusion.guidance.classifier_free import ClassifierFree
from pgdiff.diffusion.guidance.guidance import Guidance
from pgdiff.diffusion.guidance.history import HistoryGuidance, HistoryView
from pgdiff.diffusion.guidance.monte_carlo import MonteCarlo
from pgdiff.diffusion.guidance.rules import (
    DiffuserRule,
    DiffusionForcingRule,
    GuidanceRule,
    PolicyGuidedRule,
    Score,
)
from pgdiff.diffusion.guidance.scale_schedules import Interval, Power, ScaleSchedule, SineBump
from pgdiff.diffusion.guidance.trust_region import TrustRegion
from pgdiff.diffusion.inpainting import Inpainting
from pgdiff.diffusion.level_distributions import (
    ForcingLevels,
    IndependentLevels,
    LogNormalLevels,
    MixtureLevels,
    SequenceLevels,
)
from pgdiff.diffusion.level_schedules import (
    Autoregressive,
    FullSequence,
    Pyramid,
    Trapezoid,
    full_sequence,
)
from pgdiff.diffusion.likelihood import LogLikelihood, log_likelihood
from pgdiff.diffusion.loss import (
    CleanWeight,
    EDMWeight,
    FusedSnrWeight,
    MinSnrWeight,
    UniformWeight,
    diffusion_loss,
    diffusion_loss_terms,
)
from pgdiff.diffusion.measurements import Measurement
from pgdiff.diffusion.noise import NoiseSource
from pgdiff.diffusion.particles import Resample
from pgdiff.diffusion.predictions import (
    EDMPrediction,
    EpsilonPrediction,
    FlowPrediction,
    VPrediction,
    X0Prediction,
)
from pgdiff.diffusion.process import DiffusionProcess
from pgdiff.diffusion.sampler import PreparedSampling, SamplerStep, prepare, run, sample
from pgdiff.diffusion.sampling import Sampling
from pgdiff.diffusion.schedules import (
    CosineSchedule,
    EDMSchedule,
    FlowSchedule,
    LinearSchedule,
    NoiseSchedule,
    SigmoidSchedule,
    TabulatedSchedule,
    level_of_noise,
)
from pgdiff.diffusion.solvers import (
    DDIM,
    DDPM,
    Churn,
    Consistency,
    DPMSolver,
    Heun,
    Solver,
    Step,
)
from pgdiff.diffusion.spacing import KarrasSpacing, LogSnrSpacing, TrailingSpacing, UniformSpacing

__all__ = [
    "DDIM",
    "DDPM",
    "Autoregressive",
    "Churn",
    "ClassifierFree",
    "CleanWeight",
    "Consistency",
    "CosineSchedule",
    "DPMSolver",
    "DiffuserRule",
    "DiffusionForcingRule",
    "DiffusionProcess",
    "EDMPrediction",
    "EDMSchedule",
    "EDMWeight",
    "EpsilonPrediction",
    "FlowPrediction",
    "FlowSchedule",
    "ForcingLevels",
    "FullSequence",
    "FusedSnrWeight",
    "Guidance",
    "GuidanceRule",
    "Heun",
    "HistoryGuidance",
    "HistoryView",
    "IndependentLevels",
    "Inpainting",
    "Interval",
    "KarrasSpacing",
    "LinearSchedule",
    "LogLikelihood",
    "LogNormalLevels",
    "LogSnrSpacing",
    "Measurement",
    "MinSnrWeight",
    "MixtureLevels",
    "MonteCarlo",
    "NoiseSchedule",
    "NoiseSource",
    "PolicyGuidedRule",
    "Power",
    "PreparedSampling",
    "Pyramid",
    "Resample",
    "SamplerStep",
    "Sampling",
    "ScaleSchedule",
    "Score",
    "SequenceLevels",
    "SigmoidSchedule",
    "SineBump",
    "Solver",
    "Step",
    "TabulatedSchedule",
    "TrailingSpacing",
    "Trapezoid",
    "TrustRegion",
    "UniformSpacing",
    "UniformWeight",
    "VPrediction",
    "X0Prediction",
    "diffusion_loss",
    "diffusion_loss_terms",
    "full_sequence",
    "level_of_noise",
    "log_likelihood",
    "prepare",
    "run",
    "sample",
]
