"""Predictions: the meaning of a network's raw output."""

from pgdiff.diffusion.predictions.base import Prediction, clean_estimate
from pgdiff.diffusion.predictions.edm import EDMPrediction
from pgdiff.diffusion.predictions.epsilon import EpsilonPrediction
from pgdiff.diffusion.predictions.flow import FlowPrediction
from pgdiff.diffusion.predictions.v import VPrediction
from pgdiff.diffusion.predictions.x0 import X0Prediction

__all__ = [
    "EDMPrediction",
    "EpsilonPrediction",
    "FlowPrediction",
    "Prediction",
    "VPrediction",
    "X0Prediction",
    "clean_estimate",
]
