"""Policies and critics of reinforcement learning, for guides and for acting."""

from pgdiff.agents.cloning import Cloning
from pgdiff.agents.fitted_q import FittedQ
from pgdiff.agents.iql import IQL
from pgdiff.agents.protocols import ActionCritic, Actor
from pgdiff.agents.sb3.load import load
from pgdiff.agents.sb3.policy import Agent
from pgdiff.agents.sb3.spaces import check_sizes
from pgdiff.agents.sb3.vec_normalize import VecNormalizeStatistics, read_vec_normalize
from pgdiff.agents.td3_bc import TD3BC

__all__ = [
    "IQL",
    "TD3BC",
    "ActionCritic",
    "Actor",
    "Agent",
    "Cloning",
    "FittedQ",
    "VecNormalizeStatistics",
    "check_sizes",
    "load",
    "read_vec_normalize",
]
