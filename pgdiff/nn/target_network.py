"""Target networks: slowly updated copies that provide the targets of temporal differences."""

import copy
from typing import TypeVar

import torch
from torch import nn

AnyModule = TypeVar("AnyModule", bound=nn.Module)


def target_copy(network: AnyModule) -> AnyModule:
    """Return a copy of a network with frozen parameters.

    Example:
        >>> target = target_copy(nn.Linear(2, 1))
        >>> any(parameter.requires_grad for parameter in target.parameters())
        False
    """
    return copy.deepcopy(network).requires_grad_(False)


@torch.no_grad()
def polyak_update(target: nn.Module, source: nn.Module, tau: float) -> None:
    """Move a target network towards its source: `target <- (1 - tau) target + tau source`.

    Args:
        target: network that is changed in place.
        source: network with equal parameter shapes.
        tau: step, in [0, 1]; larger values follow the source faster.

    Example:
        >>> source = nn.Linear(1, 1, bias=False)
        >>> target = target_copy(source)
        >>> _ = source.weight.data.add_(1.0)
        >>> polyak_update(target, source, tau=0.25)
        >>> round((source.weight - target.weight).item(), 4)
        0.75
    """
    torch._foreach_lerp_(list(target.parameters()), list(source.parameters()), tau)
