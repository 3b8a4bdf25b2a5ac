"""Multistep consistency sampling (Song et al. 2023, "Consistency models", algorithm 1)."""

from dataclasses import dataclass

from pgdiff.diffusion.schedules import NoiseSchedule
from pgdiff.diffusion.solvers.base import Levels, Signal, Step
from pgdiff.registry import register
from pgdiff.validation import PgdiffError


@register("solver", "consistency")
@dataclass(frozen=True, kw_only=True)
class Consistency:
    """Go to a clean sample, and from there to the next level with all the noise drawn afresh.

    The model's estimate must be a consistency function: the end of the probability flow through
    `x`, a sample. A denoiser's is the mean of all clean samples that `x` may come from, and
    samples made of means are wrong.

    Attributes:
        force: use it with a model that does not declare itself distilled.
    """

    force: bool = False

    def check(self, *, schedule: NoiseSchedule, distilled: bool) -> None:
        """Refuse a model that is not a consistency function.

        Raises:
            PgdiffError: neither `distilled` nor `force`.
        """
        if not distilled and not self.force:
            raise PgdiffError(
                "Solver 'consistency' needs a model that is a consistency function and says so "
                "(distilled=True). Got a model trained as a denoiser. Use another solver, such as "
                "'dpm_solver', or Consistency(force=True)."
            )

    def begin(self, levels: Levels) -> None:
        """Nothing is remembered."""

    def step(self, at: Step, state: None) -> tuple[Signal, None]:
        """Clean estimate plus fresh noise of the next level."""
        return at.alpha_to * at.x0_hat + at.sigma_to * at.noise(), None
