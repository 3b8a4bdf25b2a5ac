"""What the values have in common: the space they live in, expectiles, slow copies."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

TINY = 1e-9
"""Least target under a logarithm, in units of a mean reward: what is never paid for."""


def read_value(raw: Tensor, *, log_space: bool) -> Tensor:
    """The value that a network's raw output means."""
    return raw.exp() if log_space else raw


def value_error(raw: Tensor, target: Tensor, *, log_space: bool) -> Tensor:
    """`target - estimate`, of logarithms in log space: relative errors count alike everywhere."""
    return (target.clamp(min=TINY).log() if log_space else target) - raw


def expectile_loss(error: Float[Tensor, " batch"], expectile: float) -> Float[Tensor, ""]:
    """Mean square of `target - estimate`, errors above 0 weighted by `expectile`.

    Kostrikov et al. (2022), eq. 5; the others are weighted by what is left to 1.
    """
    weight = torch.where(error > 0, expectile, 1 - expectile)
    return (weight * error.square()).mean()


def follow(slow: nn.Module, fast: nn.Module, share: float) -> None:
    """Move the weights of `slow` towards those of `fast` by a share of what is between them."""
    for behind, ahead in zip(slow.parameters(), fast.parameters(), strict=True):
        behind.lerp_(ahead, share)
