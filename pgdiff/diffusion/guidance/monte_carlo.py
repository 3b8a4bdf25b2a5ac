"""Monte Carlo guidance: gradients averaged over several futures.

Chen et al. (2024), "Diffusion Forcing", section 4.2 and appendix C.5: if the near tokens of a plan
are less noisy than the far ones, many futures may follow from them. The gradient of a guide at
"denoiser" is that of the objective's average over these futures, not of the objective of one future
or of their mean. At "x0" each token gets the average gradient of the objective at itself alone.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from pgdiff.core.registry import register
from pgdiff.core.validation import check_flag, check_positive_int
from pgdiff.diffusion.schedules import NoiseSchedule, factors

Signal = Float[Tensor, "batch tokens features"]
Futures = Float[Tensor, "futures_batch tokens features"]
Level = Float[Tensor, "#batch tokens"]
Denoise = Callable[[Signal, Level], Signal]


@register("monte_carlo", "futures")
@dataclass(frozen=True, kw_only=True)
class MonteCarlo:
    """Settings of the futures.

    Each future redraws the tokens at level 1, which are pure noise, and denoises all noisy tokens
    from there in a few DDIM steps. With the level schedule "full" only the first row has tokens at
    level 1. In the other rows all futures are equal, and one is computed.

    Attributes:
        futures: number of futures of each trajectory; more give a less noisy gradient.
        steps: denoising steps of a future. With one step every future is the mean of all.
        shared: if True, all rows of the sampling and all trajectories of one generator use equal
            noise, which makes their objectives comparable; otherwise each draws new noise.

    Example:
        >>> from pgdiff import Sampling
        >>> from pgdiff.diffusion import MonteCarlo, Pyramid
        >>> sampling = Sampling(level_schedule=Pyramid(), monte_carlo=MonteCarlo(futures=8))
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
        noise_schedule: NoiseSchedule,
        noise: Float[Tensor, "futures batch tokens features"],
        hold: Callable[[Tensor], Tensor] | None = None,
    ) -> Futures:
        """Return clean futures of the noisy trajectories, differentiable if `x` is.

        Args:
            denoise: clean estimate of noisy tokens; called once with all futures.
            x: noisy trajectories.
            level: levels of the tokens.
            noise_schedule: signal and noise at a level.
            noise: standard normal noise.
            hold: puts given features into trajectories `[futures, batch, tokens, features]`.

        Returns:
            `[futures * batch, tokens, features]`, future by future. One future if no token is pure
            noise, since all would be equal.
        """
        if not (level == 1).any():
            noise = noise[:1]
        _, sigma = factors(noise_schedule, level)
        drawn = torch.where((level == 1)[..., None], sigma * noise, x)

        def held(futures: Tensor) -> Tensor:
            futures = futures if hold is None else hold(futures.reshape(drawn.shape))
            return futures.reshape(-1, *x.shape[1:])

        sample = held(drawn)
        if len(level) > 1:
            level = level.repeat(len(noise), 1)
        for step in range(self.steps):
            left = 1 - torch.arange(step, step + 2).to(level) / self.steps
            now, then = level * left[0], level * left[1]
            x0_hat = denoise(sample, now)
            alpha, sigma = factors(noise_schedule, now)
            alpha_to, sigma_to = factors(noise_schedule, then)
            noisy = sigma > 0
            epsilon = (sample - alpha * x0_hat) / torch.where(noisy, sigma, 1.0)
            sample = held(torch.where(noisy, alpha_to * x0_hat + sigma_to * epsilon, sample))
        return sample
