"""The training loss, with a noise level for every token."""

from collections.abc import Callable

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from pgdiff.diffusion.loss_weights import LossWeight, UniformWeight
from pgdiff.diffusion.predictions import Prediction
from pgdiff.diffusion.schedules import NoiseSchedule, factors

Signal = Float[Tensor, "batch tokens features"]
Level = Float[Tensor, "batch tokens"]


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
    loss_weight: LossWeight | None = None,
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
        loss_weight: how much an error counts at a level; alike if None.
    """
    level = torch.where(known.all(dim=-1), 0.0, level)
    alpha, sigma = factors(schedule, level)
    x = torch.where(known, x0, alpha * x0 + sigma * epsilon)
    output = network(prediction.scale_input(x, alpha, sigma), level)
    error = output - prediction.target(x0, epsilon, alpha, sigma)
    weight = (loss_weight or UniformWeight()).weight(alpha, sigma, prediction.gain(alpha, sigma))
    counted = (~known).to(x0.dtype)
    if valid is not None:
        counted = counted * valid[..., None]
    # Divided by how many count, not by their weights: a weight is to change the loss.
    return (counted * weight * error.square()).sum() / counted.sum().clamp(min=1.0)
