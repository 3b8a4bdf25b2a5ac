"""Checks of your own denoisers, guides and solvers, like Stable-Baselines3's `check_env`.

Each check raises a `PgdiffError` at the first violated requirement, with a figure and the fix. The
tests of pgdiff run these checks on its own parts.
"""

from pgdiff.testing.check_denoiser import check_denoiser
from pgdiff.testing.check_guide import check_guide
from pgdiff.testing.check_solver import check_solver
from pgdiff.testing.examples import example_episodes

__all__ = ["check_denoiser", "check_guide", "check_solver", "example_episodes"]
