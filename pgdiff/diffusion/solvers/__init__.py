"""Solvers: one step of every token from its level to its next level."""

from pgdiff.diffusion.solvers.base import Kernel, Solver, Step
from pgdiff.diffusion.solvers.churn import Churn
from pgdiff.diffusion.solvers.consistency import Consistency
from pgdiff.diffusion.solvers.ddim import DDIM
from pgdiff.diffusion.solvers.ddpm import DDPM
from pgdiff.diffusion.solvers.dpm_solver import DPMSolver
from pgdiff.diffusion.solvers.heun import Heun

__all__ = ["DDIM", "DDPM", "Churn", "Consistency", "DPMSolver", "Heun", "Kernel", "Solver", "Step"]
