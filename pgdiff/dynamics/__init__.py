"""Networks of how actions move the environment."""

from pgdiff.dynamics.ensemble import DynamicsEnsemble
from pgdiff.dynamics.inverse import InverseDynamics

__all__ = ["DynamicsEnsemble", "InverseDynamics"]
