"""The logarithm of a value, as an energy."""

import math

import torch
from jaxtyping import Float
from torch import Tensor

from pgdiff.validation import PgdiffError


def tangent_log(value: Float[Tensor, " batch"], *, floor: float) -> Float[Tensor, " batch"]:
    """Logarithm that goes on as its tangent below `floor`, so that the gradient never ends.

    Args:
        value: any numbers.
        floor: above 0.
    """
    below = value / floor - 1 + math.log(floor)
    above = value.clamp(min=floor).log()
    return torch.where(value > floor, above, below)


def check_log(name: str, *, least_reward: float | None) -> None:
    """Raise an error if a guide would take the logarithm of values of negative rewards.

    Below the floor the logarithm goes on as a steep line, by which such a guide is hundreds of
    times stronger than its scale says.

    Args:
        name: of the guide.
        least_reward: the least value that is possible, or the least recorded reward; None where
            it is not known.
    """
    if least_reward is not None and least_reward < 0:
        raise PgdiffError(
            f"`transform` of the guide '{name}' must be 'none' where rewards are negative, because "
            f"a logarithm is of values above 0. Got 'log', and rewards down to {least_reward:g}. "
            "Set transform=none and, for a scale that does not depend on the unit of the rewards, "
            "normalize=plan."
        )
