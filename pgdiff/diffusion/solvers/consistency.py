"""Multistep consistency sampling (Song et al. 2023, "Consistency models", algorithm 1)."""

from dataclasses import dataclass

from pgdiff.core.registry import register
from pgdiff.core.validation import PgdiffError
from pgdiff.diffusion.schedules import NoiseSchedule
from pgdiff.diffusion.solvers.base import Levels, Signal, Step


@register("solver", "consistency")
@dataclass(frozen=True, kw_only=True)
class Consistency:
    """A step to a clean sample and from there to the next level with new noise.

    The model's estimate must be a consistency function: the end of the probability flow through
    `x`, which is a sample. A denoiser's estimate is the mean of all clean samples that `x` may come
    from, and samples built from means have the wrong distribution.

    Attributes:
        force: whether to accept a model that is not declared as distilled.

    Example:
        >>> from pgdiff import Sampling
        >>> from pgdiff.diffusion import Consistency
        >>> sampling = Sampling(steps=2, solver=Consistency())
    """

    force: bool = False

    def check(self, *, noise_schedule: NoiseSchedule, distilled: bool) -> None:
        """Raise if the model is not a consistency function, unless `force` is set."""
        if not distilled and not self.force:
            raise PgdiffError(
                "Solver 'consistency' needs a model that is declared as a consistency function "
                "(distilled=True). Got a model trained as a denoiser. Use another solver, such as "
                "'dpm_solver', or Consistency(force=True)."
            )

    def begin(self, levels: Levels) -> None:
        """Return None: the solver has no state."""

    def step(self, at: Step, state: None) -> tuple[Signal, None]:
        """Return the scaled clean estimate plus new noise of the next level."""
        return at.alpha_to * at.x0_hat + at.sigma_to * at.noise(), None
