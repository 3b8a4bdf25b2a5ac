"""Diffusion with a noise level for every token: the mathematics, in torch alone."""

from pgdiff.diffusion.classifier_free import ClassifierFree
from pgdiff.diffusion.guidance import Guidance
from pgdiff.diffusion.guidance_rules import (
    DiffuserRule,
    DiffusionForcingRule,
    GuidanceRule,
    PolicyGuidedRule,
    Score,
)
from pgdiff.diffusion.guidance_schedules import GuidanceSchedule, Interval, Power, SineBump
from pgdiff.diffusion.history_guidance import HistoryGuidance, HistoryView
from pgdiff.diffusion.known import Known
from pgdiff.diffusion.level_schedules import (
    Autoregressive,
    FullSequence,
    Pyramid,
    Trapezoid,
    full_sequence,
)
from pgdiff.diffusion.likelihood import LogLikelihood, log_likelihood
from pgdiff.diffusion.loss import diffusion_loss
from pgdiff.diffusion.loss_weights import (
    CleanWeight,
    EDMWeight,
    FusedSnrWeight,
    MinSnrWeight,
    UniformWeight,
)
from pgdiff.diffusion.monte_carlo import MonteCarlo
from pgdiff.diffusion.observed import Observed
from pgdiff.diffusion.predictions import (
    EDMPrediction,
    EpsilonPrediction,
    FlowPrediction,
    VPrediction,
    X0Prediction,
)
from pgdiff.diffusion.resample import Resample
from pgdiff.diffusion.sampler import SamplerStep, sample
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
from pgdiff.diffusion.training_levels import (
    ForcingLevels,
    IndependentLevels,
    LogNormalLevels,
    MixtureLevels,
    SequenceLevels,
)
from pgdiff.diffusion.trust_region import TrustRegion

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
    "GuidanceSchedule",
    "Heun",
    "HistoryGuidance",
    "HistoryView",
    "IndependentLevels",
    "Interval",
    "KarrasSpacing",
    "Known",
    "LinearSchedule",
    "LogLikelihood",
    "LogNormalLevels",
    "LogSnrSpacing",
    "MinSnrWeight",
    "MixtureLevels",
    "MonteCarlo",
    "NoiseSchedule",
    "Observed",
    "PolicyGuidedRule",
    "Power",
    "Pyramid",
    "Resample",
    "SamplerStep",
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
    "full_sequence",
    "level_of_noise",
    "log_likelihood",
    "sample",
]
