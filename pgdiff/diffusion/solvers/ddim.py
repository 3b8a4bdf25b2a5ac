"""DDIM (Song et al. 2021, "Denoising diffusion implicit models")."""

from dataclasses import dataclass

from pgdiff.core.registry import register
from pgdiff.core.validation import check_range
from pgdiff.diffusion.solvers.base import Factor, Kernel, Levels, Signal, Step


def ddim(at: Step) -> Signal:
    """Return the step of eq. 12 at eta 0, which keeps the estimated noise.

    In `sigma / alpha` this is the Euler step of the probability-flow equation (Song et al. 2021,
    section 4.3). With rectified flow's schedule it is the Euler step in time. It equals
    DPM-Solver++ of order 1.
    """
    return at.alpha_to * at.x0_hat + at.sigma_to * at.epsilon


@register("solver", "ddim")
@dataclass(frozen=True, kw_only=True)
class DDIM:
    """DDIM, eq. 12 of the paper in terms of the clean estimate, with the noise of eq. 16.

    At `eta` 1 it has the distribution of DDPM and of the ancestral Euler step.

    Attributes:
        eta: share of DDPM's new noise, in [0, 1]; 0 is deterministic.

    Example:
        >>> from pgdiff import Sampling
        >>> from pgdiff.diffusion import DDIM
        >>> sampling = Sampling(steps=20, solver=DDIM(eta=0.5))
    """

    eta: float = 0.0

    def __post_init__(self) -> None:
        check_range("eta", self.eta, low=0.0, high=1.0)

    def begin(self, levels: Levels) -> None:
        """Return None: the solver has no state."""

    def kernel(self, at: Step) -> Kernel:
        """Return the Gaussian of a step; its spread is 0 at eta 0."""
        fresh = self._fresh(at)
        kept = (1 - fresh).sqrt()
        mean = at.alpha_to * at.x0_hat + at.sigma_to * kept * at.epsilon
        return Kernel(mean, at.sigma_to * fresh.sqrt(), at.alpha_to - kept * at.ratio * at.alpha)

    def step(self, at: Step, state: None) -> tuple[Signal, None]:
        """Return the sample after the step, with a share of new noise."""
        if self.eta == 0:
            return ddim(at), None
        fresh = self._fresh(at)
        noise = (1 - fresh).sqrt() * at.epsilon + fresh.sqrt() * at.noise()
        return at.alpha_to * at.x0_hat + at.sigma_to * noise, None

    def _fresh(self, at: Step) -> Factor:
        # Eq. 16 for any schedule: eta^2 times DDPM's posterior variance in units of sigma_to^2.
        return self.eta**2 * at.fresh
