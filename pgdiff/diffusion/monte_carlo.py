"""Monte Carlo guidance: the gradient is averaged over several futures.

Chen et al. (2024), "Diffusion Forcing", section 4.2 and appendix C.5: where the near tokens of a
plan are less noisy than the far ones, many futures may follow from them. A near token's gradient is
that of what it is worth on average, not of what it is worth in one future or in their mean: the
gradient of a guide at "denoiser", that is. At "x0" it is that of its own part in each future.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from pgdiff.diffusion.schedules import NoiseSchedule, factors
from pgdiff.registry import register
from pgdiff.validation import check_flag, check_positive_int

Signal = Float[Tensor, "batch tokens features"]
Futures = Float[Tensor, "futures_batch tokens features"]
Level = Float[Tensor, "#batch tokens"]
Denoise = Callable[[Signal, Level], Signal]


@register("monte_carlo", "futures")
@dataclass(frozen=True, kw_only=True)
class MonteCarlo:
    """How futures are drawn.

    Tokens at level 1, which are noise alone, are drawn anew, and all that is noisy is denoised from
    there, in a few steps of DDIM. With the schedule "full" no token but those of the first row is
    noise alone: all futures are then one, which is computed once.

    Attributes:
        futures: number of them, for each trajectory.
        steps: of their denoising. In one step every future is the mean of all.
        shared: whether all rows of the sampling, and all trajectories of one generator, share the
            same noise, which makes what they are worth comparable; without, each draws its own.
    """

    futures: int = 4
    steps: int = 3
    shared: bool = False

    def __post_init__(self) -> None:
        check_positive_int("futures", self.futures)
        check_positive_int("steps", self.steps)
        check_flag("shared", self.shared)

    def clean(
        self,
        denoise: Denoise,
        x: Signal,
        level: Level,
        *,
        schedule: NoiseSchedule,
        noise: Float[Tensor, "futures batch tokens features"],
        hold: Callable[[Tensor], Tensor] | None = None,
    ) -> Futures:
        """Clean futures of the noisy trajectories, differentiable if `x` is.

        Args:
            denoise: clean estimate of noisy tokens; called with all futures at once.
            x: noisy trajectories.
            level: of their tokens.
            schedule: signal and noise at a level.
            noise: standard normal.
            hold: puts what is known into trajectories `[futures, batch, tokens, features]`.

        Returns:
            `[futures * batch, tokens, features]`, the trajectories of each future side by side;
            one future where no token is noise alone, since all would be the same.
        """
        if not (level == 1).any():
            noise = noise[:1]
        _, sigma = factors(schedule, level)
        drawn = torch.where((level == 1)[..., None], sigma * noise, x)

        def held(found: Tensor) -> Tensor:
            found = found if hold is None else hold(found.reshape(drawn.shape))
            return found.reshape(-1, *x.shape[1:])

        sample = held(drawn)
        if len(level) > 1:
            level = level.repeat(len(noise), 1)
        for step in range(self.steps):
            left = 1 - torch.arange(step, step + 2).to(level) / self.steps
            now, then = level * left[0], level * left[1]
            x0_hat = denoise(sample, now)
            alpha, sigma = factors(schedule, now)
            alpha_to, sigma_to = factors(schedule, then)
            noisy = sigma > 0
            epsilon = (sample - alpha * x0_hat) / torch.where(noisy, sigma, 1.0)
            sample = held(torch.where(noisy, alpha_to * x0_hat + sigma_to * epsilon, sample))
        return sample
