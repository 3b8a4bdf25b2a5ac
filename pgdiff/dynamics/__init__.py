"""Networks of how actions move the environment."""

from pgdiff.dynamics.inverse import InverseDynamics

__all__ = ["InverseDynamics"]
