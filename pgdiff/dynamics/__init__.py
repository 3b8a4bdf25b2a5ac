"""Dynamics networks: inverse dynamics and an ensemble of forward models."""

from pgdiff.dynamics.ensemble import DynamicsEnsemble
from pgdiff.dynamics.inverse import InverseDynamics

__all__ = ["DynamicsEnsemble", "InverseDynamics"]
