"""The lambda-return of a plan: what it is worth, cut off after one token, two, and so on."""

import torch
from jaxtyping import Float
from torch import Tensor


def lambda_return(
    rewards: Float[Tensor, "batch transitions"],
    values: Float[Tensor, "batch transitions"],
    *,
    discount: float,
    trace: float,
) -> Float[Tensor, " batch"]:
    """Return `G_0` of `G_k = r_k + discount ((1 - trace) V_k+1 + trace G_k+1)`, `G_K = V_K`.

    Sutton & Barto (2018), eq. 12.2-3 and 12.20: a mixture of the returns after one, two, ...
    transitions, each ended by the value where it is cut. With `trace` 1 only the last value counts,
    with 0 only the first.

    Args:
        rewards: of each transition.
        values: of the state that each transition leads to.
        discount: of one transition (not of one environment step).
        trace: lambda, in [0, 1].
    """
    count = rewards.shape[1]
    decay = discount * trace
    power = torch.arange(count, device=rewards.device, dtype=rewards.dtype)
    cut = decay**power * (rewards + discount * (1 - trace) * values)
    total: Tensor = cut.sum(dim=1) + decay**count * values[:, -1]
    return total
