"""Checks of parts that you write yourself, in the manner of Stable-Baselines3's `check_env`.

Each raises a `PgdiffError` that names the first law that does not hold, with its figure and the
mend. The package's own parts go through the same checks.
"""

from pgdiff.testing.denoiser import check_denoiser
from pgdiff.testing.guide import check_guide
from pgdiff.testing.solver import check_solver

__all__ = ["check_denoiser", "check_guide", "check_solver"]
