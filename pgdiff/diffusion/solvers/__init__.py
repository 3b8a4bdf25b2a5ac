"""Solvers: one step of every token from its level to its next. Each is a small file."""

from pgdiff.diffusion.solvers.base import Solver
from pgdiff.diffusion.solvers.ddim import DDIM
from pgdiff.diffusion.solvers.ddpm import DDPM

__all__ = ["DDIM", "DDPM", "Solver"]
