"""Stabilisation: a denoiser is told that clean tokens are a little noisy.

Chen et al. (2024), "Diffusion Forcing", section 3.3: what a model has made itself is not quite
clean, and over a long roll-out it drifts away on what it takes for the truth. Told of a little
noise in it, it trusts it a little less.
"""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from pgdiff.diffusion.schedules import NoiseSchedule, factors
from pgdiff.validation import check_level

Signal = Float[Tensor, "batch tokens features"]
Levels = Float[Tensor, "#batch tokens"]
Denoise = Callable[[Signal, Levels], Signal]


def stabilized(denoise: Denoise, level: float, *, schedule: NoiseSchedule) -> Denoise:
    """The clean estimate of a denoiser that takes clean tokens for ones at `level`.

    They are scaled as at that level and no noise is added, as in the public code with DDIM. That is
    an error on purpose, and its price a bias: with the exact denoiser of Gaussian data the samples'
    covariance is off by a part that more steps do not take away, and which grows with the level
    (`tests/diffusion/test_stabilization.py`).

    Args:
        denoise: clean estimate of `x` at its levels.
        level: what clean tokens are labelled with, in [0, 1); 0 changes nothing.
        schedule: signal and noise at a level.
    """
    check_level("stabilization", level)
    if level == 0:
        return denoise

    def estimate(x: Signal, levels: Levels) -> Signal:
        clean = levels == 0
        told = torch.where(clean, level, levels)
        alpha, _ = factors(schedule, told)
        seen = torch.where(clean[..., None], alpha * x, x)
        return torch.where(clean[..., None], x, denoise(seen, told))

    return estimate
