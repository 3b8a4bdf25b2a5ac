"""The training loss, with a noise level for every token."""

from collections.abc import Callable

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from pgdiff.diffusion.predictions import Prediction
from pgdiff.diffusion.schedules import NoiseSchedule

Signal = Float[Tensor, "batch tokens features"]
Level = Float[Tensor, "batch tokens"]


def sequence_levels(batch: int, tokens: int, *, generator: torch.Generator) -> Level:
    """One level for each sequence, the same for all its tokens.

    The levels of a batch are evenly spaced with one common random offset, which lowers the
    variance of the loss (Kingma et al. 2021, appendix I.1).
    """
    device = generator.device
    offset = torch.rand((), generator=generator, device=device)
    level = (torch.arange(batch, device=device) / batch + offset) % 1.0
    return level[:, None].expand(-1, tokens)


def diffusion_loss(
    network: Callable[[Signal, Level], Signal],
    x0: Signal,
    level: Level,
    epsilon: Signal,
    *,
    schedule: NoiseSchedule,
    prediction: Prediction,
    known: Bool[Tensor, "batch tokens features"],
    valid: Bool[Tensor, "batch tokens"] | None = None,
) -> Float[Tensor, ""]:
    """Mean squared error of the network's output, over what is neither known nor padding.

    Args:
        network: raw output at a noisy sample and its levels.
        x0: clean, normalised tokens.
        level: level of every token.
        epsilon: standard normal noise.
        schedule: signal and noise at a level.
        prediction: what the output means.
        known: features that are given: clean in the input, of weight 0 in the loss. Tokens known
            as a whole get level 0.
        valid: False at padding, which has weight 0 too.
    """
    level = torch.where(known.all(dim=-1), 0.0, level)
    alpha, sigma = schedule.alpha(level)[..., None], schedule.sigma(level)[..., None]
    x = torch.where(known, x0, alpha * x0 + sigma * epsilon)
    error = network(x, level) - prediction.target(x0, epsilon, alpha, sigma)
    weight = (~known).to(x0.dtype)
    if valid is not None:
        weight = weight * valid[..., None]
    return (weight * error.square()).sum() / weight.sum().clamp(min=1.0)
